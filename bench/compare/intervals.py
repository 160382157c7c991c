"""95 % intervals: of a run's figure, and of the ratio of a figure of two runs or of several.

Of single runs they come from blocks (see ``blocks``); where neighbouring blocks are still alike, the blocks are too
short, and there is no interval.  Of several runs, each counts as one number: its figure's logarithm.
Sources: paired test inversion is the t test of block differences at each ratio; one run is Woodruff 1952; several runs
as in Georges, Buytaert & Eeckhout 2007.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from drumfire.bench.compare.blocks import BINS, BLOCKS, MERGED, STEP, Blocks, Floats, edge_ns, edge_of, merged

MOST_CORRELATION = 0.4
"""Of neighbouring blocks: above it, they are too short to be independent."""
TOO_ALIKE = "neighbouring parts are too alike"
OPEN = "open: too few slow queries"


@dataclass(frozen=True)
class Interval:
    """An interval at 95 %, of a ratio B/A or of one run's figure."""

    low: float | None
    """None: open."""
    high: float | None
    why: str = ""
    """Why there is none, or an open one; empty where both ends are there."""
    needs: str = ""
    """What would make it closed, where that is known."""

    @property
    def closed(self) -> bool:
        return self.low is not None and self.high is not None

    @property
    def half_width(self) -> float:
        """Of its logarithm; endless where an end is open."""
        if self.low is None or self.high is None:
            return math.inf
        return math.log(self.high / self.low) / 2


def none(why: str, needs: str = "") -> Interval:
    return Interval(None, None, why, needs)


def longer(times: float) -> str:
    """How runs are made so many times as long; rounded up."""
    text = f"{math.ceil(times * 10 - 1e-9) / 10:g}" if times < 10 else f"{math.ceil(times):,}"
    return f"as by a --time {text} times as long"


LONGER = f"at least 4 times as many queries, {longer(4)}"
"""What would give an interval to runs that have none, or an open one."""


def too_few(what: str, there: int, least: int) -> Interval:
    """None, as a run has fewer queries, or batches, than an interval needs."""
    how = f", {longer(least / there)}, or 3 runs a side" if there else ""
    return none(f"fewer than {least:,} {what}", f"{least:,} {what} in each run{how}")


def _ended(low: float | None, high: float | None) -> Interval:
    return Interval(low, high, *((OPEN, LONGER) if low is None or high is None else ()))


def _around(log_ratio: float, half: float) -> Interval:
    return Interval(math.exp(log_ratio - half), math.exp(log_ratio + half))


@cache
def t_quantile(freedom: float) -> float:
    """What Student's t of so many degrees of freedom exceeds in either direction in 5 % of cases."""
    if freedom > 1e6:
        return 1.959964
    nodes, weights = np.polynomial.legendre.leggauss(64)
    density = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)

    def within(t: float) -> float:
        """The share within -t and t: with t = sqrt(freedom) tan(angle), an integral of a power of the cosine."""
        half = math.atan(t / math.sqrt(freedom)) / 2
        return 2 * density * half * float(weights @ np.cos(half * (nodes + 1)) ** (freedom - 1))

    low, high = 1.9, 1.9
    while within(high) < 0.95:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 0.95 else (low, middle)
    return (low + high) / 2


_T = t_quantile(MERGED - 1)


def correlation(values: Floats) -> float:
    """Of each value with the next; 0 where all are equal."""
    d = values - values.mean()
    spread = float(d @ d)
    return float(d[1:] @ d[:-1]) / spread if spread > 0 else 0.0


def paired(a: Blocks, b: Blocks, p: float, ratio: float) -> Interval:
    """Of the ratio of the ``p``-quantiles of two runs in the same blocks; ``ratio`` is that of the exact ones.

    A ratio is in it if dividing B by it leaves as many of B as of A below the quantile of both, block by block, up to
    what differs between blocks.
    """
    if not (merged(a.sizes).all() and merged(b.sizes).all()):
        return none("parts of a run have no answers")
    wanted = p * (a.count + b.count)

    def differences(shift: int, of: int) -> Floats:
        """B's share below less A's, by block, for a ratio of ``shift`` bins."""
        edges = np.arange(min(-shift, 0), BINS + 1 + max(-shift, 0))  # all of both, as A's edges
        of_a, of_b = np.clip(edges, 0, BINS), np.clip(edges + shift, 0, BINS)
        edge = int(np.searchsorted(a.all_below[of_a] + b.all_below[of_b], wanted))
        below_a, below_b = a.below[:, of_a[edge]], b.below[:, of_b[edge]]
        if of == MERGED:
            return merged(below_b) / merged(b.sizes) - merged(below_a) / merged(a.sizes)
        found: Floats = below_b / np.maximum(b.sizes, 1) - below_a / np.maximum(a.sizes, 1)
        return found

    def held(shift: int) -> bool:
        d = differences(shift, MERGED)
        return bool(abs(d.mean()) <= _T * d.std(ddof=1) / math.sqrt(MERGED))

    def changes(inside: int, outside: int, holds: Callable[[int], bool]) -> int:
        """The first shift towards ``outside`` for which it does not hold."""
        while abs(outside - inside) > 1:
            half = (inside + outside) // 2
            inside, outside = (half, outside) if holds(half) else (inside, half)
        return outside

    # Where B's share below becomes more than A's; where many latencies are equal, only the shift before it may be held.
    middle = changes(-BINS, BINS, lambda shift: bool(differences(shift, MERGED).mean() < 0))
    if not held(middle) and held(middle - 1):
        middle -= 1
    if correlation(differences(middle, BLOCKS)) > MOST_CORRELATION:
        return none(TOO_ALIKE, LONGER)
    low, high = (None if held(most) else math.exp(STEP * changes(middle, most, held)) for most in (-BINS, BINS))
    return _ended(None if low is None else min(low, ratio), None if high is None else max(high, ratio))


