"""What to change where a run is INVALID, by the names that its user sets things by.

The logs keep the reference's own words (``results``); these lines are for people.  Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import TYPE_CHECKING

from drumfire.loadgen import early_stopping
from drumfire.loadgen.settings import EffectiveSettings, Loop, Mode, Scenario, percentile_name
from drumfire.loadgen.wording import counted, each_is

if TYPE_CHECKING:
    from drumfire.loadgen.results import Results

EXITED_EARLY = "The test exited early, before enough queries were issued."
"""The reference's words, before those on where to look."""
_MORE = 1.05
"""Advice on the number of queries is for somewhat more than just enough, as no two runs are equally fast."""


@dataclass(frozen=True)
class Knob:
    """Something that a user sets."""

    name: str
    unit: str = ""
    factor: float = 1.0
    """From seconds to what it takes."""

    def at_least(self, value: float) -> str:
        """This name with a round value that is not below ``value``, s or 1/s."""
        return f"{self.name} to {self._written(value, ROUND_CEILING)}{self.unit} or more"

    def at_most(self, value: float) -> str:
        return f"{self.name} to {self._written(value, ROUND_FLOOR)}{self.unit} or less"

    def _written(self, value: float, rounding: str) -> str:
        rounded = Context(prec=2, rounding=rounding).create_decimal(Decimal(value) * Decimal(self.factor))
        return f"{rounded.normalize():f}"


@dataclass(frozen=True)
class Bound:
    """What bounds the requests under way to a remote system first."""

    name: str = ""
    """What a user raises; empty where there is no such thing."""
    most: int | None = None
    """Requests; None where only the system knows."""
    batched: bool = False
    """Whether a request may hold several samples."""
    awaited: str = "a free connection"
    """What a request waits for when so many are under way."""


@dataclass(frozen=True)
class Knobs:
    """The names of what a user sets.  One that is empty cannot be set."""

    time: Knob
    count: Knob
    rate: Knob
    bound: Knob
    expected_latency: Knob
    max_duration: str
    patience: str
    width: str
    """The samples of a query in MultiStream."""
    threads: str = ""
    """What takes cores from the generator."""
    workers: str = ""
    """How many processes send."""
    sending: Bound = Bound()
    until_confident: str = ""
    """How long a run may go on until it is confident."""


OPTIONS = Knobs(
    time=Knob("--time", " s"),
    count=Knob("--count"),
    rate=Knob("--qps"),
    bound=Knob("--max-latency", " s"),
    expected_latency=Knob(""),
    max_duration="max_duration in --user-conf",
    patience="--patience",
    width="--samples-per-query",
    until_confident="--until-confident",
)
"""Those of ``drumfire run``."""


def of_settings(scenario: Scenario) -> Knobs:
    """Those of ``TestSettings``, for programs."""
    return Knobs(
        time=Knob("min_duration_ms", "", 1e3),
        count=Knob("max_query_count"),
        rate=Knob("offline_expected_qps" if scenario == Scenario.Offline else "server_target_qps"),
        bound=Knob("server_target_latency_ns", "", 1e9),
        expected_latency=Knob(
            f"{'multi' if scenario == Scenario.MultiStream else 'single'}_stream_expected_latency_ns", "", 1e9
        ),
        max_duration="max_duration_ms",
        patience="patience_s",
        width="multi_stream_samples_per_query",
        until_confident="limit_ms",
    )


def advice(s: EffectiveSettings, r: Results, knobs: Knobs) -> Iterator[str]:
    """A line for each rule that the run broke, and what to do about it.

    What else spoiled a run comes first: of such a run, nothing is said on how long it was.
    """
    if s.scenario == Scenario.Server:
        yield from _on_latency(s, r, knobs)
    if r.spoiled:
        return
    if not r.duration_met:
        yield _on_duration(s, r, knobs)
    if not r.queries_met and (r.duration_met or not _limited(s, r)):
        yield _on_count(s, r, knobs)
    if not r.stopping.met and not r.stopping.over:
        yield _on_stopping(s, r, knobs)


def foreseen(s: EffectiveSettings, queries: int, last_due_ns: int, knobs: Knobs) -> Iterator[str]:
    """Why a Server test can only end INVALID, from its traffic: its ``queries``, the last due at ``last_due_ns``."""
    least = early_stopping.least_queries(s.target_latency_percentile)
    percentile = percentile_name(s.target_latency_percentile)
    if queries < least:
        cure = f"raise {knobs.count.name} to {least} or more, or leave it out"
        if not s.max_query_count:
            cure = _longer(s, least, knobs)
        yield (
            f"this run can only be INVALID: {counted(queries, 'query')} {each_is(queries)} fewer than the "
            f"{least} that early stopping needs for {percentile}; {cure}"
        )
    if last_due_ns < s.min_duration_ms * 1_000_000:
        yield (
            f"this run can only be INVALID: its {counted(queries, 'query')} {each_is(queries)} "
            f"{'all ' * (queries != 1)}due within {last_due_ns * 1e-9:.2f} s, "
            f"before the minimum duration of {s.min_duration_ms / 1000:g} s; leave {knobs.count.name} out, or lower "
            f"{knobs.time.name}"
        )


