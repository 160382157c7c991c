"""The early-stopping test: how many queries within the bound outweigh those over it, at 99 % confidence.

Pure arithmetic.  ``h(t)`` is the least number of queries within the bound that, together with ``t`` queries over it,
shows with confidence c that the true share within the bound exceeds the percentile p: the least h with
P[Binomial(h + t, 1 - p) <= t] < 1 - c.  Source: the MLPerf inference rules, tolerance 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CONFIDENCE = 0.99


def least_passing(over: int, percentile: float) -> int:
    """h(t): the least number of queries within the bound that outweighs ``over`` queries over it."""
    doubt = 1.0 - CONFIDENCE
    low, high = 0, 64
    while _tail(high, over, percentile) >= doubt:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if _tail(middle, over, percentile) >= doubt:
            low = middle
        else:
            high = middle
    return high


def least_queries(percentile: float) -> int:
    """The fewest queries with which a Server run can pass, if all are within the bound."""
    return least_passing(0, percentile)


@dataclass(frozen=True)
class Judgement:
    """Server: whether a run passes, and if not, how many more queries within the bound it would need."""

    met: bool
    queries_missing: int


def judge(queries: int, over: int, percentile: float) -> Judgement:
    needed = least_passing(over, percentile) + over
    return Judgement(queries >= needed, max(0, needed - queries))


def allowed_over(queries: int, percentile: float) -> int:
    """The most of ``queries`` queries that may be over the bound; -1 if there are too few queries to pass at all."""
    if queries < least_queries(percentile):
        return -1
    discarded = estimate(queries, percentile).discarded
    return 0 if discarded is None else discarded + 1


@dataclass(frozen=True)
class Estimate:
    """Single- and MultiStream: the percentile estimate is the ``discarded + 1``-th highest latency of the run."""

    queries_needed: int
    discarded: int | None
    """None if the run has fewer than ``queries_needed`` queries."""


def estimate(queries: int, percentile: float) -> Estimate:
    """How many of the highest latencies to discard: the largest t - 1 with queries >= h(t) + t."""
    needed = least_passing(1, percentile) + 1
    if queries < needed:
        return Estimate(needed, None)
    low, high = 1, queries  # h(t) + t grows with t, so bisection finds what the reference finds step by step
    while high - low > 1:
        middle = (low + high) // 2
        if queries >= least_passing(middle, percentile) + middle:
            low = middle
        else:
            high = middle
    return Estimate(needed, low - 1)


def _tail(within: int, over: int, percentile: float) -> float:
    """P[Binomial(within + over, 1 - percentile) <= over] = I_percentile(within, over + 1)."""
    if within <= 0:
        return 1.0
    return _incomplete_beta(float(within), over + 1.0, percentile)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), 0 < x < 1 (continued fraction, DLMF 8.17.22)."""
    scale = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1.0) / (a + b + 2.0):
        return scale * _fraction(a, b, x) / a
    return 1.0 - scale * _fraction(b, a, 1.0 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x(a, b), evaluated from the front (Lentz)."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 1_000_000):
        step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        for factor in (step, -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1.0 + factor * d
            c = 1.0 + factor / c
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            value *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return value
