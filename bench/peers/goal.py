"""Figures and their goals: medians and ratios over several rounds, and whether each goal is met.

Only arithmetic.  A ratio always says how many times better Drumfire is: above 1 is better, also where less is better.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Figures = Mapping[str, float]
"""What a side measured in a run, by name."""


@dataclass(frozen=True)
class Round:
    """A round of a measure.  ``theirs``: by the other tool's name; empty where Drumfire is measured alone."""

    ours: Figures
    theirs: Mapping[str, Figures] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A row of the table: which figure, how it is shown, and its goals."""

    label: str
    ours: str
    """Its name in Drumfire's figures."""
    unit: str
    per_unit: float = 1.0
    """The size of the shown unit in the measured unit: 1e6 for MB where bytes are measured."""
    theirs: str | None = None
    """Its name in the other tools' figures; None where they have none."""
    more_is_better: bool = False
    goal: float | None = None
    """In the shown unit: at least this where more is better, else at most this."""
    goal_ratio: float | None = None
    """The least ratio to the first of the other tools."""

    def row(self, rounds: Sequence[Round], tools: Sequence[str]) -> Row:
        """The medians over the rounds that have this figure; ``tools``: the other tools, in the table's order."""
        ours = [r.ours[self.ours] / self.per_unit for r in rounds if self.ours in r.ours]
        beside = tuple(self._beside([(r.ours, r.theirs.get(tool, {})) for r in rounds]) for tool in tools)
        return Row(self, _median(ours), _spread(ours), beside)

    def _beside(self, pairs: Sequence[tuple[Figures, Figures]]) -> Beside:
        named = self.theirs or ""  # no figure has an empty name
        values = [theirs[named] / self.per_unit for _, theirs in pairs if named in theirs]
        ratios = [
            times_better(ours[self.ours], theirs[named], more_is_better=self.more_is_better)
            for ours, theirs in pairs
            if self.ours in ours and named in theirs
        ]
        return Beside(_median(values), _median(ratios), _spread(values))


def both(
    label: str,
    name: str,
    unit: str,
    per_unit: float = 1.0,
    *,
    more_is_better: bool = False,
    goal: float | None = None,
    goal_ratio: float | None = None,
) -> Figure:
    """A figure that has the same name on all sides."""
    return Figure(label, name, unit, per_unit, name, more_is_better, goal, goal_ratio)


@dataclass(frozen=True)
class Beside:
    """Another tool's part of a row.  None where no round has the figure."""

    value: float | None
    ratio: float | None
    """The median of the rounds' ratios."""
    spread: float
    """(most - least) / median over the rounds."""


@dataclass(frozen=True)
class Row:
    """A figure with its values.  None where no round has it."""

    figure: Figure
    ours: float | None
    ours_spread: float
    beside: tuple[Beside, ...]
    """The other tools."""

    @property
    def met(self) -> bool | None:
        """Whether all goals are met; None without a goal."""
        if self.figure.goal is None and self.figure.goal_ratio is None:
            return None
        return not self.missed()

    def missed(self) -> list[str]:
        """Each goal that was missed, and by how much."""
        figure, lines = self.figure, []
        if figure.goal is not None:
            bound = "least" if figure.more_is_better else "most"
            asked = f"at {bound} {number(figure.goal)} {figure.unit}".rstrip()
            if self.ours is None:
                lines.append(f"not measured; the goal is {asked}")
            elif (self.ours < figure.goal) if figure.more_is_better else (self.ours > figure.goal):
                off = f", off by {abs(self.ours / figure.goal - 1):.1%}" if figure.goal else ""
                lines.append(f"{number(self.ours)} {figure.unit}".rstrip() + f" where {asked} is the goal{off}")
        if figure.goal_ratio is not None:
            asked = f"{number(figure.goal_ratio)} times better"
            ratio = self.beside[0].ratio
            if ratio is None:
                lines.append(f"not compared; the goal is {asked}")
            elif ratio < figure.goal_ratio:
                off = f"off by {1 - ratio / figure.goal_ratio:.1%}"
                lines.append(f"{number(ratio)} times better where {asked} is the goal, {off}")
        return lines


def times_better(ours: float, theirs: float, *, more_is_better: bool) -> float:
    """The ratio of the two, turned so that above 1 is better for Drumfire; 1 for two zeros."""
    above, below = (ours, theirs) if more_is_better else (theirs, ours)
    if below == 0:
        return 1.0 if above == 0 else math.inf
    return above / below


def number(value: float) -> str:
    """Three digits and no exponent."""
    if math.isinf(value):
        return "∞"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _spread(values: Sequence[float]) -> float:
    middle = _median(values)
    return (max(values) - min(values)) / abs(middle) if middle else 0.0