def on_lateness(s: EffectiveSettings, knobs: Knobs) -> str:
    """What helps a generator that issues late."""
    cures = [f"free a core for the generator{f' (fewer {knobs.threads})' if knobs.threads else ''}"]
    if s.scenario == Scenario.Server:
        cures += [f"lower {knobs.rate.name}"] + ([f"send from more processes ({knobs.workers})"] * bool(knobs.workers))
    return ", or ".join(cures)


def on_sending(s: EffectiveSettings, knobs: Knobs) -> str:
    """What helps where requests wait because no more may be under way."""
    cure = f"raise {knobs.sending.name}" if knobs.sending.name else "give the system more connections"
    return f"{cure}, or lower {knobs.rate.name}" if s.scenario == Scenario.Server else cure


def on_size(s: EffectiveSettings, knobs: Knobs) -> str:
    """What makes a run's table smaller."""
    by_time = s.expected_s * s.target_qps * (1 if s.scenario == Scenario.Server else 2)
    if s.mode == Mode.AccuracyOnly or s.min_query_count > by_time or s.performance_issue_unique:
        return f"lower {knobs.count.name}"
    if s.scenario == Scenario.MultiStream:
        return f"lower {knobs.width} or {knobs.time.name}"
    if s.loop is Loop.CLOSED:
        return f"lower {knobs.time.name}"
    return f"lower {knobs.rate.name} or {knobs.time.name}"


def _on_latency(s: EffectiveSettings, r: Results, knobs: Knobs) -> Iterator[str]:
    percentile, at = percentile_name(s.target_latency_percentile), s.target_latency_percentile
    if r.token_stopping is not None and r.first_token is not None and r.time_per_output_token is not None:
        parts = (("time to first token", r.first_token, s.ttft_latency, r.token_stopping[0]),
                 ("time per output token", r.time_per_output_token, s.tpot_latency, r.token_stopping[1]))  # fmt: skip
        for name, found, most, stopping in parts:
            if found.percentiles[at] > most or (stopping.over and not stopping.met):
                yield (
                    f"{percentile} of the {name} was {as_time(found.percentiles[at])}, and the bound is "
                    f"{as_time(most)}: lower {knobs.rate.name}."
                )
        return
    over, bound = r.over_latency, as_time(s.target_latency_ns)
    if r.performance_met and (r.stopping.met or not over):
        return
    if r.latency.count and r.latency.minimum > s.target_latency_ns:
        fastest = r.latency.minimum
        yield (
            f"Even the fastest answer took {as_time(fastest)}, longer than the bound of {bound}: "
            f"raise {knobs.bound.at_least(r.target_percentile_ns * 1e-9)}."
        )
    elif r.performance_met:
        more = early_stopping.judge(r.queries, over, at).queries_missing
        yield (
            f"Early stopping: {over:,} of {counted(r.queries, 'query')} took longer than {bound}, too many to be "
            f"sure of {percentile}: lower {knobs.rate.name}, or send {counted(more, 'more query')} (raise "
            f"{knobs.count.name if _limited(s, r) else knobs.time.name})."
        )
    else:
        yield (
            f"{over:,} of {counted(r.queries, 'query')} took longer than the bound of {bound}, too many for "
            f"{percentile}, which was {as_time(r.target_percentile_ns)}: lower {knobs.rate.name}, or raise "
            f"{knobs.bound.name}."
        )