def of_quantile(blocks: Blocks, p: float, value: float) -> Interval:
    """Of one run's ``p``-quantile, ns, which is ``value``."""
    edge = edge_of(value)
    below = blocks.below[:, edge] - p * blocks.sizes
    if correlation(below) > MOST_CORRELATION:
        return none(TOO_ALIKE, LONGER)
    half = _T * float(merged(below).std(ddof=1)) * math.sqrt(MERGED)
    low, high = (p * blocks.count + sign * half for sign in (-1, 1))
    ends = np.searchsorted(blocks.all_below, (low, high), "right")
    return _ended(
        min(edge_ns(int(ends[0]) - 1), value) if low > 0 else None,
        max(edge_ns(int(ends[1])), value) if high < blocks.count else None,
    )


def unpaired(a: Interval, b: Interval, value_a: float, value_b: float) -> Interval:
    """Of the ratio of two figures from the interval of each."""
    if lacking := next((one for one in (a, b) if one.why not in ("", OPEN)), None):
        return lacking

    def end(of_b: float | None, of_a: float | None, sign: int) -> float | None:
        if of_b is None or of_a is None:
            return None
        away = math.hypot(math.log(of_b / value_b), math.log(of_a / value_a))
        return value_b / value_a * math.exp(sign * away)

    return _ended(end(b.low, a.high, -1), end(b.high, a.low, 1))


def paired_means(a: Floats, b: Floats, ratio: float) -> Interval:
    """Of the ratio of two means, from those of the same blocks, shape (BLOCKS,) each; ``ratio`` is the exact one."""
    shares = b / b.mean() - a / a.mean()
    return _of_shares(shares, ratio)


def mean_of_runs(values: Sequence[float | None]) -> float | None:
    """The geometric mean of a figure of several runs, as ratios are judged; the arithmetic one where a value is 0.

    None where a run lacks it.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if len(known) == 1 or min(known) <= 0:
        return sum(known) / len(known)
    return math.exp(sum(map(math.log, known)) / len(known))


def of_mean(values: Floats, value: float) -> Interval:
    """Of a mean, which is ``value``, from those of blocks, shape (BLOCKS,)."""
    return _of_shares(values / values.mean(), value)


def _of_shares(shares: Floats, value: float) -> Interval:
    if not np.isfinite(shares).all():
        return none("parts of a run have no answers")
    if correlation(shares) > MOST_CORRELATION:
        return none(TOO_ALIKE, LONGER)
    half = _T * float((merged(shares) / (BLOCKS // MERGED)).std(ddof=1)) / math.sqrt(MERGED)
    return _around(math.log(value), half)


def of_runs(logs: Sequence[float]) -> Interval:
    """Of what the logarithms of several runs have in common, or of a ratio from neighbouring runs' differences."""
    half = t_quantile(len(logs) - 1) * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    return _around(float(np.mean(logs)), half)


def welch(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Of the ratio from the logarithms of several runs a side.  A side of one run has the spread of the other."""
    spreads = [float(np.var(one, ddof=1)) for one in (a, b) if len(one) > 1]
    parts = [spread / len(one) for spread, one in zip((spreads[0], spreads[-1]), (a, b), strict=True)]
    error = math.sqrt(sum(parts))
    if min(len(a), len(b)) == 1 or error == 0:
        freedom = float(max(len(a), len(b)) - 1)
    else:
        freedom = sum(parts) ** 2 / sum(part**2 / (len(one) - 1) for part, one in zip(parts, (a, b), strict=True))
    return _around(float(np.mean(b) - np.mean(a)), t_quantile(freedom) * error)
