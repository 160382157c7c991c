"""How a figure of two sides is compared: a run each by their parts, several each by one number a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from drumfire.bench.compare import intervals
from drumfire.bench.compare.doubts import Side
from drumfire.bench.compare.intervals import Interval, none, too_few
from drumfire.bench.compare.subject import MEAN, RATE, Subject, percentile

_LEAST_QUERIES, _LEAST_BATCHES = 1000, 3000
_LEAST_NEIGHBOURS = 4
"""Pairs of runs from which their differences are judged."""
_BETWEEN = 2.0
"""Standard deviations between runs, in standard errors within one, above which longer runs would not help."""


@dataclass(frozen=True)
class Row:
    """A figure of both sides."""

    name: str
    a: float | None
    """In ns or 1/s; None where there is none.  Of several runs, the geometric mean."""
    b: float | None
    ratio: float | None
    """B/A."""
    low: float | None
    """Of the ratio's interval at 95 %; None: open, or none."""
    high: float | None
    method: str
    note: str
    """Why there is no interval, or an open one."""
    needs: str = ""
    """What would make it closed, where that is known."""

    @property
    def interval(self) -> Interval:
        return Interval(self.low, self.high, self.note, self.needs)


def same_schedule(a: Subject, b: Subject) -> bool:
    """Whether both have the same queries at the same times, as far as the shorter one goes."""
    rows = min(a.measured.scheduled.size, b.measured.scheduled.size)
    return rows > 0 and bool(np.array_equal(a.measured.scheduled[:rows], b.measured.scheduled[:rows]))


@dataclass(frozen=True)
class Pairing:
    """How the figures of two sides are compared."""

    a: Side
    b: Side

    @classmethod
    def of(cls, a: Side, b: Side) -> Pairing:
        return (Runs if len(a) > 1 or len(b) > 1 else Parts)(a, b)

    @property
    def lines(self) -> list[str]:
        """What of it makes the comparison doubtful."""
        return []

    def row(self, figure: str) -> Row:
        a, b = (intervals.mean_of_runs([run.value(figure) for run in side]) for side in (self.a, self.b))
        if a is None or b is None:
            return Row(figure, a, b, None, None, None, "", "not a figure of both")
        interval, method = self.interval(figure, b / a)
        return Row(figure, a, b, b / a, interval.low, interval.high, method, interval.why, interval.needs)

    @property
    def fewer(self) -> int:
        """The runs of the side that has fewer."""
        return min(len(self.a), len(self.b))

    def interval(self, figure: str, ratio: float) -> tuple[Interval, str]:
        """Of the ratio, and by which method."""
        raise NotImplementedError


class Parts(Pairing):
    """A run a side."""

    @property
    def lines(self) -> list[str]:
        a, b = self.a[0], self.b[0]
        if not (a.has_rows and b.has_rows):
            return ["a side has no columns, so that a single run of it has no interval"]
        if a.on_schedule and not self.is_paired:
            return ["the schedules differ: other load or seeds, or a generator was lost"]
        if a.last is not None:
            return [f"one run is longer: of both, the first {a.last:,} queries are compared"]
        return []

    @cached_property
    def is_paired(self) -> bool:
        a, b = self.a[0], self.b[0]
        return not a.on_schedule or (a.measured.queries == b.measured.queries and same_schedule(a, b))

    def interval(self, figure: str, ratio: float) -> tuple[Interval, str]:
        a, b = self.a[0], self.b[0]
        if not (a.has_rows and b.has_rows):
            return none("no columns"), ""
        if figure == RATE:
            if not (a.saturated or b.saturated):
                return none("set by --qps, as both kept up"), ""
            if (batches := min(a.batches, b.batches)) < _LEAST_BATCHES:
                return too_few("batches", batches, _LEAST_BATCHES), ""
            return _of_times(intervals.paired_means(a.durations, b.durations, 1 / ratio)), "16 parts"
        if (queries := min(a.queries, b.queries)) < _LEAST_QUERIES:
            return too_few("queries", queries, _LEAST_QUERIES), ""
        if not self.is_paired:
            each = [of_latency(run, figure, by_time=True) for run in (a, b)]
            values = [run.value(figure) or math.nan for run in (a, b)]
            return intervals.unpaired(each[0], each[1], values[0], values[1]), "16 parts each"
        if figure == MEAN:
            return intervals.paired_means(a.by_rows.means, b.by_rows.means, ratio), "16 pairs"
        p = percentile(figure)
        assert p is not None
        return intervals.paired(a.by_rows, b.by_rows, p, ratio), "16 pairs"


