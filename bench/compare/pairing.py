"""How a figure of two sides is compared: a run each by their parts, several each by one number a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from drumfire.bench.compare import intervals
from drumfire.bench.compare.intervals import Interval, longer, no_interval
from drumfire.bench.compare.subject import MEAN, RATE, Side, Subject, share_of

_LEAST_QUERIES, _LEAST_BATCHES = 1000, 3000
_LEAST_NEIGHBOURS = 4
"""Pairs of runs from which their differences are judged."""
_BETWEEN = 2.0
"""The standard deviation between runs, in standard errors within one, above which longer runs would not help."""


@dataclass(frozen=True)
class FigureRatio:
    """A figure of both sides, and the interval of its ratio."""

    name: str
    a: float | None
    """In ns or 1/s; None where A lacks it.  Of several runs, the geometric mean."""
    b: float | None
    ratio: float | None
    """B/A."""
    low: float | None
    """The lower end of the ratio's interval at 95 %; None: open, or no interval."""
    high: float | None
    method: str
    note: str
    """Why there is no interval, or an open one."""
    needs: str = ""
    """What would close it, where that is known."""

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
        return (ByRuns if len(a) > 1 or len(b) > 1 else ByParts)(a, b)

    @property
    def lines(self) -> list[str]:
        """What makes the comparison doubtful: a line, or none."""
        return []

    def ratio(self, figure: str) -> FigureRatio:
        a, b = (intervals.mean_of_runs([run.value(figure) for run in side]) for side in (self.a, self.b))
        if a is None or b is None:
            return FigureRatio(figure, a, b, None, None, None, "", "not a figure of both")
        interval, method = self.interval(figure, b / a)
        return FigureRatio(figure, a, b, b / a, interval.low, interval.high, method, interval.why, interval.needs)

    @property
    def fewer(self) -> int:
        """The number of runs of the side that has fewer."""
        return min(len(self.a), len(self.b))

    def interval(self, figure: str, ratio: float) -> tuple[Interval, str]:
        """The interval of the ratio, which is ``ratio``, and the method's name."""
        raise NotImplementedError


class ByParts(Pairing):
    """A run a side: the parts of one are compared with those of the other."""

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
        runs = a, b = self.a[0], self.b[0]
        if (lacking := _lacking(runs, figure)) is not None:
            return lacking, ""
        if figure == RATE:
            return _inverted(intervals.paired_means(a.durations, b.durations, 1 / ratio)), "16 parts"
        if not self.is_paired:
            each = [of_subject(run, figure, by_time=True) for run in runs]
            values = [run.value(figure) or math.nan for run in runs]
            return intervals.unpaired(each[0], each[1], values[0], values[1]), "16 parts each"
        if figure == MEAN:
            return intervals.paired_means(a.by_rows.means, b.by_rows.means, ratio), "16 pairs"
        return intervals.paired_quantiles(a.by_rows, b.by_rows, share_of(figure), ratio), "16 pairs"


class ByRuns(Pairing):
    """Several runs a side: each counts as one number."""

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
        """The order of each two neighbours; empty unless all of these are a run of either side."""
        pairs = [self.order[place : place + 2] for place in range(0, len(self.order), 2)]
        return pairs if set(pairs) <= {"AB", "BA"} else []

    def interval(self, figure: str, ratio: float) -> tuple[Interval, str]:
        by_start = [sorted(side, key=lambda one: one.result.get("started") or "") for side in (self.a, self.b)]
        logs = [[math.log(run.value(figure) or math.nan) for run in side] for side in by_start]
        # Of ABAB, a drift would be part of every difference.
        balanced = abs(self._pairs.count("AB") - self._pairs.count("BA")) <= 1
        if len(self._pairs) >= _LEAST_NEIGHBOURS and balanced:
            return intervals.of_runs(np.subtract(logs[1], logs[0]).tolist()), f"{len(self._pairs)} neighbours"
        return intervals.welch(*logs), f"{len(self.a)} and {len(self.b)} runs"

    def differ_more_than_within(self, figure: str) -> bool:
        """Whether the runs of a side differ by more than the uncertainty of one of them."""
        spreads = [float(np.std([math.log(run.value(figure) or 1.0) for run in side])) for side in (self.a, self.b)]
        within = [of_subject(run, figure).half_width for run in (*self.a, *self.b) if run.has_rows]
        errors = [half_width / intervals.T for half_width in within if half_width < math.inf]
        return bool(errors) and max(spreads) > _BETWEEN * float(np.median(errors))


def of_subject(run: Subject, figure: str, *, by_time: bool = False) -> Interval:
    """The interval at about 95 % of one run's ``rate``, ``mean`` or percentile, in 1/s or ns.

    ``by_time``: from blocks of equal times in place of equal numbers of queries.
    """
    if (lacking := _lacking([run], figure)) is not None:
        return lacking
    value = run.value(figure)
    if value is None:
        return no_interval(f"no {figure}")
    if figure == RATE:
        return _inverted(intervals.of_mean(run.durations, 1 / value))
    counted = run.by_time if by_time else run.by_rows
    if figure == MEAN:
        return intervals.of_mean(counted.means, value)
    return intervals.of_quantile(counted, share_of(figure), value)


def _lacking(runs: Sequence[Subject], figure: str) -> Interval | None:
    """Why the parts of a run, or of two, give no interval of a figure; None where they do."""
    if not all(run.has_rows for run in runs):
        return no_interval("no columns")
    if figure == RATE:
        if not any(run.saturated for run in runs):
            return no_interval(f"set by --qps, as {'it' if len(runs) == 1 else 'both'} kept up")
        what, number, least = "batches", min(run.batches for run in runs), _LEAST_BATCHES
    elif any(run.is_offline for run in runs):
        return no_interval("all is due at once")
    else:
        what, number, least = "queries", min(run.queries for run in runs), _LEAST_QUERIES
    if number >= least:
        return None
    how = f", {longer(least / number)}, or 3 runs a side" if number else ""
    return no_interval(f"fewer than {least:,} {what}", f"{least:,} {what} in each run{how}")


def _inverted(interval: Interval) -> Interval:
    """The interval of a rate, from that of the time that it takes."""
    low, high = (None if end is None else 1 / end for end in (interval.high, interval.low))
    return Interval(low, high, interval.why, interval.needs)
