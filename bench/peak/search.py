"""The search for the highest load that passes: which probe to make next, told from the outcomes of those before.

Pure arithmetic: no clock, no system, no file.  ``next_step`` depends on the history alone, so a search that was broken
off goes on from its journal as if nothing had happened.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drumfire.loadgen.early_stopping import allowed_over, estimate, least_queries

PRECISION = 0.01
"""The load that passes and the load that fails are at most this far apart, as a share, when the search ends."""
REPLICAS = 4
"""Probes, of different traffic, that stand behind each side of the boundary."""
_STEP = 4.0
"""From one load to the next as long as all pass, or all fail."""
_SMALL_STEP = 1.0 + 4 * PRECISION
"""The same once a boundary was seen and replicas have moved it."""
_FIRST_QUERIES = 64
_SHORTEST_SHARE = 1 / 60
"""Of a full run's duration: the shortest probe."""
_SHORTEST_S = 0.5
_CONTRAST = 4.0
"""Queries that would be over at the border, in a probe of a bracket as wide as its load; more in a narrower one."""
_LONGEST_SHARE = 1 / 6
"""Of a full run: the longest probe."""
_BEYOND = 1.0 + 2 * PRECISION
_BEYOND_PROBES = 2
_CAUTION = 1.0
_RETREAT = 0.5
"""How far below a load that fails, in units of the precision, a full run is made: at first, and for each full run that
failed.
"""
_SLACK = 2.0
"""A probe goes on until it has this much more over the bound than it may: bursts come together, and a probe that is cut
short in its only one would weigh too heavily beside others of its load.
"""
_MOST_PROBES = 150


@dataclass(frozen=True)
class Goal:
    """What is searched for."""

    percentile: float
    bound_s: float
    """The latency bound, or the widest where there are several."""
    full_s: float
    """Least duration and least number of queries of a full run."""
    full_queries: int
    start: float
    most: float
    """The highest load that can be asked for at all."""
    whole: bool = False
    """MultiStream: loads are whole numbers (samples in a query), and queries follow each other.  Else: queries/s."""


@dataclass(frozen=True)
class Ask:
    """A probe to be made: its traffic lasts ``seconds`` and has ``queries`` queries, whichever is more."""

    load: float
    seconds: float
    queries: int
    replica: int
    """Which traffic: 0 is that of the settings' own seeds, as in full runs, and each other number is another."""
    purpose: str
    """``bracket``, ``bisect``, ``replicate`` or ``confirm``."""
    allowed: int
    """How many of its queries may be over the bound; one more, and it is hopeless and need not go on."""


@dataclass(frozen=True)
class Outcome:
    """What came of a probe."""

    queries: int
    over: int
    seconds: float
    valid: bool
    """Whether it passed every check; asked of the confirming run alone."""
    query_s: float = 0.0
    """Mean latency of a query."""
    note: str = ""


@dataclass(frozen=True)
class Probe:
    ask: Ask
    outcome: Outcome


@dataclass(frozen=True)
class Peak:
    """The end of a search: the highest load whose full run is VALID; None when there is none, with the reason."""

    load: float | None
    fails_at: float | None
    """The lowest load that failed; None when the search ran out of loads to ask for."""
    reason: str = ""


@dataclass(frozen=True)
class Evidence:
    """All probes of one load together."""

    load: float
    queries: int
    over: int
    probes: int
    refused: bool
    """Its full run was not VALID."""
    share: float
    """Over the bound: never less than at a lower load.  Where probes say otherwise, their loads are taken together."""
    query_s: float
    """Mean latency of a query."""
    passes: bool


def search(
    goal: Goal,
    probe: Callable[[Ask], Outcome],
    history: Sequence[Probe] = (),
    done: Callable[[Probe], None] | None = None,
) -> tuple[Peak, list[Probe]]:
    """Probe until the peak is found; returns it with all probes.  ``done`` hears of each new one."""
    probes = list(history)
    while isinstance(step := next_step(goal, probes), Ask):
        probes.append(Probe(step, probe(step)))
        if done is not None:
            done(probes[-1])
    return step, probes


