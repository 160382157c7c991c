"""Traffic as data: which samples to query, and when, exactly as the reference LoadGen draws them.

From settings to arrays, all drawn before a run starts, without clock or I/O.  The order of the draws is the contract:
unused shuffles are drawn as well, because in the reference they advance the stream of the sample indices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import schedules
from drumfire.loadgen.draws import (
    DEFAULT_SEED,
    Int64Array,
    Words,
    below,
    shuffle,
    shuffle_partners,
    uniform,
)
from drumfire.loadgen.record import Record
from drumfire.loadgen.schedules import Schedule
from drumfire.loadgen.settings import EffectiveSettings, Mode, Scenario, SettingsError

SampleArray = npt.NDArray[np.uint32]

DRAWN_BYTES = 20
"""Memory per row that drawing the traffic and evaluating the results need beside the table."""

# Rows to draw at a time, to limit the memory of intermediate arrays.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Phase:
    """One loadable set and its queries, which are rows [first_row, first_row + rows) of the run's table."""

    accuracy: bool
    first_row: int
    loaded: SampleArray
    """Dataset indices to load, in the order of the set, with padding (MultiStream repeats the first few)."""
    samples_per_query: int
    sample_index: SampleArray
    """Dataset index of each row; query q begins at row q*samples_per_query."""
    scheduled: Int64Array | None
    """Server: when each query is due, ns after the phase's start.  Else None: a closed loop, or all at once."""
    generated_duration_ns: int
    """One interval beyond the last generated query (the reference logs it)."""
    logged: npt.NDArray[np.bool_] | None
    """Rows whose response goes to the accuracy log; None for all rows of an accuracy phase, no rows of another."""
    concurrency: int = 0
    """n of a closed loop of n queries under way; 0 for other loops."""
    think_time_ns: int = 0
    """In such a loop: from an answer until the next query is due."""

    def entered(self, record: Record) -> Phase:
        """Copy the traffic into the table; the returned phase refers to the table, so nothing is held twice."""
        rows = slice(self.first_row, self.first_row + self.rows)
        record.sample_index[rows] = self.sample_index
        if self.scheduled is not None:
            record.scheduled[rows] = self.scheduled
        scheduled = None if self.scheduled is None else record.scheduled[rows]
        return replace(self, sample_index=record.sample_index[rows], scheduled=scheduled)

    @property
    def rows(self) -> int:
        return int(self.sample_index.size)

    @property
    def query_count(self) -> int:
        return self.rows // self.samples_per_query


