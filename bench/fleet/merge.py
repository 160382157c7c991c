"""Puts the generators' parts back by row, into the table that a single generator would have written.

Only handles columns.  Does not depend on processes or hosts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from drumfire.bench.fleet.child import Part
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.draws import Int64Array
from drumfire.loadgen.issue import End
from drumfire.loadgen.overhead import Overhead
from drumfire.loadgen.pacer import Pacing
from drumfire.loadgen.record import Column, Record, Status
from drumfire.loadgen.responses import Kept
from drumfire.loadgen.share import Slice
from drumfire.loadgen.warm_up import WarmUpReport

FAILED_REASON_LOST = "failed, and the generator that knew why was lost"
_ENDS = (End.NO_ANSWER, End.SYSTEM_GONE, End.INTERRUPTED, End.MAX_DURATION, End.RAN_OUT, End.MAX_QUERIES)
"""In order: the first of these with which any generator ended is the end of the phase."""


def put_back(record: Record, first: int, last: int, slices: Mapping[int, Slice], parts: Sequence[Part]) -> int:
    """Enter the parts of rows [first, last) into the whole table; returns the row after the last issued row.

    Earlier rows that no part has become MISSING.
    """
    status = record.status
    status[first:last] = Status.MISSING
    end = first
    for part in parts:
        if not part.rows.size:
            continue
        rows = slices[part.part].whole(part.rows)
        for name, column in part.columns.items():
            record.columns[name][rows] = column
        for name, flat in part.flat.items():
            record.flat_columns[name].put(rows, flat)
        end = max(end, int(rows[-1]) + 1)
    status[end:last] = Status.PENDING
    return end


def is_known(status: Column) -> Column:
    """Which rows have an outcome, as a mask: neither pending nor lost with their generator."""
    known: Column = (status != Status.PENDING) & (status != Status.MISSING)
    return known


def put_answers(
    answers: Answers, slices: Mapping[int, Slice], messages: Mapping[int, Mapping[str, Any]], parts: Iterable[Part]
) -> None:
    """Enter the faults of the run so far, from each generator's last message, and this phase's responses."""
    faults = answers.faults
    reason_lost = faults.failed[FAILED_REASON_LOST]
    faults.failed, faults.refused = +Counter({FAILED_REASON_LOST: reason_lost}), Counter()
    for one in messages.values():
        faults.failed.update(one["failed"])
        faults.refused.update(one["refused"])
    answers.aborted = next((one["aborted"] for one in messages.values() if one["aborted"] is not None), answers.aborted)
    rows: list[Int64Array] = []
    responses: list[bytes] = []
    for part in parts:
        status = part.columns["status"]
        faults.unanswered += int(np.count_nonzero(status == Status.UNANSWERED))
        if part.message is None and (failed := int(np.count_nonzero(status == Status.FAILED))):
            faults.failed[FAILED_REASON_LOST] += failed
        if part.kept:
            rows.append(slices[part.part].whole(part.kept_rows))
            responses += part.kept
    if rows:
        # The accuracy log has them in the order of completion.
        kept = np.concatenate(rows)
        order = np.argsort(answers.record.completed[kept], kind="stable")
        answers.kept.append(Kept(kept[order], [responses[at] for at in order.tolist()]))


def end_of(ends: Sequence[End], *, lost: bool, all_issued: bool, limited: bool) -> End:
    """How a phase of the whole run ended.  ``limited``: max_query_count bounds it."""
    if lost:
        return End.GENERATOR_LOST
    for end in _ENDS:
        if end in ends and not (end == End.RAN_OUT and limited):
            return end
    if limited and all_issued:
        return End.MAX_QUERIES
    return ends[0] if ends else End.ALL_ISSUED


def overhead_of(parts: Sequence[Overhead], host_of: Sequence[str]) -> Overhead:
    """The sum over the generators, but the longest wall time, and what a host's generators share once for each host."""

    def once(name: str) -> Any:
        most: dict[str, Any] = {}
        for part, host in zip(parts, host_of, strict=True):
            if (value := getattr(part, name)) is not None:
                most[host] = max(most.get(host, 0), value)
        return sum(most.values()) if most else None

    switches = [part.involuntary_switches for part in parts if part.involuntary_switches is not None]
    return Overhead(
        max(part.wall_s for part in parts),
        sum(part.issuing_thread_cpu_s for part in parts),
        sum(part.process_cpu_s for part in parts),
        sum(part.gc_collections for part in parts),
        sum(part.gc_pause_s for part in parts),
        sum(switches) if switches else None,
        once("steal_s"),
        once("throttled_s"),
        once("throttled_periods"),
    )


def pacing_of(parts: Sequence[Pacing]) -> Pacing:
    """The sum of the times over the generators, but the longest window and stall, and the worst timer."""
    return Pacing(
        window_ns=max(part.window_ns for part in parts),
        spun_ns=sum(part.spun_ns for part in parts),
        longest_stall_ns=max(part.longest_stall_ns for part in parts),
        realtime_ns=sum(part.realtime_ns for part in parts),
        exact_timer=all(part.exact_timer for part in parts),
    )


def warmed_of(parts: Sequence[WarmUpReport]) -> WarmUpReport:
    """All warm-ups, which go on side by side."""
    return WarmUpReport(
        sum(part.queries for part in parts),
        max((part.seconds for part in parts), default=0.0),
        sum(part.failed for part in parts),
    )
