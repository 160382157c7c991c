"""The results of a run: statistics and validity, exactly as the reference computes them.

Pure functions from columns to figures.  There is one rule beyond the reference's: the faults that the caller lists
in ``spoiled`` (failed samples, an interruption, ...) make the run INVALID.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from drumfire.loadgen import early_stopping
from drumfire.loadgen.advice import Knobs, advice, of_settings, reference_advice
from drumfire.loadgen.draws import Int64Array
from drumfire.loadgen.record import TOKEN_COLUMNS, Column, RowArray, Status
from drumfire.loadgen.settings import EffectiveSettings, Scenario

LOGGED_PERCENTILES = (0.50, 0.90, 0.95, 0.97, 0.99, 0.999)
"""Those of the logs, which other tools read: the reference's."""
SHOWN_PERCENTILES = (0.50, 0.90, 0.95, 0.97, 0.99, 0.999)
"""Those of a result document, and so of what people read."""
LATE_NS = 1_000_000
"""A query issued later than this after its scheduled time counts as late."""


@dataclass(frozen=True)
class Measured:
    """The columns of a performance phase's issued rows: shape (n,), ns after the phase's start."""

    scheduled: Int64Array
    issued: Int64Array
    completed: Int64Array
    answered: np.ndarray[tuple[int], np.dtype[np.bool_]]
    """Which rows were answered without error; the others have no completion."""
    samples_per_query: int
    first_token: Int64Array | None = None
    tokens: Int64Array | None = None
    """Output tokens of each row, 2 or more."""
    sent: Int64Array | None = None
    """When a remote system sent each row's request, 0 where it never did; None of other systems."""

    @classmethod
    def of(cls, columns: Mapping[str, Column], rows: slice | RowArray, width: int, *, tokens: bool) -> Measured:
        """These rows of a table, with its columns of tokens if ``tokens``.  ``width``: samples per query."""
        names = ("scheduled", "issued", "completed", "status", *(TOKEN_COLUMNS if tokens else ()))
        scheduled, issued, completed, status, *of_tokens = (columns[name][rows] for name in names)
        first_token, n_tokens = of_tokens or (None, None)
        sent = columns["sent"][rows] if "sent" in columns else None
        answered = np.equal(status, Status.OK)
        return cls(scheduled, issued, completed, answered, width, first_token, n_tokens, sent)

    @property
    def queries(self) -> int:
        return self.issued.size // self.samples_per_query

    def part(self, first: int, last: int) -> Measured:
        """The queries [first, last), as views."""
        rows = slice(first * self.samples_per_query, last * self.samples_per_query)
        cut: dict[str, Any] = {name: c[rows] for name, c in vars(self).items() if isinstance(c, np.ndarray)}
        return replace(self, **cut)


@dataclass(frozen=True)
class Distribution:
    """Exact statistics of ns values.  As in the reference, a percentile is the int(n*p)-th smallest, from 0."""

    count: int
    minimum: int
    maximum: int
    mean: int
    """Integer division of the sum."""
    percentiles: dict[float, int]
    ranked: dict[int, int]
    """The value at each requested rank, 0 for the smallest."""


