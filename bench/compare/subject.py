"""One run as it is compared: its exact figures, and its blocks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np

from drumfire.bench.compare import blocks
from drumfire.bench.compare.blocks import Blocks, Floats
from drumfire.loadgen.draws import Int64Array
from drumfire.loadgen.errors import UserError, nearest
from drumfire.loadgen.record import Column
from drumfire.loadgen.results import Measured, distribution, judged_latency, latencies, query_latencies
from drumfire.loadgen.settings import CLOSED_LOOP, Scenario, percentile_name

RATE, MEAN = "rate", "mean"
SHOWN = (RATE, MEAN, "p50", "p90", "p99", "p99.9")
"""The figures of a comparison."""
_JUDGED = {
    Scenario.SingleStream.name: "p90",
    Scenario.MultiStream.name: "p99",
    Scenario.Server.name: "p99",
    Scenario.Offline.name: RATE,
    CLOSED_LOOP: RATE,
}
_PERCENTILE = re.compile(r"p\(?([0-9]{1,2}(?:\.[0-9]{1,6})?)\)?")
SATURATED = 0.98
"""A server that delivers a smaller share of the requested rate is saturated."""


class Run(Protocol):
    """What a comparison needs of a run, which is saved or has just ended."""

    @property
    def result(self) -> dict[str, Any]: ...
    @property
    def measured(self) -> Measured | None: ...
    @property
    def columns(self) -> Mapping[str, Column]: ...


_Run = TypeVar("_Run", bound=Run)


@dataclass(frozen=True)
class EndedRun:
    """A run that has ended and is not saved yet, or not wholly."""

    result: dict[str, Any]
    measured: Measured | None
    columns: Mapping[str, Column]


def percentile(figure: str) -> float | None:
    """The share that a name such as ``p99.9`` or ``p(99)`` stands for; None for other names, and for p0."""
    found = _PERCENTILE.fullmatch(figure)
    return round(float(found[1]) / 100, 9) or None if found else None  # as 0.999 is written, which 99.9 / 100 is not


def share_of(figure: str) -> float:
    """The share that the name of a percentile stands for."""
    p = percentile(figure)
    assert p is not None
    return p


def figure_named(word: str) -> str:
    """The figure of this name that can be compared, as ``SHOWN`` writes it.  Raises ``UserError``."""
    if (p := percentile(word)) is not None:
        return percentile_name(p)
    if word not in (RATE, MEAN):
        raise UserError(
            f"{word[:60]!r} is not a figure that can be compared{nearest(word[:60], SHOWN)}: {', '.join(SHOWN)}, "
            "any pNN"
        )
    return word


def check_figure(scenario: str, figure: str) -> None:
    """Raise ``UserError`` for a figure that no run of the scenario has."""
    if scenario == Scenario.Offline.name and figure != RATE:
        raise UserError(
            f"Offline has no {figure}, as all its samples are due at once: of rate, mean and percentiles, it has rate"
        )


def identity(run: Run) -> str:
    """A text that only this run has; a copy of its folder, a link to it and its result alone have the same."""
    if run.result.get("started"):
        return json.dumps(run.result, sort_keys=True)
    folder = getattr(run, "folder", None)
    return str(id(run)) if folder is None else str(folder.resolve())


def distinct(runs: Sequence[_Run]) -> list[_Run]:
    """Each run once, however often and by whatever paths it is named."""
    found: dict[str, _Run] = {}
    for run in runs:
        found.setdefault(identity(run), run)
    return list(found.values())


def of_side(runs: Sequence[Run]) -> list[Subject]:
    return [Subject(run, str(getattr(run, "folder", "this run"))) for run in distinct(runs)]


@dataclass(frozen=True)
class Subject:
    """A run, and which of its queries are compared."""

    run: Run
    name: str
    """Its folder or file."""
    first: int = 0
    """The number of queries at its start that are left out."""
    last: int | None = None
    """The first query after those that are compared; None: there is none."""

    @property
    def result(self) -> dict[str, Any]:
        return self.run.result

    @property
    def scenario(self) -> str:
        name = str(self.result.get("scenario"))
        if name not in _JUDGED:
            raise UserError(f"{self.name} does not hold a run's result: its scenario is {name!r}")
        return name

    @property
    def judged(self) -> str:
        """The figure by which its scenario is judged."""
        return _JUDGED[self.scenario]

    @property
    def is_offline(self) -> bool:
        """Whether all samples are due at once, so that a latency only says when the sample was answered."""
        return self.scenario == Scenario.Offline.name

    @property
    def on_schedule(self) -> bool:
        """Whether its queries were due by a schedule, and not by the answers to earlier ones."""
        return not self.is_offline and bool(self._asked.get("qps"))

    @property
    def _asked(self) -> Mapping[str, Any]:
        return self.result.get("asked") or {}

    @property
    def latency_ns(self) -> Mapping[str, Any]:
        """The latency by which the run is judged, as its result has it: in MultiStream that of whole queries."""
        return judged_latency(self.result)

    @property
    def has_rows(self) -> bool:
        return bool(self.run.columns) and self.run.measured is not None

    @cached_property
    def measured(self) -> Measured:
        """The rows that are compared."""
        every = self.run.measured
        assert every is not None
        if self.whole:
            return every
        return every.part(self.first, every.queries if self.last is None else self.last)

    @property
    def whole(self) -> bool:
        return self.first == 0 and self.last is None

    @property
    def queries(self) -> int:
        """The number of queries that are compared."""
        return self.measured.queries if self.has_rows else int((self.result.get("delivered") or {}).get("queries", 0))

    def cut(self, first: int = 0, last: int | None = None) -> Subject:
        """The run with the queries from ``first`` up to ``last`` only."""
        return replace(self, first=first, last=last)

    def queries_before(self, seconds: float) -> int:
        """The number of queries scheduled in the first ``seconds``; in a closed loop, issued."""
        due = self.measured.scheduled[:: self.measured.samples_per_query]
        return int(np.count_nonzero(due < seconds * 1e9))

    def value(self, figure: str) -> float | None:
        """The exact figure, in ns or 1/s; None where the run has none, as without a single answer."""
        found = self._value(figure)
        return found if found is not None and found > 0 else None

    def _value(self, figure: str) -> float | None:
        if figure == RATE:
            return self._rate
        if self.is_offline:
            return None
        if self.whole and figure in self.latency_ns:
            return float(self.latency_ns[figure])
        if not self.has_rows:
            return None
        if figure not in self._figures:
            p = share_of(figure)
            self._figures[figure] = float(distribution(self._latencies, (p,)).percentiles[p])
        return self._figures[figure]

    @cached_property
    def _figures(self) -> dict[str, float]:
        """Figures by name, from the rows; others are added when they are needed."""
        shares = {name: p for name in SHOWN if (p := percentile(name)) is not None}
        found = distribution(self._latencies, list(shares.values()))
        return {MEAN: float(found.mean)} | {name: float(found.percentiles[p]) for name, p in shares.items()}

    @property
    def _latencies(self) -> Int64Array:
        return self.latencies_of(self.measured)

    @property
    def latencies_of(self) -> Callable[[Measured], Int64Array]:
        """The function that computes the latencies, ns, of rows."""
        return query_latencies if self.result.get("query_latency_ns") else latencies

    @cached_property
    def _rate(self) -> float | None:
        if self.whole:
            rate = (self.result.get("delivered") or {}).get("samples_per_second")
            return None if rate is None else float(rate)
        m = self.measured
        done = m.completed[m.answered]
        took = int(done.max()) - int(m.issued.min()) if done.size else 0
        return done.size * 1e9 / took if took > 0 else None

    @property
    def saturated(self) -> bool:
        """Whether its rate is its own; in Server, the rate is the schedule's until the system is saturated."""
        return not self.on_schedule or self._rate is None or self._rate < SATURATED * self._asked["qps"]

    @cached_property
    def batches(self) -> int:
        """The number of batches in which its samples were computed; where that is not known, of its samples."""
        sizes = (self.result.get("system") or {}).get("batch_sizes")
        return sum(sizes.values()) if sizes else self.measured.issued.size

    @cached_property
    def by_rows(self) -> Blocks:
        return blocks.counted(self.measured, blocks.by_rows(self.queries), self.latencies_of)

    @cached_property
    def by_time(self) -> Blocks:
        return blocks.counted(self.measured, blocks.by_time(self.measured), self.latencies_of)

    @cached_property
    def durations(self) -> Floats:
        return blocks.durations(self.measured)


Side = Sequence[Subject]
