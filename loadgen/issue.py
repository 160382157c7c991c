"""The issue loops: pass every row of a phase to the system under test, in order, each at its time.

The only writer of ``issued`` (and of ``scheduled``, for queries that are due when they are issued).  Rows that are due
together make one slice, one clock read and one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import sys
import time
from dataclasses import dataclass

import numpy as np

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.closed_loop import ThinkingUsers
from drumfire.loadgen.pacer import Pacer
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.settings import EffectiveSettings, Scenario
from drumfire.loadgen.system import Answer, SystemUnderTest
from drumfire.loadgen.traffic import Phase

_HOLD_NS = 1_000_000
"""How long a loop that never waits may keep the event loop from other work."""
_AHEAD_ROWS = 256
"""Rows whose deadlines are made a list at a time: reading a list costs a fraction of reading an array, and making one
of this length delays a query by a few us."""
_SEARCH_ROWS = 4096
"""Rows to search for those due by now, beyond these: limits a burst, and is small enough for the cache."""
_NEVER = sys.maxsize
_BURST_QUERIES = 4096
"""Queries of a closed loop to book together."""


class End(enum.Enum):
    """Why issuing ended.  The values are the log's texts."""

    ALL_ISSUED = "Ending naturally: all generated queries were issued."
    MET = "Ending naturally: Minimum query count and test duration met."
    RAN_OUT = (
        "Ending early: Ran out of generated queries to issue before the minimum query count and test duration were "
        "reached. Please update the relevant expected latency or target qps."
    )
    MAX_QUERIES = "Ending early: max query count was reached."
    MAX_DURATION = "Ending early: max test duration was reached."
    MAX_ASYNC = "Ending early: too many outstanding queries."
    NO_ANSWER = "Ending early: the system under test stopped answering."
    SYSTEM_GONE = "Ending early: the system under test is gone."
    GENERATOR_LOST = "Ending early: a load generator was lost."
    INTERRUPTED = "Ending early: the run was interrupted."
    DECIDED = "Ending naturally: nothing more can be learnt from further queries."

    @property
    def is_error(self) -> bool:
        return self not in (End.ALL_ISSUED, End.MET, End.DECIDED)


@dataclass(frozen=True)
class Limits:
    """When a phase stops before all rows are issued.  0 is no limit."""

    min_queries: int
    target_duration_ns: int = 0
    max_queries: int = 0
    max_duration_ns: int = 0
    max_async: int = 0

    @classmethod
    def of(cls, settings: EffectiveSettings, phase: Phase) -> Limits:
        if phase.accuracy:  # no limit, whatever the settings say
            return cls(min_queries=sys.maxsize)
        return cls(
            settings.min_query_count,
            settings.target_duration_ms * 1_000_000,
            settings.max_query_count,
            settings.max_duration_ms * 1_000_000,
            settings.max_async_queries if settings.scenario == Scenario.Server else 0,
        )

    def reached(self, queries: int, elapsed_ns: int) -> End | None:
        """Closed loops: why to end after ``queries`` queries, the last issued ``elapsed_ns`` after the start."""
        if queries >= self.min_queries and elapsed_ns >= self.target_duration_ns:
            return End.MET
        if self.max_queries and queries >= self.max_queries:
            return End.MAX_QUERIES
        if self.max_duration_ns and elapsed_ns > self.max_duration_ns:
            return End.MAX_DURATION
        return None

    def most(self, queries: int, elapsed_ns: int) -> int:
        """How many queries may be issued together at ``elapsed_ns``, after ``queries``, so that none passes a limit."""
        most = self.max_queries - queries if self.max_queries else sys.maxsize
        if elapsed_ns >= self.target_duration_ns:
            most = min(most, max(self.min_queries - queries, 1))
        return 1 if self.max_duration_ns and elapsed_ns > self.max_duration_ns else most


async def issue(
    phase: Phase,
    limits: Limits,
    system: SystemUnderTest,
    answers: Answers,
    pacer: Pacer,
    patience_s: float,
    drain_s: float | None = None,
) -> End:
    """Issue a phase's rows, flush, and wait for the last answer.

    After ``patience_s`` without a good answer, the run stops waiting and gives up on the outstanding rows.
    ``drain_s`` is the longest total wait after the end ``DECIDED``.
    """
    if phase.scheduled is not None:
        end = await _issue_scheduled(phase, limits, system, answers, pacer)
    elif phase.concurrency:
        end = await _issue_concurrent(phase, limits, system, answers, pacer, patience_s)
    elif answers.in_turn and (answer := system.answer) is not None:
        end = await _issue_inline(phase, limits, answer, answers, pacer)
    elif answers.in_turn:
        end = await _issue_closed(phase, limits, system, answers, pacer, patience_s)
    else:
        end = await _issue_together(phase, limits, system, answers)
    system.flush()
    if end == End.DECIDED and drain_s is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await answers.wait(answers.issued, patience_s)
        return end
    if end != End.NO_ANSWER and not await answers.wait(answers.issued, patience_s):
        end = End.NO_ANSWER
    return end


