"""A run over time, from its columns: slices of equal time, and the spread of latencies.

Works through mapped columns in slices or chunks that fit the processor's cache, so that it needs no memory by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import lateness
from drumfire.loadgen.draws import Int64Array
from drumfire.loadgen.record import Column
from drumfire.loadgen.results import Measured
from drumfire.loadgen.saved import SavedRun
from drumfire.loadgen.settings import Loop, Scenario

Values = npt.NDArray[np.float64]
"""One value a slice, shape (slices,); NaN where there is none."""
MOST_SLICES = 600
_ROWS_A_SLICE = 200
"""With fewer, a slice's p99 is its maximum, and the line is fur."""
_FEWEST, _ROWS_OF_FEWEST = 10, 5
"""A short run has this many slices where each has so many rows: its p50 at least says something."""
_CHUNK = 65_536
_SHIFT = 15
"""The lowest bits of a float32 that a bin leaves out: 256 bins an octave."""
_OCTAVE = 1 << (23 - _SHIFT)
_OCTAVES = 43
"""From 1 ns to 2.4 h."""
_FIRST = 127 * _OCTAVE
"""The bin of 1.0."""
_QUARTERS = tuple(round((2 ** (quarter / 4) - 1) * _OCTAVE) for quarter in range(4))
_ROW_STARTS = np.add.outer(np.arange(_OCTAVES) * _OCTAVE, _QUARTERS).ravel()
ROWS_AN_OCTAVE = len(_QUARTERS)
LISTED = (0.5, 0.9, 0.95, 0.97, 0.99, 0.999, 0.9999, 0.99999)
"""Percentiles of which people read the value: a point of each line is there, as values may jump between two points."""
_ROUNDING = 1e-6
"""A rank that is a whole number but for the last bits of its logarithm."""
_LEFT_OUT = 10
"""A line of percentiles ends where fewer values than this are above it."""


class Tally:
    """Counts of ns values by their size, in bins of 0.4 % or less: for pictures, never for a figure."""

    def __init__(self) -> None:
        self.counts = np.zeros(_OCTAVES * _OCTAVE, np.int64)

    def add(self, values: Int64Array) -> npt.NDArray[np.int64]:
        """Count ``values``, shape (n,), and return their own counts; those below 1 ns count as 1 ns."""
        bits = np.maximum(values, 1).astype(np.float32).view(np.int32)
        found = np.bincount(np.minimum((bits >> _SHIFT) - _FIRST, self.counts.size - 1), minlength=self.counts.size)
        self.counts += found
        return found

    def curve(self, points: int) -> tuple[Values, Values]:
        """The percentiles as a line: -log10(1 - p), and ns; empty with too few values."""
        total = int(self.counts.sum())
        if total < _LEFT_OUT:
            return np.empty(0), np.empty(0)
        x = np.linspace(0.0, float(np.log10(total / _LEFT_OUT)), points if total > _LEFT_OUT else 1)
        read = -np.log10(1 - np.array(LISTED))
        x = np.unique(np.concatenate([x, read[read <= x[-1]]]))
        ranks = np.minimum((total * (1 - np.power(10.0, -x)) + _ROUNDING).astype(np.int64), total - 1)
        bins = np.searchsorted(np.cumsum(self.counts), ranks, "right")
        edges = ((np.array([bins, bins + 1]) + _FIRST) << _SHIFT).astype(np.int32).view(np.float32)
        return x, edges.mean(axis=0).astype(np.float64)


@dataclass(frozen=True)
class Timeline:
    """A performance phase over time.  Times are ns; all lines have one value a slice."""

    step_s: float
    """What a slice covers."""
    asked: Values | None
    """Samples that were due, per second; None where a schedule has no say."""
    answered: Values
    """Samples answered without error, per second."""
    errors: Values
    """Samples that were due in the slice and never answered well."""
    p50: Values
    p99: Values
    highest: Values
    in_flight: Values
    """Samples issued and not yet answered, at the slice's end."""
    late_p50: Values
    late_p99: Values
    late_highest: Values
    batch: Values
    queue: Values
    """Mean time from the issue to the begin of the computation."""
    compute: Values
    heat: npt.NDArray[np.int64]
    """Queries by slice and by latency, shape (slices, rows): row r is from 2**(r / ROWS_AN_OCTAVE) ns on."""
    latency: Tally
    from_send: Tally
    """Latency from the moment of sending, or of the issue where the system records no other."""
    lateness: Tally
    means: dict[str, float] = field(default_factory=dict)
    """Parts of the mean latency, in their order."""

    @property
    def at(self) -> Values:
        """The middle of each slice, s."""
        return (np.arange(self.answered.size, dtype=np.float64) + 0.5) * self.step_s


