"""What makes a comparison doubtful, each a line: it is read before any figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from drumfire.bench.compare.blocks import BLOCKS, MERGED, Floats
from drumfire.bench.compare.differences import Difference, Kind, differences
from drumfire.bench.compare.subject import Subject
from drumfire.bench.report.figures import duration, share
from drumfire.loadgen.lateness import is_late
from drumfire.loadgen.wording import counted

_FAILURES = 0.001
"""A greater share of failed samples is named."""
_MOST_FAILURES = 0.01
"""With more, the slow answers that figures such as p99 tell of may be among those that failed."""
_START, _REST = 3, 16
"""Of 32 blocks: the first ones, beside the last ones."""
_START_T = 2.95
"""The t statistic of 15 degrees of freedom above which a run starts differently: 1 % of steady runs do."""
_GROWTH_T, _GROWTH = 3.0, 1.2
"""A run is overloaded whose latency grows by a fifth over its second half, with a slope of so many standard errors."""
_LEAST = 1000
"""Queries below which nothing can be said of a run's parts."""
Side = Sequence[Subject]


@dataclass(frozen=True)
class Doubts:
    """What is said first."""

    lines: tuple[str, ...]
    broken: str = ""
    """Why the sides are not compared at all; empty where they are."""
    undecided: str = ""
    """Why no verdict can be given whatever the figures are."""


def doubts(a: Side, b: Side, letters: tuple[str, str]) -> Doubts:
    """Of two sides, by their letters."""
    named = list(zip(letters, (a, b), strict=True))
    broken = ""
    lines: list[str] = []
    for letter, side in named:
        if spoiled := [one for one in side if is_meaningless(one)]:
            broken = broken or f"{_some(letter, spoiled, side)} INVALID: not compared"
        if invalid := [one for one in side if one.result["validity"] != "VALID"]:
            reason = next(iter(invalid[0].result.get("reasons") or ["no reason is given"]))
            lines.append(f"{_some(letter, invalid, side)} INVALID: {' '.join(reason.split())}")
    lines += _failures(named)
    found = differences(a[0].result, b[0].result)
    for title, of_title in _titled(found).items():
        lines.append(f"{title} differ: {'; '.join(map(str, of_title))}")
    for letter, side in named:
        within = [one for run in side[1:] for one in differences(side[0].result, run.result)]
        if texts := list(dict.fromkeys(one.name for one in within)):
            lines.append(f"the runs of {letter} are not alike: {', '.join(texts)}")
    for letter, side in named:
        lines += _course(letter, side)
    lines += _late(named)
    kinds = {one.kind for one in found} - {Kind.REVISION}
    undecided = ""
    if len(kinds) > 1:
        what = " and ".join(kind.value for kind in Kind if kind in kinds)
        undecided = f"{what} differ, so the cause is open: change one of them"
    return Doubts(tuple(lines), broken, undecided)


def late_p99(side: Side) -> int:
    """The largest p99 lateness, ns, of the runs in which it is above half of the p50 latency; 0 without one."""
    found = [one.result for one in side if one.on_schedule]
    said = [one for one in found if "p99" in (one.get("lateness_ns") or {}) and "p50" in (one.get("latency_ns") or {})]
    return max((int(one["lateness_ns"]["p99"]) for one in said if is_late(one)), default=0)


def failed_share(run: Subject) -> float:
    """Failed and unanswered samples as a share of those that were issued."""
    errors = run.result.get("errors") or {}
    bad = int(errors.get("failed", 0)) + int(errors.get("unanswered", 0))
    issued = bad + int((run.result.get("delivered") or {}).get("samples", 0))
    return bad / issued if issued else 0.0


def is_meaningless(run: Subject) -> bool:
    """Whether so much failed, or the run ended so early, that its figures say nothing."""
    result = run.result
    errors = result.get("errors") or {}
    if errors.get("unanswered") or failed_share(run) > _MOST_FAILURES:
        return True
    spoiled = (result.get("checks") or {}).get("no_errors") is False
    return spoiled and not errors.get("failed") and "confidence" not in result


def _some(letter: str, some: Side, side: Side) -> str:
    return f"{letter} is" if len(side) == 1 else f"{letter}: {len(some)} of {counted(len(side), 'run')} are"


def _titled(found: Sequence[Difference]) -> dict[str, list[Difference]]:
    """Another model comes first, in a line of its own."""
    titled: dict[str, list[Difference]] = {"models": [], **{kind.value: [] for kind in Kind}}
    for one in found:
        titled["models" if one.name == "model" else one.kind.value].append(one)
    return {title: differing for title, differing in titled.items() if differing}


def _failures(named: Sequence[tuple[str, Side]]) -> Iterator[str]:
    shares = {letter: max(map(failed_share, side)) for letter, side in named}
    if max(shares.values()) > _FAILURES:
        of = ", ".join(f"{share(one)} of {letter}'s" for letter, one in shares.items())
        yield f"samples failed, {of}: no latency counts them"


def _course(letter: str, side: Side) -> Iterator[str]:
    """How latency goes over a run."""
    looked = [one for one in side if one.has_rows and not one.is_offline and one.queries >= _LEAST]
    of = "" if len(side) == 1 else " in {} of " + counted(len(side), "run")
    if early := sum(starts_differently(one.by_rows.mean_logs) for one in looked):
        yield f"{letter} starts differently from how it goes on{of.format(early)}: --skip leaves the start out"
    if grown := sum(one.on_schedule and grows(one.by_rows.mean_logs) for one in looked):
        yield f"{letter} is not steady{of.format(grown)}: its latency still grows at the end, as if overloaded"


def starts_differently(mean_logs: Floats) -> bool:
    """Whether the first tenth of a run is unlike its second half, from the mean logarithms of BLOCKS blocks."""
    of = mean_logs.reshape(BLOCKS // 2, 2).mean(axis=1)
    start, rest = of[:_START], of[-_REST:]
    error = float(rest.std(ddof=1)) * math.sqrt(1 / _START + 1 / _REST)
    return error > 0 and abs(float(start.mean() - rest.mean())) > _START_T * error


def grows(mean_logs: Floats) -> bool:
    """Whether latency grows over the second half, and with it, by Little's law, what is in flight."""
    of = mean_logs[BLOCKS // 2 :].reshape(MERGED, -1).mean(axis=1)
    x = np.arange(MERGED) - (MERGED - 1) / 2
    slope = float(x @ of) / float(x @ x)
    left = of - of.mean() - slope * x
    error = math.sqrt(float(left @ left) / (MERGED - 2) / float(x @ x))
    return bool(slope > _GROWTH_T * error and slope * MERGED > math.log(_GROWTH))


def _late(named: Sequence[tuple[str, Side]]) -> Iterator[str]:
    for letter, side in named:
        if late := late_p99(side):
            yield f"{letter} was sent late: its p99 lateness, {duration(late)}, is above half of its p50 latency"