def _on_duration(s: EffectiveSettings, r: Results, knobs: Knobs) -> str:
    lasted_s, least_s = r.duration_ns * 1e-9, s.min_duration_ms / 1000
    short = f"{as_time(r.duration_ns)}, and a run takes at least {least_s:g} s"
    if s.scenario == Scenario.Offline:
        fact = f"The one query of {counted(r.samples, 'sample')} took {short}"
        if s.performance_issue_unique or not lasted_s:
            return f"{fact}: lower {knobs.time.name}."
        return f"{fact}: raise {knobs.rate.at_least(r.samples / lasted_s)}."
    all_queries = f"{'The' if r.queries == 1 else 'All'} {counted(r.queries, 'query')}"
    fact = f"{all_queries} {each_is(r.queries, 'were')} sent within {short}"
    if _limited(s, r):
        if not lasted_s:
            return f"{fact}: raise {knobs.count.name}."
        enough = math.ceil(_MORE * r.queries * least_s / lasted_s)
        return f"{fact}: raise {knobs.count.name} to {enough} or more, or lower {knobs.time.at_most(lasted_s)}."
    if s.max_duration_ms and s.max_duration_ms < s.min_duration_ms:
        return f"{fact}: raise {knobs.max_duration}, or lower {knobs.time.name}."
    if s.loop is Loop.CLOSED:
        why = f"{fact}: more were not prepared, as the system answers faster than expected"
        if knobs.expected_latency.name:
            return f"{why}; lower {knobs.expected_latency.at_most(max(lasted_s / max(r.queries, 1), 1e-9))}."
        if not lasted_s:
            return f"{why}; run again, or set {knobs.count.name}."
        enough = math.ceil(_MORE * r.queries * least_s / lasted_s)
        return f"{why}; run again, or set {knobs.count.name} to {enough} or more."
    return f"{fact}: too many were waiting for an answer; lower {knobs.rate.name}."


def _on_count(s: EffectiveSettings, r: Results, knobs: Knobs) -> str:
    least = s.min_query_count
    if r.queries >= least:
        return (
            f"{counted(r.samples, 'sample')} {each_is(r.samples, 'were')} answered, and at least "
            f"{s.min_sample_count:,} {each_is(s.min_sample_count)} needed."
        )
    fact = (
        f"{counted(r.queries, 'query')} {each_is(r.queries, 'were')} sent, and at least {least:,} "
        f"{each_is(least)} needed"
    )
    if _limited(s, r):
        return f"{fact}: raise {knobs.count.name} to {least} or more, or leave it out."
    if s.max_duration_ms:
        return f"{fact}: raise {knobs.max_duration}, or leave it out."
    return f"{fact}: the detailed log says why the run ended."


def _on_stopping(s: EffectiveSettings, r: Results, knobs: Knobs) -> str:
    at = s.target_latency_percentile
    closed = s.loop is Loop.CLOSED
    least = early_stopping.estimate(r.queries, at).queries_needed if closed else early_stopping.least_queries(at)
    if _limited(s, r):
        cure = f"raise {knobs.count.name} to {least} or more"
    elif closed and r.queries and r.duration_ns:
        longer_s = 1.2 * r.duration_ns * 1e-9 * least / r.queries
        cure = f"raise {knobs.time.at_least(max(longer_s, s.min_duration_ms / 1000))}"
    elif closed:
        cure = f"raise {knobs.time.name}"
    else:
        cure = _longer(s, least, knobs)
    return (
        f"Early stopping: {counted(r.queries, 'query')} {each_is(r.queries)} too few for "
        f"{percentile_name(at)}, which needs at least {least}: {cure}."
    )


def _longer(s: EffectiveSettings, least: int, knobs: Knobs) -> str:
    """How Server comes to send ``least`` queries; as arrivals are random, the advice is for somewhat more."""
    enough = least + 3 * math.sqrt(least)
    cure = f"raise {knobs.time.at_least(enough / s.target_qps)}"
    return f"{cure}, or {knobs.rate.at_least(enough / s.expected_s)}" if s.expected_s else cure


def _limited(s: EffectiveSettings, r: Results) -> bool:
    """Whether the run sent the most queries that it may."""
    return 0 < s.max_query_count <= r.queries


def as_time(ns: float) -> str:
    """A time in ns: ``41.2 ms``."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:,.3g} {unit}" if ns < 1000 * size else f"{ns / size:,.0f} {unit}"
    return f"{ns:.0f} ns"


def reference_advice(
    scenario: Scenario,
    performance: bool,
    duration: bool,
    queries: bool,
    *,
    tokens: bool,
    ttft_met: bool,
    tpot_met: bool,
) -> list[str]:
    """The reference's advice, in its order and words, which other tools parse."""
    texts: list[str] = []
    if not performance:
        slow = [name for name, met in (("TTFT", ttft_met), ("TPOT", tpot_met)) if tokens and not met]
        lower = "Reduce target QPS to improve latency."
        texts.append("\n * ".join(f"{name} constrain not met: {lower}" for name in slow) or lower)
    if not duration:
        texts.append(
            {
                Scenario.Server: "Increase the target QPS so the loadgen pre-generates more queries.",
                Scenario.Offline: "Increase expected QPS so the loadgen pre-generates a larger (coalesced) query.",
            }.get(scenario, "Decrease the expected latency so the loadgen pre-generates more queries.")
        )
    if not queries:
        texts.append(f"{EXITED_EARLY}\n   See the detailed log for why this may have occurred.")
    return texts
