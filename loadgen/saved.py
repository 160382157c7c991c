"""A saved run: its folder, opened lazily.  Nothing is read before it is used, and columns are mapped, not read.

What reports, comparisons and exports know of a run comes from here.  Nothing is measured, and every figure is made by
the function that made it when the run ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from drumfire.loadgen import logs, series, summary, trace
from drumfire.loadgen.directory import COLUMNS, ENVIRONMENT, REPORT, RESULT, SETTINGS, figures
from drumfire.loadgen.errors import UserError, one_line
from drumfire.loadgen.flat_columns import Ragged, load_flat_columns
from drumfire.loadgen.record import Column, RowArray, Status, load_columns
from drumfire.loadgen.results import Measured, Results, evaluate
from drumfire.loadgen.series import Series
from drumfire.loadgen.settings import EffectiveSettings, Mode, Scenario, TestSettings
from drumfire.loadgen.traffic import accuracy_rows

_LOGS = (summary.SUMMARY, logs.DETAIL, logs.ACCURACY, trace.TRACE)
S = TypeVar("S", TestSettings, EffectiveSettings)


class SavedRun:
    """A run's folder.  Raises ``UserError`` when a part is used that is not there or cannot be read.

    Times are ns, as in the result and the columns.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"<SavedRun {self.folder}: {self._in_short()}>"

    @property
    def unfinished(self) -> bool:
        """Whether the run ended before all of it was saved: there is no result, but other parts may be there."""
        return not (self.folder / RESULT).is_file()

    @cached_property
    def result(self) -> dict[str, Any]:
        """The result document, whose schema is ``bench/result.schema.json``."""
        if self.unfinished:
            raise UserError(f"{self.folder} is unfinished, it has no {RESULT}: do the run again")
        found = self._json(RESULT)
        if not isinstance(found, dict) or "validity" not in found:
            raise UserError(f"{self.folder / RESULT} does not hold a run's result")
        return found

    @property
    def valid(self) -> bool:
        return bool(self.result["validity"] == "VALID")

    @cached_property
    def requested(self) -> TestSettings:
        return self._settings("requested", TestSettings)

    @cached_property
    def effective(self) -> EffectiveSettings:
        return self._settings("effective", EffectiveSettings)

    @cached_property
    def environment(self) -> dict[str, Any] | None:
        """The machine and the versions; None where the program that saved the run did not say."""
        found: dict[str, Any] | None = self._json(ENVIRONMENT)
        return found

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The table by column: issued rows, mapped read-only; empty where it was not saved."""
        try:
            return load_columns(self.folder / COLUMNS)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder / COLUMNS} cannot be read: {error}") from None

    @cached_property
    def flat_columns(self) -> dict[str, Ragged]:
        """The columns of several values a row, mapped read-only."""
        try:
            return load_flat_columns(self.folder / COLUMNS)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder / COLUMNS} cannot be read: {error}") from None

    @cached_property
    def series(self) -> dict[str, Series]:
        """Figures with a clock of their own, by name, mapped read-only."""
        try:
            return series.load(self.folder)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{self.folder / series.FOLDER} cannot be read: {error}") from None

    @cached_property
    def logs(self) -> dict[str, Path]:
        """The log files that are there, by name."""
        return {name: self.folder / name for name in _LOGS if (self.folder / name).is_file()}

    @property
    def report(self) -> str:
        """The report as the run printed it, in 80 columns."""
        return self._text(REPORT)

    @cached_property
    def measured(self) -> Measured | None:
        """The columns of the performance phase; None where it issued no query."""
        rows, width = self._performance
        if width == 0:
            return None
        tokens = self.effective.use_token_latencies and {"first_token", "n_tokens"} <= self.columns.keys()
        return Measured.of(self.columns, rows, width, tokens=tokens)

    @cached_property
    def results(self) -> Results | None:
        """Statistics and verdict, computed again from the columns; None without a performance phase."""
        if self.measured is None:
            return None
        found = evaluate(self.effective, self.measured)
        spoiled = ["The run is unfinished."]
        if not self.unfinished:
            checks = self.result["checks"]
            spoiled = [] if checks["no_errors"] else [r for r in self.result["reasons"] if r not in found.reasons]
        return evaluate(self.effective, self.measured, spoiled) if spoiled else found

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The document's ``metric``, ``latency_ns``, ``query_latency_ns`` and ``lateness_ns``, made again from the
        columns; empty without a performance phase.
        """
        if self.results is None or self.measured is None:
            return {}
        return figures(self.effective, self.results, self.measured, self.columns, self._streams())

    @cached_property
    def _performance(self) -> tuple[slice | RowArray, int]:
        """The performance phase's rows, whole queries only, and the samples of a query; 0 where it issued none."""
        settings = self.effective
        status = self.columns.get("status")
        if status is None:
            raise UserError(f"{self.folder} has no columns, so its figures are only in {RESULT}")
        first = 0
        if settings.mode == Mode.SubmissionRun:
            first = accuracy_rows(settings, settings.accuracy_sample_count)
        elif settings.mode == Mode.AccuracyOnly:
            first = status.size
        known = status[first:] != Status.MISSING  # with several generators, some may have been lost
        issued = int(np.count_nonzero(known))
        # Offline has a single query.
        width = issued if settings.scenario == Scenario.Offline else min(settings.samples_per_query, issued)
        if issued == known.size:
            return slice(first, first + (issued // width * width if width else 0)), width
        return first + np.flatnonzero(known), width

    def _streams(self) -> list[slice | RowArray]:
        """The same rows, split by closed loop: each generator may have had its own."""
        rows, width = self._performance
        hosts = None if self.unfinished else self.result.get("hosts")
        if hosts is None or not hosts["independent_streams"]:
            return [rows]
        numbers, parts = np.arange(self.columns["status"].size)[rows], len(hosts["generators"])
        return [numbers[numbers // width % parts == part] for part in range(parts)]

    def _settings(self, part: str, kind: type[S]) -> S:
        """Those of an older or newer version too, as long as nothing is missing that has no default."""
        try:
            saved = dict(self._json(SETTINGS)[part])
            saved |= {"scenario": Scenario[saved["scenario"]], "mode": Mode[saved["mode"]]}
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{self.folder / SETTINGS} does not hold a run's settings") from None
        known = {field.name: field for field in fields(kind)}
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items() if name in known}
        lacking = [name for name, field in known.items() if field.default is MISSING and name not in values]
        if lacking:
            raise UserError(f"{self.folder / SETTINGS} lacks {', '.join(lacking)}: another version saved it")
        make: Callable[..., S] = kind
        return make(**values)

    def _text(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder / name} cannot be read: {one_line(error)}") from None

    def _json(self, name: str) -> Any:
        text = self._text(name)
        try:
            return json.loads(text)
        except ValueError as error:
            raise UserError(f"{self.folder / name} is not JSON: {error}") from None

    def _in_short(self) -> str:
        if self.unfinished:
            return "unfinished"
        try:
            result = self.result
        except UserError as error:
            return str(error)
        metric = result["metric"]
        value = "" if metric is None else f", {_number(metric['value'])} {metric['unit']} ({metric['name']})"
        return f"{result['validity']}, {result['sut_name']}, {result['scenario']} {result['mode']}{value}"


def load(folder: str | os.PathLike[str]) -> SavedRun:
    """Open a run's folder, also one that an older version saved, or that is unfinished.  Raises ``UserError``."""
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"{path} is no folder: name the folder of a run")
    if not any((path / name).exists() for name in (RESULT, SETTINGS, COLUMNS)):
        raise UserError(f"{path} is not the folder of a run: it has no {RESULT}, {SETTINGS} or {COLUMNS}/")
    return SavedRun(path.absolute())


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
