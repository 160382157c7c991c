"""Watches a run through its table: what it has done so far, in one ``Snapshot`` after the other.

Reads the table and writes nothing.  Looks only at the rows since the last look, and at a bounded number of them, so
watching stays cheap at any rate.  Does not depend on a clock or a screen; the run is judged elsewhere.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import histogram, issuer
from drumfire.loadgen.overhead import TICKS_PER_S, steal_ticks, usage
from drumfire.loadgen.record import Column, Gauge, Record, Status
from drumfire.loadgen.settings import Loop, Mode, Scenario
from drumfire.sut.window import begin_of_window

IntArray = npt.NDArray[np.int64]

LOOK_ROWS = 40_000
"""Rows read in one look; of more new rows, every n-th is read."""
_REACH_ROWS = 16_384
"""How far beyond the expected row the watch looks for answers that came out of order."""
_WAITING_ROWS = 65_536
"""How many rows without an answer are remembered to be read again; beyond, the oldest are forgotten."""
_EVERY_ROW = 1 << 20
"""Rows read in one look where each must be read: those beyond are read in the next."""


@dataclass(frozen=True)
class ViewPlan:
    """What is known of a test before it starts.  Plain data, which goes to another process as JSON."""

    title: str
    scenario: str
    closed: bool
    """Whether a query waits for the answer to the one before."""
    accuracy: bool
    asked_qps: float | None
    """None outside Server: a closed loop has no target rate, and Offline's only gives its query a size."""
    rows: int
    samples_per_query: int
    last_due_ns: int
    """Server: when the last query is due, from the start."""
    min_duration_ns: int
    min_queries: int
    max_duration_ns: int
    """0: no limit, as in ``max_queries``."""
    max_queries: int
    target_latency_ns: int
    """0 where the scenario has no target."""
    target_percentile: float
    load: float = 0.0
    """In a search: the load of this probe."""
    probes: Sequence[tuple[float, bool]] = ()
    """In a search: the earlier loads, and whether each passed."""
    pids: Sequence[int] = ()
    """The processes of their own in which the system computes."""

    @classmethod
    def of(
        cls, plan: issuer.Plan, title: str, probes: Sequence[tuple[float, bool]] = (), pids: Sequence[int] = ()
    ) -> ViewPlan:
        s, last = plan.settings, plan.phases[-1]
        accuracy = s.mode == Mode.AccuracyOnly
        max_queries = 0 if accuracy else s.max_query_count
        max_duration_ns = 0 if accuracy else s.max_duration_ms * 1_000_000
        last_due_ns = 0
        if last.scheduled is not None:
            queries = min(last.query_count, max_queries or last.query_count)
            last_due_ns = int(last.scheduled[queries - 1])
            if max_duration_ns:
                last_due_ns = min(last_due_ns, max_duration_ns)
        return cls(
            title=title,
            scenario=s.kind,
            closed=s.loop is Loop.CLOSED,
            accuracy=accuracy,
            asked_qps=s.target_qps if s.scenario == Scenario.Server else None,
            rows=plan.record.rows,
            samples_per_query=last.samples_per_query,
            last_due_ns=last_due_ns,
            min_duration_ns=s.target_duration_ms * 1_000_000,
            min_queries=s.min_query_count,
            max_duration_ns=max_duration_ns,
            max_queries=max_queries,
            target_latency_ns=s.target_latency_ns,
            target_percentile=s.target_latency_percentile,
            load=float(s.target_qps if s.scenario == Scenario.Server else s.samples_per_query),
            probes=tuple(probes),
            pids=tuple(pids),
        )


@dataclass(frozen=True)
class Spread:
    """Times of the rows that were read, ns, to three significant digits; ``maximum`` is exact."""

    count: int
    p50: int
    p90: int
    p99: int
    target: int
    """At the plan's target percentile."""
    maximum: int
    values: IntArray
    """The values that occurred, rising, shape (k,)."""
    counts: IntArray
    """How often each value occurred, shape (k,)."""

    @classmethod
    def of(cls, values: IntArray, counts: IntArray, maximum: int, target: float) -> Spread:
        """From values, rising, and their counts; ``target`` is a percentile, 0 to 1."""
        total = int(counts.sum())
        # The rank of a percentile as in the results: the int(n*p)-th smallest, from 0.
        ranks = [int(total * p) for p in (0.5, 0.9, 0.99, target)]
        p50, p90, p99, at_target = values[np.searchsorted(np.cumsum(counts), ranks, "right")].tolist()
        return cls(total, p50, p90, p99, at_target, maximum, values, counts)


