"""Rounds: every measure of Drumfire and of the tools beside it, in turns.

Progress goes to standard error.  So does the reason of a failed measurement, whose side of the round stays empty.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drumfire.bench.peers.goal import Figure, Figures, Round, number
from drumfire.bench.peers.process import MeasurementError, run

OURS = "Drumfire"

Side = Callable[[float], dict[str, float]]
"""Takes the length of a run in seconds and returns its figures.  Raises ``MeasurementError``."""

Rounds = Mapping[str, Sequence[Round]]
"""By the measure's name."""


@dataclass(frozen=True)
class Measure:
    """A measurement of Drumfire, and of other tools where there are any, with its rows of the table."""

    name: str
    figures: tuple[Figure, ...]
    ours: Side
    theirs: Mapping[str, Side] = field(default_factory=dict)
    """By the tool's name."""
    once: bool = False
    """Measure in the first round only."""
    note: Callable[[Figures], str] | None = None
    """Makes a line under the table from Drumfire's medians."""


class BothSides:
    """A module that measures both sides in turns: it runs, in a process of its own, when the first side is called.

    It reads a case with the length as ``seconds``, JSON, from its standard input, and prints the figures by side.
    """

    def __init__(self, module: str, case: Mapping[str, Any]) -> None:
        self._module, self._case = module, case
        self._figures: dict[str, dict[str, float]] = {}

    def side(self, name: str) -> Side:
        """Of the module's own name for it, such as ``ours``.  Raises ``MeasurementError``."""

        def measure(seconds: float) -> dict[str, float]:
            if name not in self._figures:
                words = [sys.executable, "-m", self._module]
                self._figures = run(words, json.dumps({**self._case, "seconds": seconds}), patience_s=1800).document
            return self._figures.pop(name)

        return measure


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
    """Run all measures round by round; the side that goes first changes with the round.

    ``ours``: what messages call Drumfire's side.  ``rounds``: filled on the way, for a caller that is interrupted.
    """
    rounds = {} if rounds is None else rounds
    for at in range(count):
        for one in chosen:
            if one.once and at:
                continue
            sides = [(ours, one.ours), *one.theirs.items()]
            first = at % len(sides)
            figures = {
                name: _measure(f"round {at + 1}/{count} {one.name} {name}", side, seconds)
                for name, side in sides[first:] + sides[:first]
            }
            rounds.setdefault(one.name, []).append(Round(figures.pop(ours), figures))
    return rounds


def compact(rounds: Rounds) -> str:
    """The raw rounds as JSON, a line for each round."""
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
    shown = ", ".join(f"{name} {number(value)}" for name, value in list(figures.items())[:8])
    print(f"{shown}  ({time.monotonic() - began:.1f} s)", file=sys.stderr)
    return figures
