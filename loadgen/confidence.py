"""When a run may stop before all of its traffic is issued: early stopping, tested repeatedly during the run.

``Tally`` counts from the run's table; the rules, from counts to a reason to stop, are pure arithmetic.  The plain
test, if repeated at every moment, would sooner or later accept anything, so the rule that extends a run uses a test
whose confidence holds over all repetitions together.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from drumfire.loadgen.advice import Knobs, of_settings
from drumfire.loadgen.early_stopping import CONFIDENCE
from drumfire.loadgen.record import Record, Status
from drumfire.loadgen.settings import EffectiveSettings, percentile_name
from drumfire.loadgen.traffic import Phase
from drumfire.loadgen.wording import counted, each_is

_LOOK_QUERIES = 1 << 16
"""Queries to count at a time, which limits the memory of ``Tally.look``."""


@dataclass(frozen=True)
class Count:
    """The run's settled queries: the first ``queries`` of them, without a gap."""

    queries: int
    over: int
    """How many of them were over the bound (with two token bounds: over the one that is exceeded more often)."""
    due_ns: int
    """When the last of them was due, after the phase's start."""


class StopRule(Protocol):
    """Checked several times a second while a performance phase issues."""

    @property
    def bound_ns(self) -> int:
        """The latency bound; with token latencies, the settings' own bounds apply instead."""

    @property
    def limit_ms(self) -> int | None:
        """How much traffic to draw; None for the settings' own duration."""

    @property
    def drain_s(self) -> float | None:
        """How long to wait for outstanding answers after the last issue; None for as long as answers arrive."""

    def reached(self, count: Count) -> str | None:
        """Why to stop issuing, or None to continue."""

    @property
    def objection(self) -> str | None:
        """After the run: why it is INVALID, whatever the other checks say, or None."""


class Verdict(enum.Enum):
    PASSES = "passes"
    FAILS = "fails"
    OPEN = "open"


class SequentialTest:
    """Whether the share of queries over the bound is below ``1 - percentile`` or above it; may be repeated at will.

    For each side, the statistic is the mean likelihood ratio of a set of shares on that side against the border.  It is
    a martingale, so the chance that it ever reaches 1/(1 - CONFIDENCE) while the truth is at the border, or beyond it,
    is at most 1 - CONFIDENCE (Ville's inequality).  By Markov's inequality, runs that pass here pass the plain test.
    """

    def __init__(self, percentile: float) -> None:
        border = 1.0 - percentile
        distances = np.geomspace(0.02, 6.0, 24)
        self._sides = {}
        for verdict, sign in ((Verdict.PASSES, -1.0), (Verdict.FAILS, 1.0)):
            odds = border / percentile * np.exp(sign * distances)
            share = odds / (1.0 + odds)
            self._sides[verdict] = (np.log(share / border), np.log((1.0 - share) / percentile))
        self._enough = -float(np.log(1.0 - CONFIDENCE))

    def verdict(self, queries: int, over: int) -> Verdict:
        for verdict, (each_over, each_within) in self._sides.items():
            logs = over * each_over + (queries - over) * each_within
            highest = float(logs.max())
            if highest + float(np.log(np.mean(np.exp(logs - highest)))) >= self._enough:
                return verdict
        return Verdict.OPEN


class UntilConfident:
    """Extends a Server run beyond its minimum duration until the test decides, up to ``limit_ms``."""

    def __init__(self, settings: EffectiveSettings, limit_ms: int, knobs: Knobs | None = None) -> None:
        """``knobs``: what advice names; by default, the settings."""
        self._knobs = of_settings(settings.scenario) if knobs is None else knobs
        self.bound_ns, self.limit_ms = settings.target_latency_ns, limit_ms
        self.drain_s = None
        self.verdict, self.count = Verdict.OPEN, Count(0, 0, 0)
        self._test = SequentialTest(settings.target_latency_percentile)
        self._percentile = settings.target_latency_percentile
        self._least_ns, self._least_queries = settings.min_duration_ms * 1_000_000, settings.min_query_count

    def reached(self, count: Count) -> str | None:
        self.count = count
        if count.due_ns < self._least_ns or count.queries < self._least_queries:
            return None
        self.verdict = self._test.verdict(count.queries, count.over)
        if self.verdict == Verdict.OPEN:
            return None
        return f"early stopping is decided: the run {self.verdict.value}, {_over_text(count)}"

    @property
    def objection(self) -> str | None:
        if self.verdict == Verdict.PASSES:
            return None
        percentile = percentile_name(self._percentile)
        if self.verdict == Verdict.FAILS:
            return (
                f"Early stopping is decided at {CONFIDENCE:.0%} confidence: {_over_text(self.count)}, which is "
                f"too many for {percentile}; lower {self._knobs.rate.name}."
            )
        return (
            f"Early stopping did not decide at {CONFIDENCE:.0%} confidence within {self.limit_ms / 1000:g} s: "
            f"{_over_text(self.count)}, too close to {percentile} to tell; raise {self._knobs.until_confident}, or "
            f"lower {self._knobs.rate.name} a little."
        )


