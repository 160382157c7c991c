"""The warm-up: unmeasured queries through the system under test, before the first phase of a run begins.

They are the phase's own queries from the first on (again from the first after its last), so they have its samples, its
width and its pace.  Their rows lie beyond the run's in the same table, so the run's draws, order and columns are as
without a warm-up.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, replace

import numpy as np

from drumfire.loadgen.advice import Knobs
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.issue import End, Limits, issue
from drumfire.loadgen.pacer import Pacer
from drumfire.loadgen.record import Record
from drumfire.loadgen.system import SystemUnderTest
from drumfire.loadgen.traffic import Phase
from drumfire.loadgen.wording import counted

_ROUND_QUERIES = 1024
"""Queries to issue before the answers to all of them are awaited; bounds the rows that a warm-up needs."""
_MOST = 1_000_000_000
"""Of queries or seconds, as of other options."""
_FORM = re.compile(r"(?P<queries>\d+)|(?P<seconds>\d+(\.\d+)?|\.\d+)s")


class WarmUpError(UserError):
    """The system answers nothing.  The text is one line and says what to do."""


@dataclass(frozen=True)
class WarmUp:
    """How long to warm up: a number of queries (in Offline: of samples), or a time.  One of them is 0."""

    queries: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, text: str) -> WarmUp | None:
        """From ``200`` (queries) or ``5s`` (seconds); None for none.  Raises ``UserError``."""
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise UserError(
                f"--warmup: {text[:60]!r} is neither a number of queries, such as 200, nor a time, such as 5s"
            )
        if float(found["queries"] or found["seconds"]) > _MOST:
            raise UserError(f"--warmup: must be at most {_MOST:,} queries or seconds")
        asked = cls(int(found["queries"] or 0), float(found["seconds"] or 0))
        return asked if asked.queries or asked.seconds else None

    def __str__(self) -> str:
        return counted(self.queries, "query") if self.queries else f"{self.seconds:g} s"

    def part(self, parts: int) -> WarmUp:
        """Each of several generators' part: of the queries, at least 1; of a time, all of it."""
        return replace(self, queries=-(-self.queries // parts))

    def rows(self, width: int) -> int:
        """Rows that it needs beyond the run's, for queries of ``width`` samples."""
        return min(self.queries or _ROUND_QUERIES, _ROUND_QUERIES) * width

    def longest_s(self, qps: float) -> float:
        """About the most that it takes at an expected rate, 1/s, if the system answers."""
        return self.seconds + 10 * self.queries / qps


@dataclass
class WarmUpReport:
    """What a warm-up did."""

    queries: int = 0
    seconds: float = 0.0
    failed: int = 0
    """Samples that the system could not answer.  They do not count against the run."""

    @property
    def warnings(self) -> list[str]:
        return [f"{counted(self.failed, 'sample')} of the warm-up failed"] if self.failed else []


async def warm_up(
    length: WarmUp,
    phase: Phase,
    answers: Answers,
    system: SystemUnderTest,
    patience_s: float,
    report: WarmUpReport,
    knobs: Knobs,
) -> None:
    """Issue unmeasured queries of ``phase``; ``report`` is kept up to date, also where this is cancelled.

    Raises ``WarmUpError`` after ``patience_s`` without a good answer.
    """
    record, width = answers.record, phase.samples_per_query
    if not answers.in_turn and phase.scheduled is None:  # Offline: the query is split by samples
        width = 1
    total = phase.rows // width
    began_s = time.monotonic()
    with Pacer(answers.spin) as pacer:
        while total and not _is_enough(length, report):
            left_ns = round((length.seconds - report.seconds) * 1e9) if length.seconds else 0
            first = report.queries % total
            count = min(record.spare // width, total - first)
            if length.queries:
                count = min(count, length.queries - report.queries)
            queries = _spare_phase(phase, record, first * width, count * width, left_ns)
            answers.begin_warm_up(queries)
            limits = Limits(
                min_queries=0 if length.seconds else sys.maxsize,
                target_duration_ns=left_ns,
                max_duration_ns=left_ns if phase.scheduled is not None else 0,
            )
            try:
                end = await issue(queries, limits, system, answers, pacer, patience_s)
            finally:
                report.queries += (answers.issued - queries.first_row) // width
                report.failed += answers.end_warm_up()
                report.seconds = time.monotonic() - began_s
            if end == End.NO_ANSWER:
                raise WarmUpError(
                    f"the warm-up got no answer for {patience_s:g} s "
                    f"(raise {knobs.patience} if the system is only slow)"
                )


def _is_enough(length: WarmUp, report: WarmUpReport) -> bool:
    return report.seconds >= length.seconds if length.seconds else report.queries >= length.queries


def _spare_phase(phase: Phase, record: Record, first: int, count: int, left_ns: int) -> Phase:
    """``count`` rows of the phase from its row ``first`` on, as a phase in the table's spare rows.

    Where they have a schedule and there is a time, at least one, and those due within it.
    """
    for column in record.columns.values():
        column[record.rows :] = 0
    scheduled = None
    if phase.scheduled is not None:
        scheduled = phase.scheduled[first : first + count] - phase.scheduled[first]
        if left_ns:
            count = max(int(np.searchsorted(scheduled, left_ns)), 1)
            scheduled = scheduled[:count]
    part = replace(
        phase,
        accuracy=False,
        first_row=record.rows,
        sample_index=phase.sample_index[first : first + count],
        scheduled=scheduled,
        logged=None,
        samples_per_query=min(phase.samples_per_query, count),
    )
    return part.entered(record)
