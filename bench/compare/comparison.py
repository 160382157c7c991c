"""Two sides compared: each figure with the interval of its ratio, what makes it doubtful, and the verdict.

A side is one run or several.  Two single runs are compared by their parts, which says nothing of what differs from run
to run; several a side by one number a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from drumfire.bench import statuses
from drumfire.bench.compare import doubts, intervals
from drumfire.bench.compare.doubts import Doubts, Side
from drumfire.bench.compare.intervals import Interval, none
from drumfire.bench.compare.subject import MEAN, RATE, SHOWN, Run, Subject, figure_named, percentile
from drumfire.bench.compare.verdict import Judged, Verdict, judge
from drumfire.loadgen.errors import UserError

DEFAULT_MARGIN = 0.05
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

    @property
    def interval(self) -> Interval:
        return Interval(self.low, self.high, self.note)


@dataclass(frozen=True)
class Comparison:
    """What two sides come to."""

    letters: tuple[str, str]
    names: tuple[tuple[str, ...], tuple[str, ...]]
    """The folders of each side's runs."""
    rows: tuple[Row, ...]
    judged: str
    """The figure that decides."""
    margin: float
    single: bool
    doubts: tuple[str, ...]
    """What to read first: what differs, and what makes the figures doubtful."""
    verdict: Verdict

    def row(self, figure: str) -> Row:
        return next(row for row in self.rows if row.name == figure)

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "verdict": {"words": self.verdict.words, "status": self.verdict.status},
            "doubts": list(self.doubts),
            "judged": self.judged,
            "margin": self.margin,
            "single": self.single,
            "sides": {letter: list(names) for letter, names in zip(self.letters, self.names, strict=True)},
            "figures": [asdict(row) for row in self.rows],
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Comparison:
        """From what ``document`` gave, which may have further keys.  Raises ``LookupError`` or ``TypeError``."""
        (first, a), (second, b) = document["sides"].items()
        return cls(
            (first, second),
            (tuple(a), tuple(b)),
            tuple(Row(**row) for row in document["figures"]),
            document["judged"],
            document["margin"],
            document["single"],
            tuple(document["doubts"]),
            Verdict(**document["verdict"]),
        )


def compare(
    sides: Sequence[Sequence[Run]],
    *,
    margin: float = DEFAULT_MARGIN,
    figure: str | None = None,
    single: bool = False,
    skip_s: float = 0.0,
    letters: tuple[str, str] = ("A", "B"),
) -> Comparison:
    """Compare the second side with the first, each of one run or several, as ``drumfire.load`` opens them.

    ``margin``: the share up to which a difference does not matter.  ``figure``: what is judged, by default the
    scenario's.  ``single``: judge also fewer than three runs a side.  ``skip_s``: leave out the queries of the first
    seconds, the same of all runs.  Raises ``UserError``.
    """
    if len(sides) != 2 or not all(sides):
        raise UserError("a comparison needs two sides, of one run or more each")
    if not 0 <= margin < 1:
        raise UserError(f"a margin is a share from 0 to 1, and not {margin:g}")
    a, b = _cut([[Subject(run, name_of(run)) for run in side] for side in sides], skip_s)
    found = doubts.doubts(a, b, letters)
    judged = a[0].judged if figure is None else figure_named(figure)
    pairing = _Pairing.of(a, b)
    wanted = [judged] if a[0].is_offline and judged == RATE else [*SHOWN, *([judged] if judged not in SHOWN else [])]
    rows = tuple(pairing.row(one) for one in wanted)
    lines = [*found.lines, *pairing.lines]
    if found.broken:
        verdict = Verdict(found.broken, statuses.INVALID)
    else:
        verdict = _verdict(pairing, rows[wanted.index(judged)], found, margin, single, letters[1])
    names = tuple(tuple(one.name for one in side) for side in (a, b))
    return Comparison(letters, (names[0], names[1]), rows, judged, margin, single, tuple(lines), verdict)


def ratio_of(a: Sequence[Run], b: Sequence[Run], figure: str, letters: tuple[str, str]) -> tuple[Row, Doubts]:
    """One figure of two sides, also where they are too few runs for a verdict on what was built.

    Raises ``UserError`` where they have no figures in common.
    """
    first, second = _cut([[Subject(run, name_of(run)) for run in side] for side in (a, b)], 0.0)
    return _Pairing.of(first, second).row(figure_named(figure)), doubts.doubts(first, second, letters)


def name_of(run: Run) -> str:
    return str(getattr(run, "folder", "this run"))


def _cut(sides: Sequence[Side], skip_s: float) -> list[Side]:
    """The sides with the queries that are compared.  Raises ``UserError`` where there are none to compare."""
    every = [one for side in sides for one in side]
    for one in every:
        if one.scenario != every[0].scenario:
            scenarios = " and ".join(sorted({one.scenario for one in every}))
            raise UserError(f"{scenarios} have no figure in common: compare runs of one scenario")
        if not one.result.get("latency_ns"):
            raise UserError(f"{one.name} has no latencies, as of accuracy alone: leave it out")
    skipped = 0
    if skip_s:
        if every[0].is_offline:
            raise UserError("--skip has no meaning in Offline, which is one query: leave it out")
        if lacking := next((one for one in every if not one.has_rows), None):
            raise UserError(f"{lacking.name} has no columns, so that nothing can be skipped: leave --skip out")
        skipped = max(one.queries_before(skip_s) for one in every)
        if skipped >= (least := min(one.queries for one in every)):
            raise UserError(f"--skip {skip_s:g} leaves nothing of the shortest run, of {least:,} queries: skip less")
    last = None
    if all(len(side) == 1 and side[0].has_rows and side[0].on_schedule for side in sides):
        counts = {one.queries for one in every}
        last = min(counts) if len(counts) > 1 and same_schedule(*every) else None
    if skipped or last is not None:
        return [[one.cut(skipped, last) for one in side] for side in sides]
    return list(sides)