class Runs(Pairing):
    """Several runs a side."""

    @cached_property
    def order(self) -> str:
        """The sides by the start of their runs, as ``ABBA``; empty where it is not known."""
        starts = [
            (one.result.get("started") or "", side) for side, runs in (("A", self.a), ("B", self.b)) for one in runs
        ]
        return "".join(side for _, side in sorted(starts)) if all(start for start, _ in starts) else ""

    @property
    def lines(self) -> list[str]:
        if len(self.a) > 1 and len(self.b) > 1 and not self._pairs:
            return [f"not interleaved ({self.order or 'order not known'}): drift is not excluded"]
        return []

    @cached_property
    def _pairs(self) -> list[str]:
        """The order of each two neighbours, where these are a run of either side."""
        pairs = [self.order[place : place + 2] for place in range(0, len(self.order), 2)]
        return pairs if set(pairs) <= {"AB", "BA"} else []

    def interval(self, figure: str, ratio: float) -> tuple[Interval, str]:
        logs = [[math.log(run.value(figure) or math.nan) for run in self._by_start(side)] for side in (self.a, self.b)]
        if any(math.isnan(log) for side in logs for log in side):
            return none("not a figure of all runs"), ""
        # Of ABAB, a drift would be part of every difference.
        balanced = abs(self._pairs.count("AB") - self._pairs.count("BA")) <= 1
        if len(self._pairs) >= _LEAST_NEIGHBOURS and balanced:
            return intervals.of_runs(np.subtract(logs[1], logs[0]).tolist()), f"{len(self._pairs)} neighbours"
        return intervals.welch(*logs), f"{len(self.a)} and {len(self.b)} runs"

    @staticmethod
    def _by_start(side: Side) -> Side:
        return sorted(side, key=lambda one: one.result.get("started") or "")

    def differ_more_than_within(self, figure: str) -> bool:
        """Whether runs of a side differ by more than what one of them leaves open."""
        spreads, within = [], []
        for side in (self.a, self.b):
            spreads.append(
                float(np.std([math.log(run.value(figure) or 1.0) for run in side])) if len(side) > 1 else 0.0
            )
            within += [of_subject(run, figure) for run in side if run.has_rows]
        errors = [one.half_width / intervals.t_quantile(15) for one in within if one.closed]
        return bool(errors) and max(spreads) > _BETWEEN * float(np.median(errors))


def of_latency(run: Subject, figure: str, *, by_time: bool = False) -> Interval:
    """Of one run's mean or percentile."""
    value = run.value(figure)
    if value is None or run.queries < _LEAST_QUERIES:
        return too_few("queries", run.queries, _LEAST_QUERIES)
    counted = run.by_time if by_time else run.by_rows
    if figure == MEAN:
        return intervals.of_mean(counted.means, value)
    p = percentile(figure)
    assert p is not None
    return intervals.of_quantile(counted, p, value)


def of_subject(run: Subject, figure: str) -> Interval:
    """The interval at about 95 % of one run's ``rate``, ``mean`` or percentile, in 1/s or ns."""
    if not run.has_rows or (figure != RATE and run.is_offline):
        return none("no columns" if not run.has_rows else "all is due at once")
    if figure != RATE:
        return of_latency(run, figure)
    if not run.saturated:
        return none("set by --qps, as it kept up")
    if run.batches < _LEAST_BATCHES:
        return too_few("batches", run.batches, _LEAST_BATCHES)
    rate = run.value(RATE)
    return none("no rate") if rate is None else _of_times(intervals.of_mean(run.durations, 1 / rate))


def _of_times(interval: Interval) -> Interval:
    """Of a rate, from that of the time that it takes."""
    low, high = (None if end is None else 1 / end for end in (interval.high, interval.low))
    return Interval(low, high, interval.why, interval.needs)
