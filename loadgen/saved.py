"""A saved run: its folder, opened lazily.  Nothing is read before it is used, and columns are mapped, not read.

What reports, comparisons and exports know of a run comes from here.  Nothing is measured, and every figure is made by
the function that made it when the run ended.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from drumfire.loadgen import logs, series, summary, trace
from drumfire.loadgen.advice import OPTIONS
from drumfire.loadgen.claim import is_claimed
from drumfire.loadgen.directory import COLUMNS, ENVIRONMENT, REPORT, RESULT, SETTINGS, UNFINISHED, figures
from drumfire.loadgen.errors import UserError, printable
from drumfire.loadgen.files import read_json, read_text
from drumfire.loadgen.flat_columns import Ragged, load_flat_columns
from drumfire.loadgen.record import (
    BASE_COLUMNS,
    Column,
    RowArray,
    Status,
    by_stream,
    check_rows,
    has_tokens,
    load_columns,
)
from drumfire.loadgen.results import Measured, Results, evaluate
from drumfire.loadgen.series import Series
from drumfire.loadgen.settings import EffectiveSettings, Mode, Scenario, TestSettings
from drumfire.loadgen.traffic import accuracy_rows

_LOGS = (summary.SUMMARY, logs.DETAIL, logs.ACCURACY, trace.TRACE)
S = TypeVar("S", TestSettings, EffectiveSettings)
_NUMBER, _WORD = {"type": ["number", "boolean"]}, {"type": "string"}
_TYPES: Mapping[str, Any] = {
    "Scenario": _WORD,
    "Mode": _WORD,
    "int": _NUMBER,  # as the user wrote it, such as 1e6
    "float": _NUMBER,
    "bool": _NUMBER,
    "tuple[str, ...]": {"type": "array", "items": _WORD},
}
"""What a setting is in JSON, by its type."""
_SETTINGS = {
    "type": "object",
    "properties": {
        name: {"type": "object", "properties": {field.name: _TYPES[str(field.type)] for field in fields(kind)}}
        for name, kind in (("requested", TestSettings), ("effective", EffectiveSettings))
    },
}
_COUNTS = ("issued", "ok", "failed", "unanswered", "missing")
_ENDED: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "seen": _WORD,
        **{name: {"type": "integer"} for name in (*_COUNTS, "generators")},
        "unsaved": {"type": ["string", "null"]},
    },
}
_SUBJECT = ("command", "sut_name", "system")
_LEAST: Mapping[str, float] = {
    "samples_per_query": 1,
    "performance_sample_count": 1,
    "accuracy_sample_count": 0,
    "concurrency": 0,
    "think_time_ns": 0,
    "qsl_rng_seed": -math.inf,
}
"""Effective settings by which rows are counted, so that they are whole numbers, and the least of each."""


_MOST_GENERATORS = 1_000_000
"""A greater number was not written by a run."""


class SavedRun:
    """A run's folder.  Raises ``UserError`` when a part is used that is not there or cannot be read.

    Times are ns, as in the result and the columns.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return printable(f"<SavedRun {self.folder}: {self._in_short()}>")

    @property
    def unfinished(self) -> bool:
        """Whether the run ended before all of it was saved: there is no result, but other parts may be there."""
        return not os.path.isfile(self.folder / RESULT)

    @property
    def under_way(self) -> bool:
        """Whether a process holds the folder by a lock (``flock``), to measure or to save."""
        return is_claimed(self.folder)

    @cached_property
    def ended(self) -> dict[str, Any] | None:
        """How a run was found whose process ended before it had saved; None where that did not happen or nobody saw it.

        ``seen`` is when, as ISO text.  ``issued``, ``ok``, ``failed``, ``unanswered`` and ``missing`` count samples, by
        the states of the column ``status``.  ``unsaved`` says why columns are not there, or is None.
        """
        if not (self.folder / UNFINISHED).exists():
            return None
        found: dict[str, Any] = read_json(self.folder / UNFINISHED, _ENDED)
        if lacking := [name for name in _ENDED["properties"] if name not in found]:
            raise UserError(f"{self.folder / UNFINISHED} lacks {', '.join(lacking)}")
        if not 1 <= found["generators"] <= _MOST_GENERATORS:
            raise UserError(
                f"{self.folder / UNFINISHED} does not hold how a run ended: generators is {found['generators']}"
            )
        return found

    @cached_property
    def result(self) -> dict[str, Any]:
        """The result document, whose schema is ``loadgen/result.schema.json``.

        What there is has the schema's types; other versions may have had fewer keys, or more.
        """
        if self.unfinished:
            raise UserError(
                f"{self.folder} is unfinished, it has no {RESULT}: do the run again; drumfire show tells what "
                "is there, in Python its figures"
            )
        return read_result(self.folder / RESULT)

    @property
    def valid(self) -> bool:
        return bool(self.result["validity"] == "VALID")

    @cached_property
    def subject(self) -> dict[str, Any]:
        """The result's ``command``, ``sut_name`` and ``system``; as far as known where it is unfinished."""
        if self.unfinished:
            if not (self.folder / SETTINGS).exists():
                return {}
            declared = {name: _result_schema()["properties"][name] for name in _SUBJECT}
            found = read_json(self.folder / SETTINGS, dict(_result_schema()) | {"properties": declared})
        else:
            found = self.result
        return {name: found[name] for name in _SUBJECT if found.get(name) is not None}

    @cached_property
    def requested(self) -> TestSettings:
        return self._settings("requested", TestSettings)

    @cached_property
    def effective(self) -> EffectiveSettings:
        found = self._settings("effective", EffectiveSettings)
        counts = {name: (getattr(found, name), least) for name, least in _LEAST.items()}
        wrong = [name for name, (count, least) in counts.items() if type(count) is not int or count < least]
        if not 0 < found.target_latency_percentile < 1:
            wrong.append("target_latency_percentile")
        if wrong:
            raise self._no_settings(f"effective.{wrong[0]} is {getattr(found, wrong[0])}")
        return found

    @cached_property
    def environment(self) -> dict[str, Any] | None:
        """The machine and the versions; None where the program that saved the run did not say."""
        declared = _result_schema()["properties"]["environment"]
        found: dict[str, Any] | None = read_json(self.folder / ENVIRONMENT, declared | {"type": ["object", "null"]})
        return found

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The table by column: issued rows, mapped read-only; empty where it was not saved."""
        return load_columns(self.folder / COLUMNS)

    @cached_property
    def flat_columns(self) -> dict[str, Ragged]:
        """The columns of several values a row, mapped read-only."""
        flat = load_flat_columns(self.folder / COLUMNS)
        rows = {name: column.size for name, column in self.columns.items()}
        check_rows(self.folder / COLUMNS, rows | {name: len(column) for name, column in flat.items()})
        return flat

    @cached_property
    def series(self) -> dict[str, Series]:
        """Figures with a clock of their own, by name, mapped read-only."""
        return series.load(self.folder)

    @cached_property
    def logs(self) -> dict[str, Path]:
        """The log files that are there, by name."""
        return {name: self.folder / name for name in _LOGS if (self.folder / name).is_file()}

    @property
    def report(self) -> str:
        """The report as the run printed it, in 80 columns."""
        return read_text(self.folder / REPORT)

    @cached_property
    def measured(self) -> Measured | None:
        """The columns of the performance phase; None where it issued no query."""
        rows, width = self._performance
        if width == 0:
            return None
        tokens = self.effective.use_token_latencies and has_tokens(self.columns)
        return Measured.of(self.columns, rows, width, tokens=bool(tokens))

    def measured_column(self, name: str) -> Column | None:
        """The rows of a column that ``measured`` has, shape (n,); None where the run has no such column."""
        return self.columns[name][self._performance[0]] if name in self.columns else None

    @cached_property
    def results(self) -> Results | None:
        """Statistics and verdict, computed again from the columns; None without a performance phase."""
        if self.measured is None:
            return None
        knobs = None
        if not self.unfinished and (self.result.get("system") or {}).get("backend"):
            knobs = OPTIONS  # the command's, and not a program's own
        found = evaluate(self.effective, self.measured, knobs=knobs)
        spoiled = ["The run is unfinished."]
        if not self.unfinished:
            known = {*found.reasons, *found.recommendations}  # earlier versions gave these, and a hint
            reasons = self.result.get("reasons", ())
            given = [r for r in reasons if r not in known and not r.startswith("Early stopping: ")]
            spoiled = [] if (self.result.get("checks") or {}).get("no_errors") else given
        return evaluate(self.effective, self.measured, spoiled, knobs) if spoiled else found

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The document's ``metric``, ``latency_ns``, ``query_latency_ns``, ``lateness_ns`` and, where requests were
        sent, ``sent_lateness_ns``, made again from the columns; empty without a performance phase.
        """
        if self.results is None or self.measured is None:
            return {}
        return figures(self.effective, self.results, self.measured, self.columns, self._streams())

    @cached_property
    def _performance(self) -> tuple[slice | RowArray, int]:
        """The performance phase's rows, whole queries only, and the samples of a query; 0 where it issued none."""
        settings = self.effective
        if not self.columns:
            what = f"and no {RESULT}" if self.unfinished else f"so its figures are only in {RESULT}"
            raise UserError(f"{self.folder} has no columns, {what}")
        if lacking := [f"{name}.npy" for name in BASE_COLUMNS if name not in self.columns]:
            raise UserError(f"{self.folder / COLUMNS} lacks {', '.join(lacking)}")
        status = self.columns["status"]
        first = self.accuracy_rows
        offline = settings.scenario == Scenario.Offline  # which has a single query
        known = status[first:] != Status.MISSING  # with several generators, some may have been lost
        issued = int(np.count_nonzero(known))
        width = issued if offline else min(settings.samples_per_query, issued)
        if width > 1 and not offline:
            known = np.repeat(known[: known.size // width * width].reshape(-1, width).all(axis=1), width)
        if not known.any():
            return slice(first, first), 0
        return slice(first, first + known.size) if known.all() else first + np.flatnonzero(known), width

    @property
    def accuracy_rows(self) -> int:
        """How many rows are of the run's accuracy phases, which come first."""
        settings, rows = self.effective, next((column.size for column in self.columns.values()), 0)
        if settings.mode not in (Mode.SubmissionRun, Mode.AccuracyOnly):
            return 0
        if settings.mode == Mode.AccuracyOnly or max(settings.accuracy_sample_count, settings.query_width) >= rows:
            return rows
        return accuracy_rows(settings, settings.accuracy_sample_count)

    def _streams(self) -> list[slice | RowArray]:
        """The same rows, split by closed loop: each generator may have had its own."""
        rows, _ = self._performance
        if self.unfinished:
            streams = 1 if self.ended is None else self.ended["generators"]
        else:
            hosts = self.result.get("hosts", {})
            streams = len(hosts.get("generators", ())) if hosts.get("independent_streams") else 1
        return by_stream(rows, self.columns["status"].size, self.effective.samples_per_query, streams)

    def _settings(self, part: str, kind: type[S]) -> S:
        """Those of an older or newer version too, as long as nothing is missing that has no default."""
        saved = read_json(self.folder / SETTINGS, _SETTINGS).get(part, {})
        for name, names in (("scenario", Scenario.__members__), ("mode", Mode.__members__)):
            if saved.get(name) not in names:
                raise self._no_settings(f"{part}.{name} is {saved.get(name)!r}")
            saved[name] = names[saved[name]]
        known = {field.name: field for field in fields(kind)}
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items() if name in known}
        lacking = [name for name, field in known.items() if field.default is MISSING and name not in values]
        if lacking:
            raise UserError(f"{self.folder / SETTINGS} lacks {', '.join(lacking)}: another version saved it")
        make: Callable[..., S] = kind
        return make(**values)

    def _no_settings(self, why: str) -> UserError:
        return UserError(f"{self.folder / SETTINGS} does not hold a run's settings: {why}")

    def _in_short(self) -> str:
        if self.unfinished:
            return "unfinished"
        try:
            result = self.result
        except UserError as error:
            return str(error)
        kind = " ".join(result[name] for name in ("scenario", "mode") if name in result)
        metric = result.get("metric") or {}
        value = ""
        if {"value", "unit", "name"} <= metric.keys():
            value = f"{_number(metric['value'])} {metric['unit']} ({metric['name']})"
        return ", ".join(filter(None, (result["validity"], result.get("sut_name"), kind, value)))


def read_result(path: Path) -> dict[str, Any]:
    """A result document.  What there is has the schema's types.  Raises ``UserError``."""
    found: dict[str, Any] = read_json(path, _result_schema())
    if found.get("validity") not in ("VALID", "INVALID"):
        raise UserError(f"{path} does not hold a run's result: its validity is not VALID or INVALID")
    return found


def is_run(folder: Path) -> bool:
    """Whether the folder holds any part by which ``load`` knows a run."""
    return any(os.path.exists(folder / name) for name in (RESULT, SETTINGS, COLUMNS))


def load(folder: str | os.PathLike[str]) -> SavedRun:
    """Open a run's folder, also one that an older version saved, or that is unfinished.  Raises ``UserError``."""
    path = Path(folder)
    if not os.path.isdir(path):
        raise UserError(f"{path} is no folder: name the folder of a run")
    if not is_run(path):
        raise UserError(f"{path} is not the folder of a run: it has no {RESULT}, {SETTINGS} or {COLUMNS}/")
    return SavedRun(path.absolute())


@cache
def _result_schema() -> Mapping[str, Any]:
    text = Path(__file__).with_name("result.schema.json").read_text(encoding="utf-8")
    schema: Mapping[str, Any] = json.loads(text)
    return schema


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