@dataclass(frozen=True)
class _Table:
    """The rows of a performance phase by query: what waits for one answer."""

    run: SavedRun
    measured: Measured
    key: Int64Array
    """By which queries are put into slices, ascending."""
    order: npt.NDArray[np.int64] | None
    """The queries in this order; None where they are in it."""
    width: int

    @classmethod
    def of(cls, run: SavedRun, measured: Measured) -> _Table:
        width = measured.samples_per_query
        by = measured.scheduled if run.effective.loop is Loop.OPEN else measured.issued
        key, order = by[::width], None
        if any((part[1:] < part[:-1]).any() for part in _chunks(key, overlap=1)):
            order = np.argsort(key, kind="stable")
            key = key[order]
        return cls(run, measured, key, order, width)

    def take(self, column: Column, first: int, last: int) -> Column:
        """The rows of these queries, shape (queries, samples a query)."""
        if self.order is None:
            return column[first * self.width : last * self.width].reshape(-1, self.width)
        return column.reshape(-1, self.width)[self.order[first:last]]


def of(run: SavedRun, most: int = MOST_SLICES) -> Timeline | None:
    """Return a run over time, in at most ``most`` slices; None where it has no performance phase.

    Raises ``UserError`` where columns are lacking or damaged.
    """
    measured = run.measured
    if measured is None or not measured.issued.size:
        return None
    offline = run.effective.scenario == Scenario.Offline
    queries = measured.issued.size if offline else measured.queries
    slices = max(min(most, queries // _ROWS_A_SLICE), min(_FEWEST, queries // _ROWS_OF_FEWEST), 1)
    span = max(1, *(int(column.max()) for column in (measured.scheduled, measured.issued, measured.completed)))
    found = _Lines(slices)
    counts = _Counts(slices, span)
    status_ok = measured.answered
    batch = run.measured_column("batch_size")
    for part in _parts(measured.issued.size):
        done, ok = measured.completed[part], status_ok[part]
        counts.add("asked", measured.scheduled[part])
        counts.add("issued", measured.issued[part])
        counts.add("answered", done[ok])
        counts.add("done", done[done > 0])
        if offline and batch is not None:
            counts.add("batch", done[ok], batch[part][ok])
    of_slice = counts.of
    step_s = span / slices * 1e-9
    if offline:
        with np.errstate(invalid="ignore"):
            found.batch[:] = of_slice["batch"] / of_slice["answered"] if batch is not None else np.nan
        found.errors[-1] = int(np.count_nonzero(~status_ok))
    else:
        _fill(found, _Table.of(run, measured), span, batch)
    in_flight = np.cumsum(of_slice["issued"]) - np.cumsum(of_slice["done"])
    server = run.effective.scenario == Scenario.Server
    return Timeline(
        step_s=step_s,
        asked=of_slice["asked"] / step_s if server else None,
        answered=of_slice["answered"] / step_s,
        in_flight=np.full(slices, np.nan) if offline else in_flight,
        means=_means(found),
        **{
            name: getattr(found, name) for name in (*_Lines.__annotations__, "heat", "latency", "from_send", "lateness")
        },
    )


class _Lines:
    """What is filled slice by slice."""

    errors: Values
    p50: Values
    p99: Values
    highest: Values
    late_p50: Values
    late_p99: Values
    late_highest: Values
    batch: Values
    queue: Values
    compute: Values

    def __init__(self, slices: int) -> None:
        for name in _Lines.__annotations__:
            setattr(self, name, np.full(slices, np.nan))
        self.errors[:] = 0
        self.heat = np.zeros((slices, _ROW_STARTS.size), np.int64)
        self.latency, self.from_send, self.lateness = Tally(), Tally(), Tally()
        self.sums = {"late": 0.0, "queue": 0.0, "compute": 0.0}
        self.rows = 0


class _Counts:
    """Events by slice."""

    def __init__(self, slices: int, span: int) -> None:
        self.of: dict[str, Values] = {
            name: np.zeros(slices) for name in ("asked", "issued", "answered", "done", "batch")
        }
        self._slices, self._scale = slices, slices / span

    def add(self, name: str, times: Column, weights: Column | None = None) -> None:
        """``times`` in ns; those outside of the span count at its ends."""
        place = np.clip((times * self._scale).astype(np.int64), 0, self._slices - 1)
        self.of[name] += np.bincount(place, weights, self._slices)


def _fill(found: _Lines, table: _Table, span: int, batch: Column | None) -> None:
    slices, measured = found.errors.size, table.measured
    edges = np.searchsorted(table.key, np.arange(1, slices) * (span / slices))
    bounds = [0, *edges.tolist(), table.key.size]
    begun = table.run.measured_column("begun")
    in_turn = table.run.effective.in_turn
    for number, (first, last) in enumerate(pairwise(bounds)):
        if first == last:
            continue
        ok = table.take(measured.answered, first, last)
        found.errors[number] = ok.size - np.count_nonzero(ok)
        due, issued, done = (
            table.take(column, first, last) for column in (measured.scheduled, measured.issued, measured.completed)
        )
        late = _pauses(table, first, last) if in_turn else (issued - due)[:, 0]
        _spread(late, number, found.late_p50, found.late_p99, found.late_highest)
        found.lateness.add(late)
        answered_all = ok.all(axis=1)
        if not answered_all.any():
            continue
        whole = slice(None) if answered_all.all() else answered_all
        answered = done.max(axis=1)[whole]
        latency = answered - due[whole, 0]
        found.heat[number] = np.add.reduceat(found.latency.add(latency), _ROW_STARTS)
        _spread(latency, number, found.p50, found.p99, found.highest)
        if measured.sent is not None:
            sent = table.take(measured.sent, first, last)[whole].max(axis=1)
            found.from_send.add((answered - sent)[sent > 0])
        elif not in_turn:
            found.from_send.add(answered - issued[whole, 0])
        rows = slice(None) if ok.all() else ok
        if batch is not None:
            found.batch[number] = table.take(batch, first, last)[rows].mean()
        if begun is not None:
            _shares(found, number, due[rows], issued[rows], table.take(begun, first, last)[rows], done[rows])


def _shares(found: _Lines, number: int, due: Column, issued: Column, begun: Column, done: Column) -> None:
    """How the time of a slice's samples is divided."""
    queue, compute = begun - issued, done - begun
    found.queue[number], found.compute[number] = queue.mean(), compute.mean()
    found.rows += queue.size
    for name, values in (("late", issued - due), ("queue", queue), ("compute", compute)):
        found.sums[name] += float(values.sum())


def _means(found: _Lines) -> dict[str, float]:
    return {name: total / found.rows for name, total in found.sums.items()} if found.rows else {}


def _spread(values: Int64Array, number: int, p50: Values, p99: Values, highest: Values) -> None:
    """Enter a slice's percentiles, by rank as the results have them."""
    if values.size:
        ranks = (int(values.size * 0.5), int(values.size * 0.99), values.size - 1)
        placed = np.partition(values, ranks)
        p50[number], p99[number], highest[number] = (placed[rank] for rank in ranks)


def _pauses(table: _Table, first: int, last: int) -> Int64Array:
    """A closed loop's lateness: from an answer to the next issue; nothing where several loops are mixed."""
    if table.order is not None:
        return np.empty(0, np.int64)
    columns = (table.measured.issued, table.measured.completed)
    return lateness.pauses(*(table.take(column, max(first - 1, 0), last) for column in columns))


def _parts(rows: int) -> Iterator[slice]:
    return (slice(first, min(first + _CHUNK, rows)) for first in range(0, rows, _CHUNK))


def _chunks(column: Column, overlap: int) -> Iterator[Column]:
    return (column[part.start : part.stop + overlap] for part in _parts(column.size))