async def _issue_scheduled(
    phase: Phase, limits: Limits, system: SystemUnderTest, answers: Answers, pacer: Pacer
) -> End:
    """Server: issue each query at its time.  Late queries go out at once, and the schedule does not move."""
    record, clock, origin = answers.record, time.monotonic_ns, answers.origin_ns
    first_row = phase.first_row
    stop = first_row + (min(phase.rows, limits.max_queries) if limits.max_queries else phase.rows)
    scheduled, issued, issued_view = record.scheduled, record.issued, record.view("issued")
    take, max_async, max_duration_ns = system.issue, limits.max_async, limits.max_duration_ns
    limited, last_spin_ns = bool(max_async or max_duration_ns), pacer.last_spin_ns
    row, spun_ns = first_row, 0
    serve_ns = pacer.settle() + _HOLD_NS
    try:
        while row < stop:
            ahead: list[int] = (scheduled[row : min(row + _AHEAD_ROWS, stop)] + origin).tolist()
            if row + len(ahead) == stop:
                ahead.append(_NEVER)
            dues = iter(ahead)
            due, last = next(dues), row
            for following in dues:
                now = clock()
                if now > serve_ns:
                    pacer.waited_ns += spun_ns
                    now, spun_ns = await pacer.serve(), 0
                    serve_ns = now + _HOLD_NS
                    if answers.enough:
                        return End.NO_ANSWER if answers.hopeless else End.DECIDED
                left_ns = due - now
                if left_ns > 0:
                    if left_ns > last_spin_ns:
                        pacer.waited_ns += spun_ns
                        now, spun_ns = await pacer.until(due, now), 0
                        serve_ns = pacer.served_ns + _HOLD_NS
                        # ``enough`` is only set while this coroutine awaits, so checking it here suffices.
                        if answers.enough:
                            return End.NO_ANSWER if answers.hopeless else End.DECIDED
                    else:
                        spun_ns -= now
                        while (now := clock()) < due:
                            pass
                        spun_ns += now
                elapsed = now - origin
                issued_view[last] = elapsed
                last += 1
                if following <= now and not max_async:  # a burst must not run past the limit
                    issued_view[last] = elapsed
                    last += 1
                    for following in dues:  # of the same iterator
                        if following > now:
                            break
                        issued_view[last] = elapsed
                        last += 1
                    else:
                        more = int(scheduled[last : min(last + _SEARCH_ROWS, stop)].searchsorted(elapsed, "right"))
                        issued[last : last + more] = elapsed
                        last += more
                answers.issued = last
                take(row, last)
                row, due = last, following
                if limited:
                    if max_async and row - answers.pull() > max_async:
                        return End.MAX_ASYNC
                    if max_duration_ns and elapsed > max_duration_ns:
                        full = limits.max_queries and row - first_row >= limits.max_queries
                        return End.MAX_QUERIES if full else End.MAX_DURATION
    finally:
        pacer.waited_ns += spun_ns
        pacer.settle()
    if limits.max_queries and row - first_row >= limits.max_queries:
        return End.MAX_QUERIES
    return End.ALL_ISSUED


async def _issue_closed(
    phase: Phase, limits: Limits, system: SystemUnderTest, answers: Answers, pacer: Pacer, patience_s: float
) -> End:
    """SingleStream and MultiStream: a query is due when the previous query is answered."""
    record, clock, origin = answers.record, time.monotonic_ns, answers.origin_ns
    width = phase.samples_per_query
    take = system.issue
    answers.patience_s = patience_s
    row, end_row, queries = phase.first_row, phase.first_row + phase.rows, 0
    while row < end_row:
        elapsed = clock() - origin
        last = row + width
        record.scheduled[row:last] = elapsed
        record.issued[row:last] = elapsed
        answers.issued = last
        take(row, last)
        row, queries = last, queries + 1
        if answers.answered < last:
            if not await answers.wait(last, patience_s):
                return End.NO_ANSWER
        elif elapsed + origin - pacer.served_ns > _HOLD_NS:
            await pacer.serve()
        if (end := limits.reached(queries, elapsed)) is not None:
            return end
        if answers.enough:
            return End.NO_ANSWER if answers.hopeless else End.DECIDED
    return End.ALL_ISSUED if phase.accuracy else End.RAN_OUT