def expected_rows(settings: EffectiveSettings, total_count: int) -> int:
    """An estimate of how many rows ``draw`` will make, without drawing."""
    accuracy = min(settings.accuracy_sample_count, total_count)
    if settings.scenario == Scenario.MultiStream:  # each set is filled up to whole queries
        accuracy += -(-accuracy // settings.performance_sample_count) * (settings.samples_per_query - 1)
    if settings.mode == Mode.AccuracyOnly:
        return accuracy
    duration_s = settings.target_duration_ms / 1000 * (1 if settings.scenario == Scenario.Server else 2)
    if settings.performance_issue_unique:
        duration_s = 0
    queries = int(max(settings.min_query_count, duration_s * settings.target_qps))
    return queries * settings.samples_per_query + (accuracy if settings.mode == Mode.SubmissionRun else 0)


def draw(settings: EffectiveSettings, total_count: int, schedule: Schedule = schedules.DEFAULT) -> list[Phase]:
    """Draw all phases of a test over a library of ``total_count`` samples.

    AccuracyOnly goes through every loadable set, PerformanceOnly queries the first, and SubmissionRun does both.
    Raises ``SettingsError`` for settings that leave no query.
    """
    if settings.performance_sample_count < 1 or total_count < 1:
        raise SettingsError("the library has no samples: its total and performance counts must be at least 1")
    modes = {
        Mode.AccuracyOnly: (True,),
        Mode.PerformanceOnly: (False,),
        Mode.SubmissionRun: (True, False),
        Mode.FindPeakPerformance: (False,),
    }[settings.mode]
    log_values = Words(DEFAULT_SEED)  # one stream over all phases of a test; the reference never re-seeds it
    phases: list[Phase] = []
    first_row = 0
    for accuracy in modes:
        sets = loadable_sets(settings, total_count, accuracy=accuracy)
        for loadable in sets if accuracy else islice(sets, 1):
            phase = _draw_phase(settings, schedule, loadable, accuracy, first_row, log_values)
            phases.append(phase)
            first_row += phase.rows
    return phases


@dataclass(frozen=True)
class LoadableSet:
    indices: SampleArray
    """Dataset indices, with padding."""
    end: int
    """How many of them belong to the set itself."""


def loadable_sets(settings: EffectiveSettings, total_count: int, *, accuracy: bool) -> Iterator[LoadableSet]:
    """Split the shuffled data set into sets of the performance sample count (the last may be smaller)."""
    wanted = settings.accuracy_sample_count if accuracy else settings.performance_sample_count
    order = list(range(min(wanted, total_count)))
    shuffle(Words(settings.qsl_rng_seed), order)
    padding = settings.samples_per_query - 1 if settings.scenario == Scenario.MultiStream else 0
    for start in range(0, len(order), settings.performance_sample_count):
        run = np.array(order[start : start + settings.performance_sample_count], np.uint32)
        yield LoadableSet(np.concatenate([run, np.resize(run, padding)]), run.size)


def accuracy_rows(settings: EffectiveSettings, total_count: int) -> int:
    """How many rows the accuracy phases of a test have: whole queries over each set."""
    offline = settings.scenario == Scenario.Offline
    sets = loadable_sets(settings, total_count, accuracy=True)
    sizes = [(one.indices.size, one.end if offline else settings.samples_per_query) for one in sets]
    return sum(size // width * width for size, width in sizes)


def _draw_phase(
    settings: EffectiveSettings,
    schedule: Schedule,
    loadable: LoadableSet,
    accuracy: bool,
    first_row: int,
    log_values: Words,
) -> Phase:
    scenario, loaded, end = settings.scenario, loadable.indices, loadable.end
    samples_per_query = end if accuracy and scenario == Scenario.Offline else settings.samples_per_query
    min_queries = settings.min_query_count
    duration_ns = settings.target_duration_ms * 1_000_000 * (1 if scenario == Scenario.Server else 2)
    if accuracy or settings.performance_issue_unique:
        duration_ns, min_queries = 0, loaded.size // samples_per_query

    if settings.performance_issue_same and settings.performance_issue_same_index >= loaded.size:
        raise SettingsError(
            f"performance_issue_same_index {settings.performance_issue_same_index} is outside the set of {end} samples"
        )

    # These draws happen whether or not they are used.
    words = Words(settings.sample_index_rng_seed)
    stride = samples_per_query if scenario == Scenario.MultiStream else 1
    accuracy_order = _permutation(words, range(0, end, stride)) if accuracy else []
    unique_order = _permutation(words, range(0, end, stride))
    equal_issue = settings.sample_concatenate_permutation
    equal_order = _permutations(words, loaded.size, -(-min_queries // loaded.size), keep=equal_issue)

    step = 0
    if equal_issue and not accuracy:
        if scenario == Scenario.Offline:
            samples_per_query = _round_up(samples_per_query, loaded.size)
        else:
            min_queries = _round_up(min_queries, loaded.size)
    if equal_issue and scenario != Scenario.Offline:
        step = loaded.size

    scheduled: Int64Array | None
    if scenario == Scenario.Server:
        due = _arrivals(settings, schedule, duration_ns, min_queries, step)
        queries, generated_ns, scheduled = due.size - 1, int(due[-1]), due[:-1]
    else:
        period_ns = int((1.0 / settings.target_qps) * 1e9)
        queries = _closed_count(duration_ns, period_ns, min_queries, step)
        generated_ns, scheduled = queries * period_ns, None
    if queries == 0:
        raise SettingsError("these settings generate no query: raise the duration, the query count or the set")

    if scenario == Scenario.Offline:
        sample_index = _offline_samples(settings, words, loaded, samples_per_query)
    else:
        if settings.performance_issue_unique:
            chosen: Iterable[Int64Array] = [_positions(unique_order, queries)]
        elif settings.performance_issue_same:
            chosen = [np.full(queries, settings.performance_issue_same_index)]
        elif equal_issue and scenario != Scenario.MultiStream:
            chosen = [np.resize(equal_order, queries)]
        elif accuracy:
            chosen = [_positions(accuracy_order, queries)]
        else:
            chosen = _with_replacement(words, end, queries)
        sample_index = np.empty(queries * samples_per_query, np.uint32)
        row = 0
        for positions in chosen:
            if scenario == Scenario.MultiStream:
                positions = (positions[:, None] + np.arange(samples_per_query)).ravel()
            loaded.take(positions, out=sample_index[row : row + positions.size])
            row += positions.size

    return Phase(
        accuracy=accuracy,
        first_row=first_row,
        loaded=loaded,
        samples_per_query=samples_per_query,
        sample_index=sample_index,
        scheduled=scheduled,
        generated_duration_ns=generated_ns,
        logged=_logged(settings, sample_index.size, accuracy, log_values),
        concurrency=settings.concurrency,
        think_time_ns=settings.think_time_ns,
    )


def _permutation(words: Words, positions: range) -> list[int]:
    order = list(positions)
    shuffle(words, order)
    return order


def _permutations(words: Words, size: int, rounds: int, *, keep: bool) -> Int64Array:
    """``rounds`` successive shuffles of one list; without ``keep``, only the words are drawn."""
    order = list(range(size))
    kept: list[list[int]] = []
    for _ in range(rounds):
        if keep:
            shuffle(words, order)
            kept.append(order.copy())
        else:
            shuffle_partners(words, size)
    return np.array(kept, np.int64).ravel()


def _round_up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _with_replacement(words: Words, size: int, queries: int) -> Iterator[Int64Array]:
    """Positions below ``size``, in chunks: the words need eight times the memory of the kept positions."""
    for start in range(0, queries, _CHUNK):
        yield below(words, size, min(_CHUNK, queries - start)).view(np.int64)


def _positions(order: list[int], queries: int) -> Int64Array:
    if queries > len(order):
        raise SettingsError(
            f"{queries} unique queries are more than the set's {len(order)}: "
            "turn off performance_issue_unique or sample_concatenate_permutation"
        )
    return np.array(order[:queries], np.int64)


def _closed_count(duration_ns: int, period_ns: int, min_queries: int, step: int) -> int:
    """Number of queries at a fixed period until the duration and the count (which grows by ``step``) are reached."""
    if period_ns < 1 and duration_ns > 0:
        raise SettingsError("the expected rate must be at most 1e9 queries/s")
    by_duration = 1 + -(-duration_ns // period_ns) if duration_ns > 0 else 0
    if step and by_duration > min_queries:
        return min_queries + _round_up(by_duration - min_queries, step)
    return max(min_queries, by_duration)


def _arrivals(
    settings: EffectiveSettings, schedule: Schedule, duration_ns: int, min_queries: int, step: int
) -> Int64Array:
    """When queries are due, ns, from 0; one more than there are queries, for the end of the last interval."""
    # Enough for nearly every draw; a further chunk adds what is missing.
    guess = max(min_queries, int(duration_ns * 1e-9 * settings.target_qps * 1.001)) + 1024
    arrivals = schedule.arrivals(settings, Words(settings.schedule_rng_seed), -(-guess // -(-guess // _CHUNK)))
    chunks = [np.zeros(1, np.int64)]
    total, reached = 0, 0
    while reached < duration_ns or total <= min_queries + step:
        chunks.append(next(arrivals))
        total, reached = total + chunks[-1].size, int(chunks[-1][-1])
    due = np.concatenate(chunks)
    # The last query is the first that is due at the end of the duration or later.
    count = int(np.searchsorted(due, duration_ns)) + 1 if duration_ns > 0 else 0
    if step and count > min_queries:
        count = min_queries + _round_up(count - min_queries, step)
    count = max(count, min_queries)
    while count + 1 > due.size:
        due = np.concatenate([due, next(arrivals)])
    return due[: count + 1]


def _offline_samples(settings: EffectiveSettings, words: Words, loaded: SampleArray, count: int) -> SampleArray:
    if settings.performance_issue_same:
        return np.full(count, loaded[settings.performance_issue_same_index], np.uint32)
    if not settings.sample_concatenate_permutation:
        return np.resize(loaded, count)
    repeats = []
    for _ in range(count // loaded.size):
        order = loaded.tolist()
        shuffle(words, order)
        repeats.append(np.array(order, np.uint32))
    repeats.append(loaded[: count % loaded.size])
    return np.concatenate(repeats)


def _logged(settings: EffectiveSettings, rows: int, accuracy: bool, log_values: Words) -> npt.NDArray[np.bool_] | None:
    """Which rows of a phase go to the accuracy log; advances the value stream by ``rows`` draws."""
    probability = settings.accuracy_log_probability
    if settings.accuracy_log_sampling_target > 0:
        expected = int(settings.target_qps * settings.min_duration_ms / 1000)
        if settings.scenario != Scenario.Offline:
            expected *= settings.samples_per_query
        probability = settings.accuracy_log_sampling_target / max(expected, settings.min_sample_count)
    if probability <= 0:
        return None
    values = uniform(log_values, rows)
    if accuracy:
        return None
    values += uniform(Words(settings.accuracy_log_rng_seed), 1)
    values[values >= 1.0] -= 1.0
    return values <= probability
