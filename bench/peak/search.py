"""The search for the highest load that passes: chooses the next probe from the outcomes of the earlier ones.

Pure arithmetic: no clock, no system, no file.  ``next_step`` depends only on the history, so an interrupted search
resumes from its journal as if nothing had happened.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from drumfire.loadgen.early_stopping import allowed_over, estimate, least_queries

PRECISION = 0.01
"""When the search ends, the load that passes and the load that fails differ by at most this share."""
REPLICAS = 4
"""Probes with different traffic at each side of the boundary."""
_STEP = 4.0
"""Factor from one load to the next while all pass, or all fail."""
_SMALL_STEP = 1.0 + 4 * PRECISION
"""The same factor once there was a boundary and replicas have moved it."""
_FIRST_QUERIES = 64
_SHORTEST_SHARE = 1 / 60
"""The shortest probe, as a share of a full run's duration."""
_SHORTEST_S = 0.5
_CONTRAST = 4.0
"""Queries over the bound in a probe at the boundary if the bracket is as wide as its load; more if it is narrower."""
_LONGEST_SHARE = 1 / 6
"""The longest probe, as a share of a full run's queries."""
_BEYOND = 1.0 + 2 * PRECISION
_BEYOND_PROBES = 2
_CAUTION = 1.0
"""How far below a load that fails the first full run is made, in units of the precision."""
_RETREAT = 0.5
"""The same below a load whose full run failed, for each full run that has failed."""
_SLACK = 2.0
"""A probe is cut short at this multiple of the queries that may be over the bound: queries are over in bursts, and a
probe cut short in its only burst would weigh too heavily beside others of its load."""
_MOST_PROBES = 150


@dataclass(frozen=True)
class Goal:
    """The bound to keep, the full run, and the range of loads."""

    percentile: float
    bound_s: float
    """The latency bound, or the widest if there are several."""
    full_s: float
    """Least duration of a full run."""
    full_queries: int
    """Least number of queries of a full run."""
    start: float
    most: float
    """The highest load that can be tried."""
    whole: bool = False
    """True in MultiStream: a load is a whole number of samples in a query, in a closed loop.  Else it is queries/s."""


@dataclass(frozen=True)
class Ask:
    """A probe to make: its traffic lasts ``seconds`` or has ``queries`` queries, whichever is longer."""

    load: float
    seconds: float
    queries: int
    replica: int
    """Number of the traffic: 0 uses the settings' own seeds, as full runs do; other numbers use other seeds."""
    purpose: str
    """``bracket``, ``bisect``, ``replicate`` or ``confirm``."""
    allowed: int
    """Queries that may be over the bound; with one more, the probe is cut short."""


@dataclass(frozen=True)
class Outcome:
    """The result of a probe."""

    queries: int
    over: int
    seconds: float
    valid: bool
    """Whether it passed every check; only set for a confirming run."""
    query_s: float = 0.0
    """Mean latency of a query, s."""
    note: str = ""


@dataclass(frozen=True)
class Probe:
    ask: Ask
    outcome: Outcome


@dataclass(frozen=True)
class Peak:
    """The end of a search: the highest load whose full run is VALID, or None with the reason."""

    load: float | None
    fails_at: float | None
    """The lowest load that failed; None if all loads up to the highest passed."""
    reason: str = ""


@dataclass(frozen=True)
class Evidence:
    """All probes of a load together."""

    load: float
    queries: int
    over: int
    probes: int
    refused: bool
    """Whether a full run at this load was not VALID."""
    share: float
    """Share of queries over the bound; never less than at a lower load, because loads that disagree are pooled."""
    query_s: float
    """Mean latency of a query, s."""
    passes: bool