async def _issue_inline(phase: Phase, limits: Limits, answer: Answer, answers: Answers, pacer: Pacer) -> End:
    """As ``_issue_closed``, but the system answers in the call, and only two clock reads come between the answers.

    Rows are booked in bursts of about ``_HOLD_NS``, so that the table costs each query next to nothing.
    """
    clock, origin, width = time.monotonic_ns, answers.origin_ns, phase.samples_per_query
    issued, completed = np.empty(_BURST_QUERIES, np.int64), np.empty(_BURST_QUERIES, np.int64)
    issued_view, completed_view = issued.data, completed.data
    target_ns = origin + limits.target_duration_ns
    limit_ns = origin + (limits.max_duration_ns or sys.maxsize)
    row, queries, total = phase.first_row, 0, phase.query_count
    while queries < total:
        await pacer.serve()
        if answers.enough:
            return End.DECIDED
        most = min(_BURST_QUERIES, total - queries)
        if limits.max_queries:
            most = min(most, limits.max_queries - queries)
        # A burst ends where a limit may be reached, so that the limits hold query by query.
        now = clock()
        hold_until = now + _HOLD_NS
        if now < target_ns:
            hold_until = min(hold_until, target_ns)
        else:
            most = min(most, max(limits.min_queries - queries, 1))
        if now < limit_ns:
            hold_until = min(hold_until, limit_ns)
        else:
            most = 1
        done = 0
        kept: list[tuple[int, Responses]] = []
        failed: list[tuple[int, Exception]] = []
        try:
            while done < most:
                first = row + done * width
                issued_view[done] = clock()
                try:
                    responses = answer(first, first + width)
                except Exception as error:  # any error of the model: this query fails, and the run continues
                    failed.append((first, error))
                    responses = None
                now = clock()
                if responses is None:
                    completed_view[done] = now
                elif isinstance(responses, int):
                    completed_view[done] = responses
                else:
                    completed_view[done] = now
                    kept.append((first, responses))
                done += 1
                if now >= hold_until:
                    break
        finally:  # an interrupt must not lose the answers before it
            answers.book(row, width, issued[:done] - origin, completed[:done] - origin, kept, failed)
        elapsed = issued_view[done - 1] - origin
        row, queries = row + done * width, queries + done
        if (end := limits.reached(queries, elapsed)) is not None:
            return end
    return End.ALL_ISSUED if phase.accuracy else End.RAN_OUT


async def _issue_concurrent(
    phase: Phase, limits: Limits, system: SystemUnderTest, answers: Answers, pacer: Pacer, patience_s: float
) -> End:
    """A closed loop of n: a query is due when one of n is answered, or the think time after that.

    Here ``scheduled`` is the moment of issue; ``closed_loop.enter_dues`` corrects it when all is over.
    """
    record, clock, origin = answers.record, time.monotonic_ns, answers.origin_ns
    issued, scheduled, take = record.issued, record.scheduled, system.issue
    users = ThinkingUsers(phase, answers) if phase.think_time_ns else None
    answers.patience_s = patience_s
    row, end_row, places = phase.first_row, phase.first_row + phase.rows, phase.concurrency
    while row < end_row:
        if users is None:
            free, awaited = answers.pull() + places - row, row - places + 1
        else:
            free, awaited = await users.ready(row, pacer)
        if free:
            elapsed = clock() - origin
            last = min(row + min(free, limits.most(row - phase.first_row, elapsed)), end_row)
            scheduled[row:last] = elapsed
            issued[row:last] = elapsed
            answers.issued = last
            take(row, last)
            if users is not None:
                users.add(row, last)
            row = last
            if (end := limits.reached(row - phase.first_row, elapsed)) is not None:
                return end
            if elapsed + origin - pacer.served_ns > _HOLD_NS:
                await pacer.serve()
        elif not await answers.wait(awaited, patience_s):
            return End.NO_ANSWER
        else:
            pacer.served_ns = clock()
        if answers.enough:
            return End.NO_ANSWER if answers.hopeless else End.DECIDED
    return End.ALL_ISSUED if phase.accuracy else End.RAN_OUT


async def _issue_together(phase: Phase, limits: Limits, system: SystemUnderTest, answers: Answers) -> End:
    """Offline: one query of all samples, due at the start."""
    first, last = phase.first_row, phase.first_row + phase.rows
    answers.record.issued[first:last] = answers.now()
    answers.issued = last
    system.issue(first, last)
    return End.ALL_ISSUED if phase.accuracy else End.MET
