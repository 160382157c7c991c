"""The parts of the proof, and how they share its time: each has a least and a most, and none takes another's least.

Only arithmetic and data; ``parts`` says what is measured, ``child`` how a part runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Figure = dict[str, Any]
"""What was measured: ``of`` says what, the rest are names and numbers."""


@dataclass(frozen=True)
class Part:
    """A part of the proof: a module of this package, which runs as a program."""

    name: str
    module: str
    case: Mapping[str, Any]
    """What it measures; ``device`` and ``seconds`` are added."""
    least_s: float
    """With less it is not begun."""
    most_s: float
    """It is ended after this time."""


@dataclass(frozen=True)
class Missing:
    """Something that stays unproven."""

    what: str
    why: str
    expected: bool = False
    """Known before: neither more time nor more packages on this machine would show it."""


@dataclass
class Ended:
    """A part that has ended, or was not begun."""

    part: str
    status: str
    """``done``, ``failed``, ``skipped`` or ``interrupted``."""
    why: str = ""
    took_s: float = 0.0
    figures: list[Figure] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


Run = Callable[[Part, float], Ended]
"""Runs a part for at most so many seconds."""


def allotted(part: Part, later: Sequence[Part], left_s: float) -> float | None:
    """The seconds that ``part`` gets of the ``left_s`` for it and all ``later`` ones; None: it is not begun."""
    if left_s < part.least_s:
        return None
    return min(part.most_s, max(left_s - sum(one.least_s for one in later), part.least_s))


def carry_out(parts: Sequence[Part], run: Run, left_s: Callable[[], float]) -> Iterator[Ended]:
    """Run the parts in their order; those without time are skipped.  Ends after one that is interrupted."""
    for number, part in enumerate(parts):
        left = left_s()
        seconds = allotted(part, parts[number + 1 :], left)
        if seconds is None:
            why = f"no time was left: it takes {part.least_s:.0f} s, and {max(left, 0):.0f} s were"
            yield Ended(part.name, "skipped", why, missing=[Missing(part.name, why)])
            continue
        ended = run(part, seconds)
        yield ended
        if ended.status == "interrupted":
            return


def figures(ended: Iterable[Ended], of: str) -> list[Figure]:
    """Those of the kind ``of``, in the order in which they were measured."""
    return [figure for one in ended for figure in one.figures if figure["of"] == of]