class CutShort:
    """Ends a run that can no longer pass: more than ``allowed`` of the planned queries are over the bound."""

    limit_ms = None

    def __init__(self, bound_ns: int, planned: int, allowed: int) -> None:
        self.bound_ns, self.planned, self.allowed = bound_ns, planned, allowed
        self.drain_s = 1.0 + 2e-9 * bound_ns
        self.objection: str | None = None
        self.count = Count(0, 0, 0)

    def reached(self, count: Count) -> str | None:
        self.count = count
        if count.over <= self.allowed:
            return None
        self.objection = (
            f"hopeless after {count.due_ns * 1e-9:.1f} s: {_over_text(count)}, and a run of {self.planned:,} cannot "
            f"pass with more than {max(self.allowed, 0):,}"
        )
        return self.objection


def _over_text(count: Count) -> str:
    return f"{count.over:,} of {counted(count.queries, 'query')} {each_is(count.over, 'were')} over latency"


class Tally:
    """Counts a phase's settled queries as they arrive, each once."""

    def __init__(self, record: Record, phase: Phase, settings: EffectiveSettings, bound_ns: int) -> None:
        self._record, self._phase, self._settings, self._bound_ns = record, phase, settings, bound_ns
        self._by_tokens = settings.use_token_latencies and record.has_tokens
        self._queries = 0
        self._over = np.zeros(2 if self._by_tokens else 1, np.int64)
        self._due_ns = 0

    def look(self, issued_rows: int, now_ns: int) -> Count:
        """Count the queries of rows [0, issued_rows) that are settled at ``now_ns``, ns after the phase's start."""
        width, first_row = self._phase.samples_per_query, self._phase.first_row
        while True:
            issued = max(issued_rows - first_row, 0) // width
            stop = min(issued, self._queries + _LOOK_QUERIES)
            rows = slice(first_row + self._queries * width, first_row + stop * width)
            settled = self._settled(rows, width, now_ns)
            self._queries += settled
            if settled:
                last = first_row + (self._queries - 1) * width
                self._due_ns = int(self._record.scheduled[last])
            if settled < _LOOK_QUERIES:
                return Count(self._queries, int(self._over.max()), self._due_ns)

    def _settled(self, rows: slice, width: int, now_ns: int) -> int:
        """How many of these queries come before the first unsettled query; adds those over the bound to the counts."""
        record = self._record
        status = record.status[rows].reshape(-1, width)
        due = record.scheduled[rows].reshape(-1, width)
        waiting = (status == Status.PENDING).any(axis=1)
        # A query that has waited longer than the bound is over it, whenever its answer arrives.
        overdue = waiting & (now_ns - due[:, 0] > self._bound_ns) if not self._by_tokens else np.zeros_like(waiting)
        pending = waiting & ~overdue
        settled = int(pending.argmax()) if pending.any() else pending.size
        if settled == 0:
            return 0
        failed = ((status == Status.FAILED) | (status == Status.UNANSWERED)).any(axis=1)
        completed = record.completed[rows].reshape(-1, width)
        if self._by_tokens:
            first = record.columns["first_token"][rows]
            tokens = np.maximum(record.columns["n_tokens"][rows].astype(np.int64) - 1, 1)
            slow = [first - due[:, 0] > self._settings.ttft_latency]
            slow.append((completed[:, 0] - first) // tokens > self._settings.tpot_latency)
        else:
            slow = [completed.max(axis=1) - due[:, 0] > self._bound_ns]
        for at, over in enumerate(slow):
            self._over[at] += np.count_nonzero((over | overdue | failed)[:settled])
        return settled
