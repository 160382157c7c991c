"""Rounds: every measure of Drumfire and of the tools beside it, in turns, each side told as figures.

Progress goes to standard error.  A measurement that fails is told there and its side of the round is left empty.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from drumfire.bench.peers.goal import Figure, Figures, Round, number
from drumfire.bench.peers.process import MeasurementError

OURS = "Drumfire"

Side = Callable[[float], dict[str, float]]
"""From the length of a run in seconds to its figures.  Raises ``MeasurementError``."""

Rounds = Mapping[str, Sequence[Round]]
"""By the measure's name."""


@dataclass(frozen=True)
class Measure:
    """A measurement of Drumfire, and of other tools where there are any, with the rows that are made of it."""

    name: str
    figures: tuple[Figure, ...]
    ours: Side
    theirs: Mapping[str, Side] = field(default_factory=dict)
    """By the tool's name."""
    once: bool = False
    """One round is enough."""
    note: Callable[[Figures], str] | None = None
    """A line under the table, from our medians."""


def family(name: str) -> str:
    """What stands before the @ of a measure's name: the measures of a family are chosen together."""
    return name.partition("@")[0]


def run_rounds(
    chosen: Sequence[Measure],
    count: int,
    seconds: float,
    *,
    ours: str = OURS,
    rounds: dict[str, list[Round]] | None = None,
) -> Rounds:
    """All measures round by round; the side that goes first changes with the round.

    ``rounds``: where they go, so that a caller that is interrupted has those that ended.
    """
    rounds = {} if rounds is None else rounds
    for at in range(count):
        for one in chosen:
            if one.once and at:
                continue
            sides = [(ours, one.ours), *one.theirs.items()]
            first = at % len(sides)
            told = {
                name: _measure(f"round {at + 1}/{count} {one.name} {name}", side, seconds)
                for name, side in sides[first:] + sides[:first]
            }
            rounds.setdefault(one.name, []).append(Round(told.pop(ours), told))
    return rounds


def compact(rounds: Rounds) -> str:
    """The raw rounds as JSON, a line a round."""
    lines = [
        json.dumps({"measure": name, "round": at, "ours": r.ours, "theirs": r.theirs}, separators=(",", ":"))
        for name, of_measure in rounds.items()
        for at, r in enumerate(of_measure, 1)
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _measure(what: str, side: Side, seconds: float) -> dict[str, float]:
    print(f"{what} ...", end=" ", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        figures = side(seconds)
    except MeasurementError as error:
        print(f"failed: {error}", file=sys.stderr)
        return {}
    told = ", ".join(f"{name} {number(value)}" for name, value in list(figures.items())[:8])
    print(f"{told}  ({time.monotonic() - began:.1f} s)", file=sys.stderr)
    return figures