@dataclass(frozen=True)
class Snapshot:
    """A run at a moment.  Rates are samples per second."""

    started: bool
    """False while the system warms up."""
    done: bool
    elapsed_s: float
    fraction: float
    """How much of the run is over, 0 to 1."""
    eta_s: float | None
    """None while it is unknown."""
    answered: int
    in_flight: int
    rate_now: float | None
    rate_mean: float | None
    latency: Spread | None
    """From scheduled to completed."""
    lateness: Spread | None
    """Server: from scheduled to issued."""
    batches: dict[int, float]
    """The share of the batches that had each size; empty where the system records no batch sizes."""
    mean_batch_size: float | None
    failed: int
    refused: int
    busy: float | None
    """Share of a core that the issuing thread took in the current phase, 0 to 1."""
    stall_ns: int
    """The longest time for which the generator's loop kept other work waiting."""
    gc_pause_ns: int
    steal_s: float | None
    """Time that the hypervisor gave to other machines since the first look; None where it is not known."""
    sent: Spread | None = None
    """Remote systems, not in Offline, where all is due at once: from scheduled to sent."""
    query_latency: Spread | None = None
    """Queries of several samples in a closed loop: from scheduled to the last of their answers."""
    computing: tuple[float, int] | None = None
    """Cores that the system's own processes took since the last look, and their memory in bytes."""
    batch_count: int = 0
    """Batches that were counted."""