def next_step(goal: Goal, history: Sequence[Probe]) -> Ask | Peak:
    """What to do after these probes."""
    known = evidence(goal, history)
    low, high = bracket(known)
    for probe in history:
        if probe.ask.purpose == "confirm" and probe.outcome.valid:
            return Peak(probe.ask.load, high)
    if not known:
        return _ask(goal, known, _first_load(goal), 1.0, "bracket")
    if (refused := min((one.load for one in known if one.refused), default=None)) is not None and refused == high:
        times = sum(one.refused for one in known)
        if (lower := _cautious(goal, 0.0, refused, times)) >= _least_load(goal):
            return _confirm(goal, known, lower)
        return Peak(None, high, "no full run is VALID, though short ones pass")
    if low is None:
        assert high is not None
        step = _STEP if not any(one.passes for one in known) else _SMALL_STEP
        load = max(math.floor(high / step), min(1, high - 1)) if goal.whole else high / step
        if load < _least_load(goal) or len(history) >= _MOST_PROBES:
            return Peak(None, high, f"not even {_shown(goal, high)} passes: the bound is too tight for this system")
        return _ask(goal, known, load, 1.0, "bracket")
    if high is None and low < goal.most:
        step = _STEP if not any(one.refused or not one.passes for one in known) else _SMALL_STEP
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
            found = next(one for one in known if one.load == side)
            if found.probes < REPLICAS:
                return _ask(goal, known, side, width, "replicate")
        # One load that failed may be bad luck; the next must fail as well.
        beyond = [one for one in known if high < one.load <= high * _BEYOND]
        if not goal.whole and sum(one.probes for one in beyond) < _BEYOND_PROBES and high * _BEYOND <= goal.most:
            at = beyond[-1].load if beyond else high * _BEYOND
            return _ask(goal, known, at, width, "replicate")
    return _confirm(goal, known, _cautious(goal, low, high))


def evidence(goal: Goal, history: Sequence[Probe]) -> list[Evidence]:
    """The probes by load, rising.  A load passes if a full run with its share over the bound would pass."""
    by_load = {
        load: [probe for probe in history if probe.ask.load == load]
        for load in sorted({probe.ask.load for probe in history})
    }
    counts = [
        (sum(p.outcome.queries for p in probes), sum(p.outcome.over for p in probes)) for probes in by_load.values()
    ]
    found = []
    for (load, probes), (queries, over), share in zip(by_load.items(), counts, _rising(counts), strict=True):
        refused = any(probe.ask.purpose == "confirm" and not probe.outcome.valid for probe in probes)
        query_s = sum(probe.outcome.query_s for probe in probes) / len(probes)
        full = full_queries(goal, load, query_s)
        passes = not refused and share <= max(_allowed(goal, full), 0) / full
        found.append(Evidence(load, queries, over, len(probes), refused, share, query_s, passes))
    return found


def _rising(counts: Sequence[tuple[int, int]]) -> list[float]:
    """Shares of ``over`` in ``queries`` that never fall, nearest to the counts (pool adjacent violators)."""
    pools: list[tuple[int, int, int]] = []  # queries, over, loads
    for queries, over in counts:
        pools.append((queries, over, 1))
        while len(pools) > 1 and pools[-2][1] * pools[-1][0] >= pools[-1][1] * pools[-2][0]:
            last = pools.pop()
            pools[-1] = tuple(a + b for a, b in zip(pools[-1], last, strict=True))  # type: ignore[assignment]
    # A load of whose probes nothing is known fails.
    return [over / queries if queries else 1.0 for queries, over, loads in pools for _ in range(loads)]


def bracket(known: Sequence[Evidence]) -> tuple[float | None, float | None]:
    """The lowest load that fails, and the highest below it that passes (low, high)."""
    high = min((one.load for one in known if not one.passes), default=None)
    below = [one.load for one in known if one.passes and (high is None or one.load < high)]
    return max(below, default=None), high


