"""What makes a comparison doubtful, a line each, to be read before any figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drumfire.bench.compare import steadiness
from drumfire.bench.compare.differences import Area, Difference, differences
from drumfire.bench.compare.subject import Side, Subject, identity
from drumfire.bench.report.figures import duration, share
from drumfire.loadgen.lateness import is_late
from drumfire.loadgen.wording import counted, each_is

_FAILURES = 0.001
"""A greater share of failed samples is reported."""
_MOST_FAILURES = 0.01
"""With a greater share, the slow answers that decide figures such as p99 may be among those that failed."""


@dataclass(frozen=True)
class Doubts:
    """The lines to read first, and what forbids a verdict."""

    lines: tuple[str, ...]
    broken: str = ""
    """Why the sides are not compared at all; empty where they are."""
    undecided: str = ""
    """Why there can be no verdict whatever the figures are; empty where there can."""


def doubts(a: Side, b: Side, letters: tuple[str, str], *, intended: bool = False) -> Doubts:
    """The doubts about a comparison of two sides, which ``letters`` name.

    ``intended``: all differences but those of the machine are what is compared.
    """
    named = list(zip(letters, (a, b), strict=True))
    broken = ""
    lines: list[str] = []
    for letter, side in named:
        if spoiled := [one for one in side if is_meaningless(one)]:
            broken = broken or f"{_some(letter, spoiled, side)} INVALID: not compared"
        if invalid := [one for one in side if one.result["validity"] != "VALID"]:
            reason = next(iter(invalid[0].result.get("reasons") or ["no reason is given"]))
            lines.append(f"{_some(letter, invalid, side)} INVALID: {' '.join(reason.split())}")
    lines += _shared(a, b, letters)
    lines += _failures(named)
    found = differences(a[0].result, b[0].result)
    # Another model comes first, in a line of its own.
    titles = ["models" if one.name == "model" else one.area.value for one in found]
    for title in ("models", *(area.value for area in Area)):
        if of_title := [str(one) for one, its in zip(found, titles, strict=True) if its == title]:
            lines.append(f"{title} differ: {'; '.join(of_title)}")
    lines += _sizes(named)
    for letter, side in named:
        within = [one for run in side[1:] for one in differences(side[0].result, run.result)]
        if texts := list(dict.fromkeys(one.name for one in within)):
            lines.append(f"the runs of {letter} are not alike: {', '.join(texts)}")
    for letter, side in named:
        lines += _course(letter, side)
    for letter, side in named:
        if late := late_p99(side):
            lines.append(f"{letter} was sent late: its p99 lateness, {duration(late)}, exceeds half of its p50 latency")
    return Doubts(tuple(lines), broken, _cause_open(found, intended=intended))


def _cause_open(found: Sequence[Difference], *, intended: bool) -> str:
    """Why a difference of the figures would not show what causes it; empty where it would."""
    areas = [area for area in Area if area is not Area.REVISION and any(one.area is area for one in found)]
    if intended:
        return "machines differ, so the cause is open: do all runs on one machine" if Area.MACHINE in areas else ""
    if len(areas) < 2:
        return ""
    return f"{' and '.join(area.value for area in areas)} differ, so the cause is open: change one of them"


def _shared(a: Side, b: Side, letters: tuple[str, str]) -> Iterator[str]:
    of_a = {identity(one.run) for one in a}
    if both := [one.name for one in b if identity(one.run) in of_a]:
        if len(a) == len(b) == 1:
            yield f"{letters[0]} and {letters[1]} are the same run, which cannot differ from itself"
        else:
            yield f"{' and '.join(letters)} have {counted(len(both), 'run')} in common: {', '.join(both[:3])}"


def _sizes(named: Sequence[tuple[str, Side]]) -> Iterator[str]:
    """A line on different sizes of Offline runs, whose rate depends on how many samples are sent at once."""
    found = {letter: sorted({int((one.result.get("delivered") or {}).get("samples", 0)) for one in side})
             for letter, side in named if side[0].is_offline}  # fmt: skip
    if len({size for sizes in found.values() for size in sizes}) > 1:
        texts = [f"{letter} {' to '.join(f'{size:,}' for size in {sizes[0]: 0, sizes[-1]: 0})}"
                 for letter, sizes in found.items()]  # fmt: skip
        yield f"the numbers of samples differ, {', '.join(texts)}: give all runs the same --qps, which sets it"


def late_p99(side: Side) -> int:
    """The largest p99 lateness, ns, of the runs in which it is above half of the p50 latency; 0 without one."""
    found = [one.result for one in side if one.on_schedule]
    both = [one for one in found if "p99" in (one.get("lateness_ns") or {}) and "p50" in (one.get("latency_ns") or {})]
    return max((int(one["lateness_ns"]["p99"]) for one in both if is_late(one)), default=0)


def failed_share(run: Subject) -> float:
    """The failed and unanswered samples as a share of those that were issued."""
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
    if len(side) == 1:
        return f"{letter} is"
    return f"{letter}: {len(some)} of {counted(len(side), 'run')} {each_is(len(some))}"


def _failures(named: Sequence[tuple[str, Side]]) -> Iterator[str]:
    shares = {letter: max(map(failed_share, side)) for letter, side in named}
    if max(shares.values()) > _FAILURES:
        of = ", ".join(f"{share(one)} of {letter}'s" for letter, one in shares.items())
        yield f"samples failed, {of}: no latency counts them"


def _course(letter: str, side: Side) -> Iterator[str]:
    """Lines on how latency changes over a run."""
    of = "" if len(side) == 1 else " in {} of " + counted(len(side), "run")
    if early := sum(steadiness.start(one) is not None for one in side):
        yield f"{letter} starts differently from how it goes on{of.format(early)}: --skip leaves the start out"
    if grown := sum(map(steadiness.grows, side)):
        yield f"{letter} is not steady{of.format(grown)}: its latency still grows at the end, as if overloaded"