class Watch:
    """Looks at one run, from time to time.

    ``every_row``: read each row, however many are new.
    """

    def __init__(self, record: Record, plan: ViewPlan, *, every_row: bool = False) -> None:
        self._record, self._plan, self._every_row = record, plan, every_row
        self._first_origin_ns = 0
        self._history: deque[tuple[int, int]] = deque()
        self._next_answer = 0
        self._next_issue = 0
        self._waiting: IntArray = np.empty(0, np.int64)
        self._latency = _Tally(plan.target_percentile)
        self._lateness = _Tally(plan.target_percentile)
        offline, whole = plan.scenario == Scenario.Offline.name, plan.closed and plan.samples_per_query > 1
        self._sent = None if offline else record.columns.get("sent")
        self._sent_lateness = _Tally(plan.target_percentile)
        self._query_latency = _Tally(plan.target_percentile) if whole else None
        self._next_query = 0
        self._batch_sizes = record.columns.get("batch_size")
        self._batch_rows: IntArray = np.zeros(1, np.int64)
        self._steal_ticks = steal_ticks()
        self._cpu_s, self._cpu_at_ns = 0.0, 0

    def look(self, now_ns: int) -> Snapshot:
        """The run at ``now_ns`` of the monotonic clock."""
        gauges = self._record.gauges
        # Read answered before issued: a row is issued first, so the difference is never below 0.
        answered, failed = gauges[Gauge.ANSWERED], gauges[Gauge.FAILED]
        issued, origin_ns = gauges[Gauge.ISSUED], gauges[Gauge.ORIGIN]
        self._first_origin_ns = self._first_origin_ns or origin_ns
        self._look_at_answers(issued)
        if self._query_latency is not None:
            self._look_at_queries(issued, self._query_latency)
        if self._plan.scenario == Scenario.Server.name:
            self._look_at_issues(issued)
        elapsed_ns = max(now_ns - self._first_origin_ns, 0) if origin_ns else 0
        good = max(answered - failed, 0)  # a failure may be counted before its answer is
        rate_mean = good * 1e9 / elapsed_ns if elapsed_ns else None
        fraction, eta_s = progress(self._plan, elapsed_ns, answered, rate_mean)
        batches, mean_batch_size, batch_count = self._batches()
        return Snapshot(
            started=origin_ns != 0,
            done=gauges[Gauge.DONE] != 0,
            elapsed_s=elapsed_ns * 1e-9,
            fraction=fraction,
            eta_s=eta_s,
            answered=answered,
            in_flight=issued - answered,
            rate_now=self._rate(now_ns, good) if origin_ns else None,
            rate_mean=rate_mean,
            latency=self._latency.spread(),
            lateness=self._lateness.spread(),
            batches=batches,
            mean_batch_size=mean_batch_size,
            failed=failed,
            refused=gauges[Gauge.REFUSED],
            busy=min(gauges[Gauge.BUSY] / (now_ns - origin_ns), 1.0) if 0 < origin_ns < now_ns else None,
            stall_ns=gauges[Gauge.STALL],
            gc_pause_ns=gauges[Gauge.GC_PAUSE],
            steal_s=self._steal_s(),
            sent=self._sent_lateness.spread(),
            query_latency=None if self._query_latency is None else self._query_latency.spread(),
            computing=self._computing(now_ns),
            batch_count=batch_count,
        )

    def _computing(self, now_ns: int) -> tuple[float, int] | None:
        found = [usage(pid) for pid in self._plan.pids]
        if not found:
            return None
        cpu_s, memory = sum(cpu_s for cpu_s, _ in found), sum(memory for _, memory in found)
        before_s, before_ns, self._cpu_s, self._cpu_at_ns = self._cpu_s, self._cpu_at_ns, cpu_s, now_ns
        return (max(cpu_s - before_s, 0.0) * 1e9 / max(now_ns - before_ns, 1) if before_ns else 0.0), memory

    def _steal_s(self) -> float | None:
        ticks = steal_ticks()
        if ticks is None or self._steal_ticks is None:
            return None
        return (ticks - self._steal_ticks) / TICKS_PER_S

    def _look_at_answers(self, issued: int) -> None:
        """Count the rows answered since the last look: those that were still waiting then, and those after."""
        expected = self._record.gauges[Gauge.ANSWERED] + self._waiting.size - self._next_answer
        stop = min(issued, self._next_answer + max(expected, 0) + _REACH_ROWS)
        rows = np.concatenate([self._waiting, self._new(self._next_answer, stop)])
        status = self._record.status[rows]
        settled = rows[status != Status.PENDING]
        if not settled.size:
            return
        self._next_answer = max(self._next_answer, int(settled.max()) + 1)
        waiting = rows[(status == Status.PENDING) & (rows < self._next_answer)]
        self._waiting = waiting if self._every_row else waiting[-_WAITING_ROWS:]
        good = rows[status == Status.OK]
        self._latency.add(self._record.completed[good] - self._record.scheduled[good])
        if self._sent is not None:
            self._sent_lateness.add(np.maximum(self._sent[good] - self._record.scheduled[good], 0))
        if self._batch_sizes is not None:
            self._count_batches(self._batch_sizes[settled])

    def _new(self, first: int, last: int) -> IntArray:
        return np.arange(first, min(last, first + _EVERY_ROW)) if self._every_row else _some(first, last)

    def _look_at_queries(self, issued: int, latency: _Tally) -> None:
        """Count the queries answered since the last look, which in a closed loop come in their order."""
        width = self._plan.samples_per_query
        stop = issued // width
        queries = _some(self._next_query, stop, LOOK_ROWS // width)
        rows = queries[:, None] * width + np.arange(width)
        status = self._record.status[rows]
        (open_,) = np.nonzero((status == Status.PENDING).any(axis=1))
        if open_.size:
            stop = int(queries[open_[0]])
        whole = rows[(queries < stop) & (status == Status.OK).all(axis=1)]
        self._next_query = stop
        latency.add(self._record.completed[whole].max(axis=1) - self._record.scheduled[whole[:, 0]])

    def _look_at_issues(self, issued: int) -> None:
        rows = self._new(self._next_issue, issued)
        self._next_issue = self._next_issue + rows.size if self._every_row else issued
        self._lateness.add(self._record.issued[rows] - self._record.scheduled[rows])

    def _count_batches(self, sizes: Column) -> None:
        rows = np.bincount(sizes, minlength=self._batch_rows.size)
        rows[: self._batch_rows.size] += self._batch_rows
        self._batch_rows = rows

    def _batches(self) -> tuple[dict[int, float], float | None, int]:
        sizes = np.flatnonzero(self._batch_rows[1:]) + 1  # 0: failed before it was put in a batch
        if not sizes.size:
            return {}, None, 0
        # Each row has the size of its batch, so k rows of size k are one batch.
        batches = self._batch_rows[sizes] / sizes
        total = float(batches.sum())
        shares = (batches / total).tolist()
        mean = float(self._batch_rows[sizes].sum()) / total
        return dict(zip(sizes.tolist(), shares, strict=True)), mean, round(total)

    def _rate(self, now_ns: int, good: int) -> float | None:
        """Samples per second over the last seconds, or since the first look where that is less."""
        then_ns, before = begin_of_window(self._history, now_ns, good)
        return (good - before) * 1e9 / (now_ns - then_ns) if now_ns > then_ns else None


def progress(plan: ViewPlan, elapsed_ns: int, answered: int, rate: float | None) -> tuple[float, float | None]:
    """How much of a run is over (0 to 1), and how many seconds are left.

    ``answered`` counts samples; ``rate`` is their mean rate per second.  A Server run is measured by its schedule, a
    closed loop by its time or its query count, whichever takes longer, and any other run by the samples answered.
    """

    def left(samples: int) -> float | None:
        return max(samples, 0) / rate if rate else None if samples > 0 else 0.0

    if not plan.accuracy and plan.scenario == Scenario.Server.name:
        if elapsed_ns < plan.last_due_ns:
            return elapsed_ns / plan.last_due_ns, (plan.last_due_ns - elapsed_ns) * 1e-9
        return 1.0, None  # all rows should be issued: the rows in flight show what is left
    if not plan.accuracy and plan.closed:
        return _closed_progress(plan, elapsed_ns, answered // plan.samples_per_query, left)
    return min(answered / plan.rows, 1.0), left(plan.rows - answered)


def _closed_progress(
    plan: ViewPlan, elapsed_ns: int, queries: int, left: Callable[[int], float | None]
) -> tuple[float, float | None]:
    by_time = elapsed_ns / plan.min_duration_ns if plan.min_duration_ns else 1.0
    by_count = queries / plan.min_queries if plan.min_queries else 1.0
    fraction = min(by_time, by_count)
    eta_s = left((plan.min_queries - queries) * plan.samples_per_query)
    if eta_s is not None:
        eta_s = max(eta_s, (plan.min_duration_ns - elapsed_ns) * 1e-9, 0.0)
    # A limit ends the run before its minimum is reached, and so does the last row.
    limit_queries = min(plan.max_queries or plan.rows, plan.rows // plan.samples_per_query)
    fraction = max(fraction, queries / limit_queries)
    if plan.max_duration_ns:
        fraction = max(fraction, elapsed_ns / plan.max_duration_ns)
        to_limit_s = max((plan.max_duration_ns - elapsed_ns) * 1e-9, 0.0)
        eta_s = to_limit_s if eta_s is None else min(eta_s, to_limit_s)
    to_limit_queries_s = left((limit_queries - queries) * plan.samples_per_query)
    if eta_s is not None and to_limit_queries_s is not None:
        eta_s = min(eta_s, to_limit_queries_s)
    return min(fraction, 1.0), eta_s


def rebin(spread: Spread, low_ns: float, high_ns: float, bins: int) -> IntArray:
    """Counts of a spread's values in ``bins`` equal ratios between two bounds, shape (bins,).

    The outermost bins also count the values outside.
    """
    place = np.log(np.maximum(spread.values, 1) / low_ns) * (bins / np.log(high_ns / low_ns))
    bin_of = np.clip(place.astype(np.int64), 0, bins - 1)
    return np.bincount(bin_of, weights=spread.counts, minlength=bins).astype(np.int64)


class _Tally:
    """Values counted so far."""

    def __init__(self, target: float) -> None:
        self._histogram = histogram.new()
        self._counts = np.frombuffer(self._histogram.counts, np.int64)
        self._target = target

    def add(self, values: IntArray) -> None:
        if values.size:
            histogram.feed(self._histogram, values)

    def spread(self) -> Spread | None:
        used = np.flatnonzero(self._counts)
        if not used.size:
            return None
        return Spread.of(_values()[used], self._counts[used], int(self._histogram.max_value), self._target)


@functools.cache
def _values() -> IntArray:
    """The value of each bucket of a histogram."""
    empty = histogram.new()
    return np.array([empty.get_value_from_index(i) for i in range(empty.counts_len)], np.int64)


def _some(first: int, last: int, most: int = LOOK_ROWS) -> IntArray:
    """Those in [first, last); every n-th where they are more than ``most``."""
    return np.arange(first, last, max(1, -(-(last - first) // max(most, 1))))