def full_queries(goal: Goal, load: float, query_s: float) -> int:
    """Queries of a full run at a load, as many as any verdict needs at least.  ``query_s`` matters in closed loops."""
    rate = 1.0 / (query_s or goal.bound_s) if goal.whole else load
    return max(goal.full_queries, math.ceil(rate * goal.full_s), _least(goal.percentile, goal.whole))


@functools.lru_cache
def _least(percentile: float, whole: bool) -> int:
    """The fewest queries of which any verdict can be had."""
    return estimate(0, percentile).queries_needed if whole else least_queries(percentile)


_allowed_over = functools.lru_cache(maxsize=1 << 12)(allowed_over)
"""Every step asks again for all the loads so far."""


def _allowed(goal: Goal, queries: int) -> int:
    """How many of a full run's queries may be over the bound."""
    allowed = _allowed_over(queries, goal.percentile)
    # In a closed loop the estimate must be within the bound: the highest latency but for those that are discarded.
    return allowed - 1 if goal.whole else allowed


def _first_load(goal: Goal) -> float:
    """The start, but not so low that the first probe would last for long."""
    if goal.whole:
        return max(1, min(round(goal.start), round(goal.most)))
    return min(max(goal.start, _FIRST_QUERIES / _shortest_s(goal)), goal.most)


def _shortest_s(goal: Goal) -> float:
    return min(goal.full_s, max(goal.full_s * _SHORTEST_SHARE, _SHORTEST_S, 4 * goal.bound_s))


def _least_load(goal: Goal) -> float:
    return 1.0 if goal.whole else 1.0 / max(goal.full_s, 1.0)


def _cautious(goal: Goal, low: float, high: float | None, refused: int = 0) -> float:
    """What a full run is made at: somewhat below the load that fails, as most of the full runs there would fail too."""
    if high is None:
        return low
    if goal.whole:
        return max(low, min(high - 1, math.floor(high / (1.0 + PRECISION))))
    return high / (1.0 + (_RETREAT * refused if refused else _CAUTION) * PRECISION)


def _ask(goal: Goal, known: Sequence[Evidence], load: float, width: float, purpose: str) -> Ask:
    """A probe long enough for a bracket of this width (as a share of its load).

    An overload of ``width`` takes ``bound/width`` to pass the bound, and the share over the bound must be told with
    an error that moves the verdict by less than the bracket.
    """
    full = full_queries(goal, load, _query_s(goal, known, load))
    share = 1.0 - goal.percentile
    longest = max(math.ceil(full * _LONGEST_SHARE), math.ceil(1 / share))
    queries = _FIRST_QUERIES if purpose == "bracket" else min(math.ceil(_CONTRAST / (share * width)), longest)
    seconds = 0.0 if goal.whole else min(goal.full_s, max(_shortest_s(goal), goal.bound_s / width))
    planned = max(queries, math.ceil(load * seconds)) if not goal.whole else queries
    allowed = math.floor(_SLACK * max(_allowed(goal, full), 0) / full * planned)
    # Each probe has traffic of its own: with the same one at all loads, a burst in it would count as often.
    return Ask(load, seconds, queries, sum(one.probes for one in known), purpose, allowed)


def _confirm(goal: Goal, known: Sequence[Evidence], load: float) -> Ask:
    full = full_queries(goal, load, _query_s(goal, known, load))
    # What a closed loop's full run will have in queries is not known before, so that it is not cut short.
    allowed = full if goal.whole else _allowed(goal, full)
    return Ask(load, goal.full_s, full, 0, "confirm", allowed)


def _query_s(goal: Goal, known: Sequence[Evidence], load: float) -> float:
    """What a query may take at a load that was not tried: as the nearest that was, in proportion; the bound at most."""
    tried = [one for one in known if one.query_s > 0]
    if not tried:
        return goal.bound_s
    nearest = min(tried, key=lambda one: abs(math.log(one.load / load)))
    return min(nearest.query_s * load / nearest.load, goal.bound_s)


def _shown(goal: Goal, load: float) -> str:
    return f"{load:.0f} samples per query" if goal.whole else f"{load:.4g} queries/s"