def next_step(goal: Goal, history: Sequence[Probe]) -> Ask | Peak:
    """The next probe after these, or the end of the search."""
    known = evidence(goal, history)
    low, high = bracket(known)
    for probe in history:
        if probe.ask.purpose == "confirm" and probe.outcome.valid:
            return Peak(probe.ask.load, high)
    if not known:
        return _ask(goal, known, _first_load(goal), 1.0, "bracket")
    if (refused := min((e.load for e in known if e.refused), default=None)) is not None and refused == high:
        times = sum(e.refused for e in known)
        if (lower := _cautious(goal, 0.0, refused, times)) >= _least_load(goal):
            return _confirm(goal, known, lower)
        return Peak(None, high, "no full run is VALID, though short ones pass")
    if low is None:
        assert high is not None
        step = _STEP if not any(e.passes for e in known) else _SMALL_STEP
        load = max(math.floor(high / step), min(1, high - 1)) if goal.whole else high / step
        if load < _least_load(goal) or len(history) >= _MOST_PROBES:
            return Peak(None, high, f"not even {_shown(goal, high)} passes: the bound is too tight for this system")
        return _ask(goal, known, load, 1.0, "bracket")
    if high is None and low < goal.most:
        step = _STEP if not any(e.refused or not e.passes for e in known) else _SMALL_STEP
        load = min(low * step, goal.most)
        return _ask(goal, known, max(math.floor(load), low + 1) if goal.whole else load, 1.0, "bracket")
    exhausted = len(history) >= _MOST_PROBES
    if high is not None and not exhausted:
        width = max(high / low - 1.0, PRECISION)
        if high / low > 1.0 + PRECISION and not (goal.whole and high - low <= 1):
            middle = math.sqrt(low * high)
            if goal.whole:
                middle = min(max(round(middle), low + 1), high - 1)
            return _ask(goal, known, middle, width, "bisect")
        for side in (low, high):
            if next(e for e in known if e.load == side).probes < REPLICAS:
                return _ask(goal, known, side, width, "replicate")
        # A single load may fail by bad luck; the next must fail too.
        beyond = [e for e in known if high < e.load <= high * _BEYOND]
        if not goal.whole and sum(e.probes for e in beyond) < _BEYOND_PROBES and high * _BEYOND <= goal.most:
            at = beyond[-1].load if beyond else high * _BEYOND
            return _ask(goal, known, at, width, "replicate")
    return _confirm(goal, known, _cautious(goal, low, high))


def evidence(goal: Goal, history: Sequence[Probe]) -> list[Evidence]:
    """The evidence of each load, in rising order.  A load passes if a full run with its share would pass."""
    by_load = {
        load: [probe for probe in history if probe.ask.load == load]
        for load in sorted({probe.ask.load for probe in history})
    }
    counts = [
        (sum(p.outcome.queries for p in probes), sum(p.outcome.over for p in probes)) for probes in by_load.values()
    ]
    known = []
    for (load, probes), (queries, over), share in zip(by_load.items(), counts, _rising(counts), strict=True):
        refused = any(probe.ask.purpose == "confirm" and not probe.outcome.valid for probe in probes)
        query_s = sum(probe.outcome.query_s for probe in probes) / len(probes)
        full = full_queries(goal, load, query_s)
        passes = not refused and share <= max(_allowed(goal, full), 0) / full
        known.append(Evidence(load, queries, over, len(probes), refused, share, query_s, passes))
    return known


def _rising(counts: Sequence[tuple[int, int]]) -> list[float]:
    """The non-decreasing shares of ``over`` in ``queries`` nearest to the counts (pool adjacent violators)."""
    pools: list[tuple[int, int, int]] = []  # queries, over, loads
    for queries, over in counts:
        pools.append((queries, over, 1))
        while len(pools) > 1 and pools[-2][1] * pools[-1][0] >= pools[-1][1] * pools[-2][0]:
            last = pools.pop()
            pools[-1] = tuple(a + b for a, b in zip(pools[-1], last, strict=True))  # type: ignore[assignment]
    # A load without any query fails.
    return [over / queries if queries else 1.0 for queries, over, loads in pools for _ in range(loads)]


def bracket(known: Sequence[Evidence]) -> tuple[float | None, float | None]:
    """(low, high): the lowest load that fails is ``high``, and the highest below it that passes is ``low``."""
    high = min((e.load for e in known if not e.passes), default=None)
    below = [e.load for e in known if e.passes and (high is None or e.load < high)]
    return max(below, default=None), high


