"""95 % intervals: of a run's figure, and of the ratio of a figure of two runs or of several.

Intervals of single runs come from blocks (see ``blocks``); where neighbouring blocks are still alike, the blocks are
too short, and there is no interval.  Of several runs, each counts as one number: the logarithm of its figure.
Sources: the interval of a ratio inverts the t test of paired block differences; that of one run's quantile is
Woodruff's, 1952; those of several runs are as in Georges, Buytaert & Eeckhout 2007.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from drumfire.bench.compare.blocks import BINS, BLOCKS, MERGED, STEP, Blocks, Floats, edge_ns, edge_of, merged

MOST_AUTOCORRELATION = 0.4
"""The lag-1 autocorrelation of blocks above which they are too short to be independent."""
TOO_ALIKE = "neighbouring parts are too alike"
OPEN = "open: too few slow queries"


@dataclass(frozen=True)
class Interval:
    """An interval at 95 %, of a ratio B/A or of one run's figure."""

    low: float | None
    """None: open."""
    high: float | None
    why: str = ""
    """Why there is no interval, or an open one; empty where both ends are known."""
    needs: str = ""
    """What would close it, where that is known."""

    @property
    def half_width(self) -> float:
        """Half the width of the interval of the logarithm; infinite where an end is open."""
        if self.low is None or self.high is None:
            return math.inf
        return math.log(self.high / self.low) / 2


def no_interval(why: str, needs: str = "") -> Interval:
    return Interval(None, None, why, needs)


NO_INTERVAL = no_interval("")
"""Where a figure has no interval by its kind, which needs no reason."""


def longer(times: float) -> str:
    """The advice to make runs ``times`` as long, rounded up."""
    text = f"{math.ceil(times * 10 - 1e-9) / 10:g}" if times < 10 else f"{math.ceil(times):,}"
    return f"as by a --time {text} times as long"


_LONGER = f"at least 4 times as many queries, {longer(4)}"
"""What would close the interval of runs that have none, or an open one."""
_TOO_ALIKE = no_interval(TOO_ALIKE, _LONGER)
_UNANSWERED = no_interval("parts of a run have no answers")


def _with_open_ends(low: float | None, high: float | None) -> Interval:
    return Interval(low, high, *((OPEN, _LONGER) if low is None or high is None else ()))


def _around(log_ratio: float, half: float) -> Interval:
    return Interval(math.exp(log_ratio - half), math.exp(log_ratio + half))


@cache
def t_quantile(degrees_of_freedom: float) -> float:
    """The two-sided 95 % quantile of Student's t distribution."""
    if degrees_of_freedom > 1e6:
        return 1.959964
    nodes, weights = np.polynomial.legendre.leggauss(64)
    gammas = math.lgamma((degrees_of_freedom + 1) / 2) - math.lgamma(degrees_of_freedom / 2)
    density = math.exp(gammas) / math.sqrt(math.pi)

    def within(t: float) -> float:
        """The share within -t and t: with t = sqrt(f) tan(angle), an integral of a power of the cosine."""
        half = math.atan(t / math.sqrt(degrees_of_freedom)) / 2
        return 2 * density * half * float(weights @ np.cos(half * (nodes + 1)) ** (degrees_of_freedom - 1))

    low, high = 1.9, 1.9
    while within(high) < 0.95:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 0.95 else (low, middle)
    return (low + high) / 2


T = t_quantile(MERGED - 1)
"""The quantile for intervals from merged blocks."""


def lag1_autocorrelation(values: Floats) -> float:
    """The correlation of each value with the next; 0 where all are equal."""
    d = values - values.mean()
    spread = float(d @ d)
    return float(d[1:] @ d[:-1]) / spread if spread > 0 else 0.0


def paired_quantiles(a: Blocks, b: Blocks, p: float, ratio: float) -> Interval:
    """The interval of the ratio of the ``p``-quantiles of two runs in the same blocks; ``ratio`` is the exact one.

    A ratio is accepted if dividing B by it leaves equal shares of B and of A below the quantile of both, block by
    block, within what differs between blocks.
    """
    if not (merged(a.sizes).all() and merged(b.sizes).all()):
        return _UNANSWERED
    wanted = p * (a.count + b.count)

    def differences(shift: int, blocks: int) -> Floats:
        """B's share below less A's, by block, shape (blocks,), for a ratio of ``shift`` bins."""
        edges = np.arange(min(-shift, 0), BINS + 1 + max(-shift, 0))  # all of both, as A's edges
        of_a, of_b = np.clip(edges, 0, BINS), np.clip(edges + shift, 0, BINS)
        edge = int(np.searchsorted(a.all_below[of_a] + b.all_below[of_b], wanted))
        below_a, below_b = a.below[:, of_a[edge]], b.below[:, of_b[edge]]
        if blocks == MERGED:
            return merged(below_b) / merged(b.sizes) - merged(below_a) / merged(a.sizes)
        found: Floats = below_b / np.maximum(b.sizes, 1) - below_a / np.maximum(a.sizes, 1)
        return found

    def is_accepted(shift: int) -> bool:
        d = differences(shift, MERGED)
        return bool(abs(d.mean()) <= T * d.std(ddof=1) / math.sqrt(MERGED))

    def first_beyond(inside: int, outside: int, holds: Callable[[int], bool]) -> int:
        """The first shift towards ``outside`` for which it does not hold, by bisection."""
        while abs(outside - inside) > 1:
            half = (inside + outside) // 2
            inside, outside = (half, outside) if holds(half) else (inside, half)
        return outside

    # Where B's share below first exceeds A's; if many latencies are equal, only the shift before it may be accepted.
    middle = first_beyond(-BINS, BINS, lambda shift: bool(differences(shift, MERGED).mean() < 0))
    if not is_accepted(middle) and is_accepted(middle - 1):
        middle -= 1
    if lag1_autocorrelation(differences(middle, BLOCKS)) > MOST_AUTOCORRELATION:
        return _TOO_ALIKE
    low, high = (
        None if is_accepted(end) else math.exp(STEP * first_beyond(middle, end, is_accepted)) for end in (-BINS, BINS)
    )
    return _with_open_ends(None if low is None else min(low, ratio), None if high is None else max(high, ratio))