def same_schedule(a: Subject, b: Subject) -> bool:
    """Whether both have the same queries at the same times, as far as the shorter one goes."""
    rows = min(a.measured.scheduled.size, b.measured.scheduled.size)
    return rows > 0 and bool(np.array_equal(a.measured.scheduled[:rows], b.measured.scheduled[:rows]))


@dataclass(frozen=True)
class _Pairing:
    """How the figures of two sides are compared."""

    a: Side
    b: Side

    @classmethod
    def of(cls, a: Side, b: Side) -> _Pairing:
        return (_Runs if len(a) > 1 or len(b) > 1 else _Parts)(a, b)

    @property
    def lines(self) -> list[str]:
        """What of it makes the comparison doubtful."""
        return []

    def row(self, figure: str) -> Row:
        a, b = (_geometric([run.value(figure) for run in side]) for side in (self.a, self.b))
        if a is None or b is None:
            return Row(figure, a, b, None, None, None, "", "not a figure of both")
        interval, method = self.interval(figure, b / a)
        return Row(figure, a, b, b / a, interval.low, interval.high, method, interval.why)

    def interval(self, figure: str, ratio: float) -> tuple[Interval, str]:
        """Of the ratio, and by which method."""
        raise NotImplementedError


class _Parts(_Pairing):
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
                return none("the schedule's, as both kept up"), ""
            if min(a.batches, b.batches) < _LEAST_BATCHES:
                return none(f"fewer than {_LEAST_BATCHES:,} batches"), ""
            return _of_times(intervals.paired_means(a.durations, b.durations, 1 / ratio)), "16 parts"
        if min(a.queries, b.queries) < _LEAST_QUERIES:
            return none(f"fewer than {_LEAST_QUERIES:,} queries"), ""
        if not self.is_paired:
            each = [of_latency(run, figure, by_time=True) for run in (a, b)]
            values = [run.value(figure) or math.nan for run in (a, b)]
            return intervals.unpaired(each[0], each[1], values[0], values[1]), "16 parts each"
        if figure == MEAN:
            return intervals.paired_means(a.by_rows.means, b.by_rows.means, ratio), "16 pairs"
        p = percentile(figure)
        assert p is not None
        return intervals.paired(a.by_rows, b.by_rows, p, ratio), "16 pairs"


class _Runs(_Pairing):
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
        return none(f"fewer than {_LEAST_QUERIES:,} queries")
    counted = run.by_time if by_time else run.by_rows
    if figure == MEAN:
        return intervals.of_mean(counted.means, value)
    p = percentile(figure)
    assert p is not None
    return intervals.of_quantile(counted, p, value)


def of_subject(run: Subject, figure: str) -> Interval:
    """Of one run's figure."""
    if not run.has_rows or (figure != RATE and run.is_offline):
        return none("no columns" if not run.has_rows else "all is due at once")
    if figure != RATE:
        return of_latency(run, figure)
    if not run.saturated or run.batches < _LEAST_BATCHES:
        return none("the schedule's" if not run.saturated else f"fewer than {_LEAST_BATCHES:,} batches")
    rate = run.value(RATE)
    return none("no rate") if rate is None else _of_times(intervals.of_mean(run.durations, 1 / rate))


def of_run(run: Run, figure: str) -> tuple[float | None, float | None]:
    """The interval at about 95 % of one run's ``rate``, ``mean`` or percentile, in 1/s or ns; None: open, or none."""
    found = of_subject(Subject(run, name_of(run)), figure_named(figure))
    return found.low, found.high


def _of_times(interval: Interval) -> Interval:
    """Of a rate, from that of the time that it takes."""
    low, high = (None if end is None else 1 / end for end in (interval.high, interval.low))
    return Interval(low, high, interval.why)


def _geometric(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return known[0] if len(known) == 1 else math.exp(sum(map(math.log, known)) / len(known))


def _verdict(pairing: _Pairing, row: Row, found: Doubts, margin: float, single: bool, letter: str) -> Verdict:
    a, b = pairing.a, pairing.b
    undecided = found.undecided
    late = max(doubts.late_p99(a), doubts.late_p99(b))
    if late and row.name != RATE and row.a is not None and row.b is not None and abs(row.b - row.a) < late:
        undecided = undecided or "the difference is less than how late the queries were sent"
    judged = Judged(
        row.name,
        row.ratio,
        row.interval,
        row.name == RATE,
        runs=min(len(a), len(b)),
        queries=min(one.queries for one in (*a, *b)),
        by_runs=isinstance(pairing, _Runs),
        only_runs=isinstance(pairing, _Runs) and pairing.differ_more_than_within(row.name),
    )
    return judge(judged, margin, single=single, letter=letter, undecided=undecided)
