"""The axes of a sweep: an option of a run and its values, from text such as ``qps=100:20000:log8``."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from drumfire.bench.options.values import Declared
from drumfire.loadgen.errors import UserError, nearest
from drumfire.loadgen.options import flag

_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER}):(log|lin)([0-9]{{1,4}})")
_AXIS = re.compile(r"([A-Za-z][\w-]*)\s*=\s*(.*)", re.S)
MOST_POINTS = 1000
_DIGITS = (3, 6, 15)
"""Significant digits of the values inside a range: the fewest that keep them apart are taken."""
Place = tuple[str, ...]
"""A value of each axis, as it is written."""


@dataclass(frozen=True)
class SweepAxis:
    """An option and its values, ascending."""

    name: str
    values: tuple[str, ...]
    is_range: bool = False

    def __str__(self) -> str:
        return f"{self.label}={','.join(self.values)}"

    @property
    def label(self) -> str:
        """The option's name as people write it."""
        return self.name.replace("_", "-")


def parse(text: str) -> SweepAxis:
    """An axis as people write it; whether a run has the option is not known here.  Raises ``UserError``."""
    shown = text[:60]
    found = _AXIS.fullmatch(text.strip())
    if found is None:
        raise UserError(f"--over: {shown!r} is not an axis: write it as qps=100:20000:log8 or max_batchsize=1,2,4")
    name = found[1].replace("-", "_")
    if ":" in found[2]:
        return _range(shown, name, found[2])
    parts = [part.strip() for part in found[2].split(",")]
    if wrong := next((part for part in parts if re.fullmatch(_NUMBER, part) is None), None):
        raise UserError(f"--over: {shown!r}: {wrong[:60]!r} is not a number")
    if "" in parts:
        raise UserError(f"--over: {shown!r} lacks a value: write several with commas between them")
    if len({float(part) for part in parts}) < len(parts):
        raise UserError(f"--over: {shown!r} has a value twice: leave one out")
    return _checked(shown, SweepAxis(name, tuple(sorted(parts, key=float))))


def _range(shown: str, name: str, text: str) -> SweepAxis:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise UserError(f"--over: {shown!r}: write a range as 100:20000:log8 or 100:800:lin8")
    low, high, count = float(found[1]), float(found[2]), int(found[4])
    if low >= high:
        raise UserError(f"--over: {shown!r}: a range goes from its lower to its higher end: {found[2]}:{found[1]}")
    if not 2 <= count <= MOST_POINTS:
        raise UserError(f"--over: {shown!r}: {found[3]} must be followed by how many values, from 2 to {MOST_POINTS}")
    if found[3] == "log" and low <= 0:
        raise UserError(f"--over: {shown!r}: a logarithmic range begins above 0: write lin, or another begin")
    _check_finite(shown, high)
    shares = [number / (count - 1) for number in range(1, count - 1)]
    inner = [low * (high / low) ** share if found[3] == "log" else low + share * (high - low) for share in shares]
    for digits in _DIGITS:
        values = [low, *(float(f"{value:.{digits}g}") for value in inner), high]
        if all(one < next_one for one, next_one in itertools.pairwise(values)):
            return SweepAxis(name, (found[1], *(f"{value:.15g}" for value in values[1:-1]), found[2]), is_range=True)
    raise UserError(f"--over: {shown!r}: its ends are too close for that many values")


def _checked(shown: str, axis: SweepAxis) -> SweepAxis:
    if len(axis.values) > MOST_POINTS:
        raise UserError(f"--over: {shown!r} has {len(axis.values):,} values, more than {MOST_POINTS:,}")
    _check_finite(shown, float(axis.values[-1]))
    return axis


def _check_finite(shown: str, value: float) -> None:
    if not math.isfinite(value):
        raise UserError(f"--over: {shown!r}: no number is so large")


def of_options(texts: Sequence[str], options: Sequence[Declared], given: Set[str]) -> list[SweepAxis]:
    """One axis or two, of those ``options`` that take a number, and are not in ``given``.  Raises ``UserError``."""
    if not texts:
        raise UserError("--over must be given, such as --over qps=100:20000:log8")
    if len(texts) > 2:
        raise UserError(f"--over is given {len(texts)} times: a sweep goes over one option or two")
    known = {one.name: one for one in options if one.kind in (int, float) and not one.several}
    axes = []
    for axis in map(parse, texts):
        if axis.name not in known:
            near = nearest(axis.label, [name.replace("_", "-") for name in known])
            raise UserError(f"--over: {axis.label} is not an option of this run that takes a number{near}")
        if axis.name in given:
            raise UserError(f"{flag(axis.name)} is given twice, once as --over: leave one out")
        axes.append(_whole(axis, known[axis.name]))
    if len({axis.name for axis in axes}) < len(axes):
        raise UserError(f"--over goes over {axes[0].label} twice: write all of its values in one")
    if (points := math.prod(len(axis.values) for axis in axes)) > MOST_POINTS:
        raise UserError(f"--over has {points:,} points, more than {MOST_POINTS:,}: give fewer values")
    return axes


def _whole(axis: SweepAxis, one: Declared) -> SweepAxis:
    """The axis with a range rounded to whole numbers, each once, where its option takes such."""
    if one.kind is not int or not axis.is_range:
        return axis
    numbers = [float(value) for value in axis.values]
    if not (numbers[0].is_integer() and numbers[-1].is_integer()):
        raise UserError(f"--over: {axis.label} takes whole numbers, and the range ends at others")
    return replace(axis, values=tuple(dict.fromkeys(str(round(number)) for number in numbers)))


def places(axes: Sequence[SweepAxis]) -> list[Place]:
    """All combinations of values; the last axis varies fastest."""
    return list(itertools.product(*(axis.values for axis in axes)))


def words(axes: Sequence[SweepAxis], place: Place) -> list[str]:
    """The words of a command line that set a place."""
    return [word for axis, value in zip(axes, place, strict=True) for word in (flag(axis.name), value)]


def name(axes: Sequence[SweepAxis], place: Place) -> str:
    """The name of a place, in its folder and in a line of progress."""
    return "_".join(f"{axis.label}={value}" for axis, value in zip(axes, place, strict=True))