def distribution(
    values: Int64Array,
    percentiles: Iterable[float] = SHOWN_PERCENTILES,
    ranks: Iterable[int] = (),
    *,
    may_reorder: bool = False,
) -> Distribution:
    """Statistics of ``values``, shape (n,); all are 0 for n = 0.  ``may_reorder`` saves a copy: it reorders them."""
    n = values.size
    wanted = {p: int(n * p) for p in percentiles}
    if n == 0:
        return Distribution(0, 0, 0, 0, dict.fromkeys(wanted, 0), {})
    places = sorted({0, n - 1, *wanted.values(), *(rank for rank in ranks if 0 <= rank < n)})
    # Only the requested ranks need to be in place, which is far cheaper than a sort.
    placed = values if may_reorder else values.copy()
    placed.partition(places)
    at = {place: int(placed[place]) for place in places}
    shown = {p: at[place] for p, place in wanted.items()}
    return Distribution(n, at[0], at[n - 1], _total(placed, at[n - 1]) // n, shown, at)


def _total(values: Int64Array, maximum: int) -> int:
    """The sum; where it may exceed 2**63 ns (many long latencies), high and low halves are summed apart."""
    if values.size * maximum < 1 << 63:
        return int(values.sum())
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


@dataclass(frozen=True)
class EarlyStopping:
    met: bool
    text: str
    """The summary's lines, separated by newlines; empty in Offline."""
    estimate_ns: int = 0
    """Single- and MultiStream: the estimate of the target percentile; 0 with too few queries."""
    p99_estimate_ns: int = 0
    """SingleStream: the estimate of the 99th percentile; 0 with too few queries."""
    over: int = 0
    """Server: queries over the bound."""


@dataclass(frozen=True)
class Results:
    """The figures of a performance phase.  Latencies in ns, rates per second; 0 where a rate has no meaning."""

    queries: int
    samples: int
    """Samples answered without error."""
    latency: Distribution
    query_latency: Distribution | None
    """MultiStream: the latency of whole queries."""
    over_latency: int
    """Server: samples over the target latency."""
    target_percentile_ns: int
    duration_ns: int
    """The duration that the minimum duration is compared with."""
    rates: dict[str, float]
    """By the detail log's key without ``result_``."""
    first_token: Distribution | None
    time_per_output_token: Distribution | None
    performance_met: bool
    duration_met: bool
    queries_met: bool
    stopping: EarlyStopping
    token_stopping: tuple[EarlyStopping, EarlyStopping] | None
    """With token latencies: time to first token, then time per output token."""
    recommendations: tuple[str, ...]
    """The reference's words, for the logs."""
    spoiled: tuple[str, ...]
    valid: bool
    advice: tuple[str, ...] = ()
    """What to change, for people."""

    @property
    def reasons(self) -> list[str]:
        """Why the run is INVALID, for the user; empty when it is VALID."""
        return [*self.spoiled, *self.advice]


def evaluate(
    settings: EffectiveSettings, measured: Measured, spoiled: Sequence[str] = (), knobs: Knobs | None = None
) -> Results:
    """Statistics and verdict of a performance phase.  ``knobs``: what advice names; by default, the settings."""
    s, m = settings, measured
    server = s.scenario == Scenario.Server
    latency_values = latencies(m)
    query_values = query_latencies(m) if s.scenario == Scenario.MultiStream else None
    judged = latency_values if query_values is None else query_values

    estimates: list[early_stopping.Estimate] = []
    if s.in_turn:
        percentiles = [s.target_latency_percentile]
        if s.scenario == Scenario.SingleStream:
            percentiles.append(0.99)
        estimates = [early_stopping.estimate(m.queries, p) for p in percentiles]
    ranks = [judged.size - 1 - e.discarded for e in estimates if e.discarded is not None]

    wanted = (*LOGGED_PERCENTILES, *SHOWN_PERCENTILES, s.target_latency_percentile)
    latency = distribution(latency_values, wanted, ranks if query_values is None else (), may_reorder=True)
    query_latency = None if query_values is None else distribution(query_values, wanted, ranks, may_reorder=True)
    over = int(np.count_nonzero(latency_values > s.target_latency_ns)) if server else 0
    first_token, per_token, token_stopping = _token_figures(s, m, estimates, query_latency)
    target_ns = (query_latency or latency).percentiles[s.target_latency_percentile]

    if token_stopping is not None:
        stopping = _worst(token_stopping)
    elif not s.stops_early:
        stopping = EarlyStopping(True, "")
    elif server:
        stopping = _by_count(s, m.queries, over)
    else:
        stopping = _by_estimate(s, m.queries, estimates, (query_latency or latency).ranked)

    if server and token_stopping is not None and first_token is not None and per_token is not None:
        p = s.target_latency_percentile
        ttft_met, tpot_met = first_token.percentiles[p] <= s.ttft_latency, per_token.percentiles[p] <= s.tpot_latency
        performance_met = ttft_met and tpot_met
    else:
        ttft_met = tpot_met = True
        performance_met = not server or target_ns <= s.target_latency_ns
    duration_ns = _duration(s, m, latency)
    duration_met = duration_ns >= s.min_duration_ms * 1_000_000
    queries_met = m.queries >= s.min_query_count and latency.count >= s.min_sample_count
    recommendations = reference_advice(
        s.scenario, performance_met, duration_met, queries_met, tokens=token_stopping is not None, ttft_met=ttft_met,
        tpot_met=tpot_met,
    )  # fmt: skip
    found = Results(
        queries=m.queries,
        samples=latency.count,
        latency=latency,
        query_latency=query_latency,
        over_latency=over,
        target_percentile_ns=target_ns,
        duration_ns=duration_ns,
        rates=_rates(s, m, latency),
        first_token=first_token,
        time_per_output_token=per_token,
        performance_met=performance_met,
        duration_met=duration_met,
        queries_met=queries_met,
        stopping=stopping,
        token_stopping=token_stopping,
        recommendations=tuple(recommendations),
        spoiled=tuple(spoiled),
        valid=performance_met and duration_met and queries_met and stopping.met and not spoiled,
    )
    return replace(found, advice=tuple(advice(s, found, knobs or of_settings(s.scenario))))


def latencies(m: Measured) -> Int64Array:
    """Time from scheduled to completed, ns, of the rows answered without error; a new array."""
    values = m.completed - m.scheduled
    return values if m.answered.all() else values[m.answered]


def query_latencies(m: Measured) -> Int64Array:
    """Latency, until its last sample, of each query whose samples were all answered."""
    shape = (m.queries, m.samples_per_query)
    completed, answered = m.completed.reshape(shape), m.answered.reshape(shape)
    latencies: Int64Array = completed.max(axis=1) - m.scheduled.reshape(shape)[:, 0]
    return latencies[answered.all(axis=1)]


def judged_latency(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The latency that judges a result document's run, ns: in MultiStream that of queries; empty without one."""
    found: Mapping[str, Any] = document.get("query_latency_ns") or document.get("latency_ns") or {}
    return found


def _last_query(m: Measured) -> tuple[int, int, int]:
    """When the last issued query was due, issued, and answered; if it was not, when the last answer came."""
    rows = slice(m.issued.size - m.samples_per_query, None)
    done = m.completed[rows] if m.answered[rows].all() else m.completed[m.answered]
    return int(m.scheduled[rows][0]), int(m.issued[rows][0]), int(done.max(initial=0))


def _duration(s: EffectiveSettings, m: Measured, latency: Distribution) -> int:
    if s.scenario == Scenario.Offline:
        return latency.maximum
    if m.queries == 0:
        return 0
    if s.is_closed:
        return int(m.issued.max())
    due, issued, _ = _last_query(m)
    return due if s.scenario == Scenario.Server else issued


def _rates(s: EffectiveSettings, m: Measured, latency: Distribution) -> dict[str, float]:
    """Rates per second; the reference counts from the first query to the last, so n - 1 of them."""
    n = latency.count
    # As in the reference, impossible numbers of tokens count as none.
    tokens = int(m.tokens[m.answered & (m.tokens > 1)].sum()) if m.tokens is not None else 0
    rates: dict[str, float] = {}
    due, issued, done = _last_query(m) if m.queries else (0, 0, 0)
    if s.is_closed:
        issued, done = int(m.issued.max(initial=0)), int(m.completed[m.answered].max(initial=0))
    if s.scenario == Scenario.Server:
        rates["scheduled_samples_per_sec"] = _per_second(n - 1, due)
        rates["completed_samples_per_sec"] = _per_second(n - 1, done)
        if s.infer_token_latencies:
            rates["inferred_completed_tokens_per_second"] = _per_second(s.token_latency_scaling_factor * (n - 1), done)
    elif s.scenario == Scenario.Offline:
        rates["samples_per_second"] = _per_second(n, latency.maximum)
        if m.tokens is not None:
            rates["tokens_per_second"] = _per_second(tokens, latency.maximum)
        if s.infer_token_latencies:
            rates["inferred_tokens_per_second"] = _per_second(s.token_latency_scaling_factor * n, latency.maximum)
    elif s.is_closed:
        # Up to the last issue all are under way, and after it fewer and fewer.
        by_then = int(np.count_nonzero(m.completed[m.answered] <= issued))
        rates["completed_samples_per_sec"] = _per_second(by_then, issued) or _per_second(n, done)
    elif s.scenario == Scenario.SingleStream:
        rates["qps_with_loadgen_overhead"] = _per_second(n - 1, issued)
        rates["qps_without_loadgen_overhead"] = _per_second(1, latency.mean)
    if m.tokens is not None and s.scenario != Scenario.Offline:
        rates["completed_tokens_per_second"] = _per_second(tokens, done)
        rates["token_throughput_with_loadgen_overhead"] = _per_second(tokens, issued)
        # Per ns, as in the reference.
        rates["token_throughput"] = tokens / (latency.mean * n) if n and latency.mean else 0.0
    return rates


def _per_second(count: float, ns: int) -> float:
    return count * 1e9 / ns if ns > 0 and count > 0 else 0.0


def _token_figures(
    s: EffectiveSettings, m: Measured, estimates: list[early_stopping.Estimate], query_latency: Distribution | None
) -> tuple[Distribution | None, Distribution | None, tuple[EarlyStopping, EarlyStopping] | None]:
    if s.use_token_latencies and s.scenario == Scenario.Offline:
        return None, None, (EarlyStopping(True, ""), EarlyStopping(True, ""))
    if not s.use_token_latencies or m.first_token is None or m.tokens is None:
        return None, None, None
    ttft = (m.first_token - m.scheduled)[m.answered]
    # C++ truncates where numpy floors; both agree, as no time after the first token is negative.
    tpot = (m.completed - m.first_token)[m.answered] // np.maximum(m.tokens[m.answered] - 1, 1)
    wanted = (*LOGGED_PERCENTILES, *SHOWN_PERCENTILES, s.target_latency_percentile)
    # The reference checks the time per token first, and stops at the first failure.
    if not s.stops_early:
        first_token, per_token = distribution(ttft, wanted), distribution(tpot, wanted)
        ttft_stop = tpot_stop = EarlyStopping(True, "")
    elif s.scenario == Scenario.Server:
        first_token, per_token = distribution(ttft, wanted), distribution(tpot, wanted)
        tpot_stop = _by_count(s, m.queries, int(np.count_nonzero(tpot > s.tpot_latency)))
        ttft_stop = _by_count(s, m.queries, int(np.count_nonzero(ttft > s.ttft_latency)))
    else:
        ranks = [ttft.size - 1 - e.discarded for e in estimates if e.discarded is not None]
        first_token, per_token = distribution(ttft, wanted, ranks), distribution(tpot, wanted, ranks)
        # For queries of several samples, the reference estimates the query latency in both places.
        ttft_ranked, tpot_ranked = ((query_latency or tokens).ranked for tokens in (first_token, per_token))
        tpot_stop = _by_estimate(s, m.queries, estimates, tpot_ranked)
        ttft_stop = _by_estimate(s, m.queries, estimates, ttft_ranked)
    return first_token, per_token, (ttft_stop if tpot_stop.met else EarlyStopping(True, ""), tpot_stop)


def _worst(pair: tuple[EarlyStopping, EarlyStopping]) -> EarlyStopping:
    return next((stopping for stopping in pair if not stopping.met), pair[0])


def _by_count(s: EffectiveSettings, queries: int, over: int) -> EarlyStopping:
    verdict = early_stopping.judge(queries, over, s.target_latency_percentile)
    if verdict.met:
        return EarlyStopping(True, " * Run successful.")
    text = (
        f" * Run unsuccessful.\n * Processed {queries} queries.\n"
        f" * Would need to run at least {verdict.queries_missing} more queries,\n"
        " with the run being successful if every additional\n query were under latency."
    )
    return EarlyStopping(False, text, over=over)


def _by_estimate(
    s: EffectiveSettings, queries: int, estimates: list[early_stopping.Estimate], ranked: dict[int, int]
) -> EarlyStopping:
    first, *second = estimates
    percentile = f"{s.target_latency_percentile * 100:.1f}th"
    if first.discarded is None:
        text = (
            f" * Only processed {queries} queries.\n"
            f" * Need to process at least {first.queries_needed} queries for early stopping."
        )
        return EarlyStopping(False, text)

    def value(discarded: int) -> int:
        return ranked.get(max(ranked) - discarded, 0) if ranked else 0

    lines = [
        f" * Processed at least {first.queries_needed} queries ({queries}).",
        f" * Would discard {first.discarded} highest latency queries.",
        f" * Early stopping {percentile} percentile estimate: {value(first.discarded)}",
    ]
    p99_ns = 0
    for p99 in second:
        if p99.discarded is None:
            lines.append(" * Not enough queries processed for 99.0th percentile")
            lines.append(" early stopping estimate (would need to process at")
            lines.append(f" least {p99.queries_needed} total queries).")
        else:
            p99_ns = value(p99.discarded)
            lines.append(f" * Early stopping 99.0th percentile estimate: {p99_ns}")
    return EarlyStopping(True, "\n".join(lines), value(first.discarded), p99_ns)