def of_quantile(blocks: Blocks, p: float, value: float) -> Interval:
    """The interval of one run's ``p``-quantile, ns, which is ``value``."""
    edge = edge_of(value)
    below = blocks.below[:, edge] - p * blocks.sizes
    if lag1_autocorrelation(below) > MOST_AUTOCORRELATION:
        return _TOO_ALIKE
    half = T * float(merged(below).std(ddof=1)) * math.sqrt(MERGED)
    low, high = (p * blocks.count + sign * half for sign in (-1, 1))
    ends = np.searchsorted(blocks.all_below, (low, high), "right")
    return _with_open_ends(
        min(edge_ns(int(ends[0]) - 1), value) if low > 0 else None,
        max(edge_ns(int(ends[1])), value) if high < blocks.count else None,
    )


def unpaired(a: Interval, b: Interval, value_a: float, value_b: float) -> Interval:
    """The interval of the ratio of two figures, from the interval of each."""
    if lacking := next((one for one in (a, b) if one.why not in ("", OPEN)), None):
        return lacking

    def end(of_b: float | None, of_a: float | None, sign: int) -> float | None:
        if of_b is None or of_a is None:
            return None
        away = math.hypot(math.log(of_b / value_b), math.log(of_a / value_a))
        return value_b / value_a * math.exp(sign * away)

    return _with_open_ends(end(b.low, a.high, -1), end(b.high, a.low, 1))


def paired_means(a: Floats, b: Floats, ratio: float) -> Interval:
    """The interval of the ratio of two means, from those of the same blocks, shape (BLOCKS,) each.

    ``ratio``: the exact one.
    """
    return _of_relative_means(b / b.mean() - a / a.mean(), ratio)


def of_mean(values: Floats, value: float) -> Interval:
    """The interval of a mean, which is ``value``, from those of blocks, shape (BLOCKS,)."""
    return _of_relative_means(values / values.mean(), value)


def _of_relative_means(means: Floats, value: float) -> Interval:
    if not np.isfinite(means).all():
        return _UNANSWERED
    if lag1_autocorrelation(means) > MOST_AUTOCORRELATION:
        return _TOO_ALIKE
    half = T * float((merged(means) / (BLOCKS // MERGED)).std(ddof=1)) / math.sqrt(MERGED)
    return _around(math.log(value), half)


def mean_of_runs(values: Sequence[float | None]) -> float | None:
    """The geometric mean of a figure of several runs, as ratios are judged; the arithmetic one where a value is 0.

    None where a run lacks the figure.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if len(known) == 1 or min(known) <= 0:
        return sum(known) / len(known)
    return math.exp(sum(map(math.log, known)) / len(known))


def of_runs(logs: Sequence[float]) -> Interval:
    """The interval of a figure from its logarithms in several runs, or of a ratio from the log ratios of neighbours."""
    half = t_quantile(len(logs) - 1) * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    return _around(float(np.mean(logs)), half)


def welch(a: Sequence[float], b: Sequence[float]) -> Interval:
    """The interval of the ratio from the logarithms of several runs a side, by Welch's t test.

    A side of one run is taken to vary as the other does.
    """
    variances = [float(np.var(one, ddof=1)) for one in (a, b) if len(one) > 1]
    parts = [variance / len(one) for variance, one in zip((variances[0], variances[-1]), (a, b), strict=True)]
    error = math.sqrt(sum(parts))
    if min(len(a), len(b)) == 1 or error == 0:
        degrees_of_freedom = float(max(len(a), len(b)) - 1)
    else:
        weighed = sum(part**2 / (len(one) - 1) for part, one in zip(parts, (a, b), strict=True))
        degrees_of_freedom = sum(parts) ** 2 / weighed
    return _around(float(np.mean(b) - np.mean(a)), t_quantile(degrees_of_freedom) * error)