def full_queries(goal: Goal, load: float, query_s: float) -> int:
    """Queries of a full run at a load, at least as many as a verdict needs.  ``query_s`` matters in closed loops."""
    rate = 1.0 / (query_s or goal.bound_s) if goal.whole else load
    return max(goal.full_queries, math.ceil(rate * goal.full_s), _least(goal.percentile, goal.whole))


@functools.lru_cache
def _least(percentile: float, whole: bool) -> int:
    """The fewest queries that allow a verdict."""
    return estimate(0, percentile).queries_needed if whole else least_queries(percentile)


_allowed_over = functools.lru_cache(maxsize=1 << 12)(allowed_over)
"""Cached, because every step needs it for all loads so far."""


def _allowed(goal: Goal, queries: int) -> int:
    """The most of a full run's queries that may be over the bound."""
    allowed = _allowed_over(queries, goal.percentile)
    # In a closed loop the estimate, which is the highest latency that is not discarded, must be within the bound too.
    return allowed - 1 if goal.whole else allowed


def _first_load(goal: Goal) -> float:
    """The start, raised where the first probe would take long."""
    if goal.whole:
        return max(1, min(round(goal.start), round(goal.most)))
    return min(max(goal.start, _FIRST_QUERIES / _shortest_s(goal)), goal.most)


def _shortest_s(goal: Goal) -> float:
    return min(goal.full_s, max(goal.full_s * _SHORTEST_SHARE, _SHORTEST_S, 4 * goal.bound_s))


def _least_load(goal: Goal) -> float:
    return 1.0 if goal.whole else 1.0 / max(goal.full_s, 1.0)


def _cautious(goal: Goal, low: float, high: float | None, refused: int = 0) -> float:
    """The load of a full run: somewhat below the load that fails, near which most full runs would fail too."""
    if high is None:
        return low
    if goal.whole:
        return max(low, min(high - 1, math.floor(high / (1.0 + PRECISION))))
    return high / (1.0 + (_RETREAT * refused if refused else _CAUTION) * PRECISION)


def _ask(goal: Goal, known: Sequence[Evidence], load: float, width: float, purpose: str) -> Ask:
    """A probe long enough for a bracket of this width (as a share of its load).

    An overload of ``width`` takes ``bound / width`` to pass the bound, and the error of the share over the bound must
    move the verdict by less than the bracket.
    """
    full = full_queries(goal, load, _query_s(goal, known, load))
    share = 1.0 - goal.percentile
    longest = max(math.ceil(full * _LONGEST_SHARE), math.ceil(1 / share))
    queries = _FIRST_QUERIES if purpose == "bracket" else min(math.ceil(_CONTRAST / (share * width)), longest)
    seconds = 0.0 if goal.whole else min(goal.full_s, max(_shortest_s(goal), goal.bound_s / width))
    planned = max(queries, math.ceil(load * seconds)) if not goal.whole else queries
    allowed = math.floor(_SLACK * max(_allowed(goal, full), 0) / full * planned)
    # Each probe has its own traffic: with the same traffic at all loads, a burst in it would count in each of them.
    return Ask(load, seconds, queries, sum(e.probes for e in known), purpose, allowed)


def _confirm(goal: Goal, known: Sequence[Evidence], load: float) -> Ask:
    full = full_queries(goal, load, _query_s(goal, known, load))
    # The number of queries of a closed loop's full run is not known before, so it is not cut short.
    allowed = full if goal.whole else _allowed(goal, full)
    return Ask(load, goal.full_s, full, 0, "confirm", allowed)


def _query_s(goal: Goal, known: Sequence[Evidence], load: float) -> float:
    """Estimated latency of a query at a load, s: in proportion to the nearest measured load; at most the bound."""
    measured = [e for e in known if e.query_s > 0]
    if not measured:
        return goal.bound_s
    nearest = min(measured, key=lambda e: abs(math.log(e.load / load)))
    return min(nearest.query_s * load / nearest.load, goal.bound_s)


def _shown(goal: Goal, load: float) -> str:
    return f"{load:.0f} samples per query" if goal.whole else f"{load:.4g} queries/s"
