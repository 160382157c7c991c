"""Merging: columns put back by row are those of the whole, and so are histograms and percentiles."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from drumfire.bench.fleet import merge
from drumfire.bench.fleet.child import Part
from drumfire.bench.fleet.overview import together
from drumfire.bench.watch import Spread, _Tally
from drumfire.loadgen import histogram
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.issue import End
from drumfire.loadgen.overhead import Overhead
from drumfire.loadgen.pacer import Pacing
from drumfire.loadgen.record import Record, Status
from drumfire.loadgen.results import distribution
from drumfire.loadgen.share import Slice
from drumfire.loadgen.traffic import Phase
from drumfire.loadgen.warm_up import WarmUpReport

LATENCIES = st.lists(st.integers(0, 10**11), min_size=1, max_size=300)


def phase_of(rows: int) -> Phase:
    index = np.arange(rows, dtype=np.uint32) * 7
    return Phase(False, 0, index, 1, index, np.arange(rows, dtype=np.int64) * 1000, 0, None)


def table(phase: Phase, latencies: list[int]) -> Record:
    record = Record(phase.rows)
    record.sample_index[:] = phase.sample_index
    record.scheduled[:] = phase.scheduled
    record.issued[:] = record.scheduled + 3
    record.completed[:] = record.scheduled + np.array(latencies)
    record.status[:] = Status.OK
    return record


def part_of(record: Record, share: Slice, issued: int | None = None, told: dict | None = None) -> Part:
    count = share.count(record.rows) if issued is None else issued
    rows = np.arange(count)
    there = share.whole(rows)
    told = told or {"failed": {}, "refused": {}, "aborted": None}
    kept = [bytes([row % 256]) for row in there.tolist()]
    return Part(share.part, rows, {n: c[there] for n, c in record.columns.items()}, {}, told, rows, kept)


@examples(deadline=None)
@given(LATENCIES, st.sampled_from([1, 2, 3, 7]))
def test_columns_and_percentiles_are_the_wholes(latencies: list[int], parts: int) -> None:
    phase = phase_of(len(latencies))
    one = table(phase, latencies)
    whole = Record(phase.rows)
    whole.sample_index[:], whole.scheduled[:] = phase.sample_index, phase.scheduled
    slices = {part: Slice(part, parts) for part in range(parts)}
    pieces = [part_of(one, share) for share in slices.values()]
    assert merge.put_back(whole, 0, phase.rows, slices, pieces) == phase.rows
    for name, column in one.columns.items():
        assert whole.columns[name].tobytes() == column.tobytes()
    concatenated = np.concatenate([piece.columns["completed"] - piece.columns["scheduled"] for piece in pieces])
    merged, exact = distribution(whole.completed - whole.scheduled), distribution(concatenated)
    assert (merged.percentiles, merged.mean, merged.maximum) == (exact.percentiles, exact.mean, exact.maximum)
    answers = Answers(whole, in_turn=False)
    merge.put_answers(answers, slices, {}, pieces)
    (kept,) = answers.kept
    completed = whole.completed[kept.rows]
    assert (np.diff(completed) >= 0).all()
    assert sorted(kept.rows.tolist()) == list(range(phase.rows))
    assert [bytes([row % 256]) for row in kept.rows.tolist()] == kept.responses


@examples(deadline=None)
@given(LATENCIES, st.integers(1, 7))
def test_histograms_added_are_the_histogram_of_the_whole(latencies: list[int], parts: int) -> None:
    def spread(values: np.ndarray) -> Spread | None:
        tally = _Tally(0.97)
        tally.add(values)
        return tally.spread()

    all_of_them = np.array(latencies)
    found, exact = together([spread(all_of_them[part::parts]) for part in range(parts)], 0.97), spread(all_of_them)
    assert found is not None
    assert exact is not None
    assert found.values.tobytes() == exact.values.tobytes()
    assert found.counts.tobytes() == exact.counts.tobytes()
    for name in ("count", "p50", "p90", "p99", "target", "maximum"):
        assert getattr(found, name) == getattr(exact, name)
    added = histogram.new()
    for part in range(parts):
        added.add(histogram.of(all_of_them[part::parts]))
    whole = histogram.of(all_of_them)
    assert np.array_equal(np.frombuffer(added.counts, np.int64), np.frombuffer(whole.counts, np.int64))


def test_nothing_is_spread_over_nothing() -> None:
    assert together([None, None], 0.99) is None


def test_rows_of_a_lost_part_are_missing() -> None:
    phase = phase_of(10)
    one = table(phase, list(range(1, 11)))
    whole = Record(10)
    whole.sample_index[:], whole.scheduled[:] = phase.sample_index, phase.scheduled
    slices = {part: Slice(part, 3) for part in range(3)}
    # Part 1 can not be asked, and part 2 came to its second row.
    pieces = [part_of(one, slices[0], 3), part_of(one, slices[2], 2)]
    assert merge.put_back(whole, 0, phase.rows, slices, pieces) == 7
    ok, missing = int(Status.OK), int(Status.MISSING)
    assert whole.status.tolist() == [ok, missing, ok, ok, missing, ok, ok, 0, 0, 0]


def test_faults_add_up() -> None:
    phase = phase_of(8)
    one = table(phase, [1] * 8)
    one.status[:4] = [Status.FAILED, Status.FAILED, Status.UNANSWERED, Status.OK]
    slices = {part: Slice(part, 2) for part in range(2)}
    told = {0: {"failed": {"full": 1}, "refused": {"twice": 2}, "aborted": "gone"}}
    lost = part_of(one, slices[1])
    lost = Part(lost.part, lost.rows, lost.columns, {}, None, np.empty(0, np.int64), [])
    answers = Answers(one, in_turn=False)
    merge.put_answers(answers, slices, told, [part_of(one, slices[0], told=told[0]), lost])
    assert answers.faults.failed == Counter({"full": 1, merge.FAILED_REASON_LOST: 1})
    assert answers.faults.refused == Counter({"twice": 2})
    assert answers.faults.unanswered == 1
    assert answers.aborted == "gone"


def test_how_it_ended() -> None:
    def end(*ends: End, lost: bool = False, all_issued: bool = True, limited: bool = False) -> End:
        return merge.end_of(ends, lost=lost, all_issued=all_issued, limited=limited)

    assert end(End.ALL_ISSUED, End.ALL_ISSUED) == End.ALL_ISSUED
    assert end(End.MET, End.MET) == End.MET
    assert end(End.ALL_ISSUED, End.NO_ANSWER) == End.NO_ANSWER
    assert end(End.ALL_ISSUED, End.ALL_ISSUED, limited=True) == End.MAX_QUERIES
    assert end(End.RAN_OUT, End.MET) == End.RAN_OUT
    assert end(End.RAN_OUT, End.MET, limited=True) == End.MAX_QUERIES
    assert end(End.ALL_ISSUED, lost=True) == End.GENERATOR_LOST


def test_costs_add_up() -> None:
    one, two = Overhead(3.0, 1.0, 1.5, 2, 0.1, 7, 0.2), Overhead(4.0, 2.0, 2.5, 0, 0.0, None, 0.3)
    found = merge.overhead_of([one, two, two], ["a", "a", "b"])
    assert found == Overhead(4.0, 5.0, 6.5, 2, 0.1, 7, pytest.approx(0.6))


def test_pacing_adds_up() -> None:
    one, two = Pacing(30_000, 5, 700, 10, True), Pacing(40_000, 6, 300, 0, False)
    assert merge.pacing_of([one, two]) == Pacing(40_000, 11, 700, 10, False)
    assert merge.pacing_of([one]) == one


def test_warm_ups_go_on_side_by_side() -> None:
    assert merge.warmed_of([WarmUpReport(20, 1.5, 1), WarmUpReport(21, 1.25, 2)]) == WarmUpReport(41, 1.5, 3)
    assert merge.warmed_of([]) == WarmUpReport()
