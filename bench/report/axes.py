"""Axes of charts: which part of the numbers they show, where values are on them, and at which places they are named."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drumfire.bench.report.blocks import Values, percentile, shown
from drumfire.bench.report.figures import round_down, round_up

_ABOUT = 6
"""The number of named places on an axis, about."""
_APART = 20
"""Pixels between named places of a logarithmic axis; where they would be nearer, only powers of ten are named."""
_PERCENTILES = (0.0, math.log10(2), 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high`` over the pixels from ``begin`` to ``end``."""

    low: float
    high: float
    begin: float
    end: float
    ticks: list[tuple[float, str]]
    logarithmic: bool = False

    def place(self, values: Values) -> Values:
        """Pixels, shape (n,)."""
        if self.logarithmic:
            values = np.log(np.maximum(values, self.low))
            low, high = math.log(self.low), math.log(self.high)
        else:
            low, high = self.low, self.high
        found: Values = self.begin + (values - low) / (high - low) * (self.end - self.begin)
        return found

    def at(self, value: float) -> float:
        return float(self.place(np.array([value]))[0])


def linear(low: float, high: float, begin: float, end: float, unit: str) -> Axis:
    """An axis that ends at round numbers, unless it is of time (``s``)."""
    step = round_up((high - low) / _ABOUT) or 1.0
    if unit != "s":
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        high = high if high > low else low + step
    elif high <= low:
        high = low + 1.0
    first = math.ceil(low / step - 1e-9)
    ticks = [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]

    def text(value: float) -> str:
        return f"{float(f'{value:.6g}'):,g} s" if unit == "s" else short(value, unit)

    return Axis(low, high, begin, end, _named(ticks, text))


def logarithmic(low: float, high: float, begin: float, end: float, unit: str) -> Axis:
    """An axis that ends at 1, 2 or 5 times a power of ten.  ``low`` must be above 0."""
    low, high = round_down(low), round_up(high)
    high = high if high > low else low * 10
    decades = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)
    for steps in ((1, 2, 5), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) * _APART <= abs(end - begin):
            break
    return Axis(low, high, begin, end, _named(inside, lambda value: short(value, unit)), logarithmic=True)


def percentiles(high: float, begin: float, end: float) -> Axis:
    high = max(high, 1.0)
    ticks = [(x, percentile(x) if x else "0") for x in _PERCENTILES if x <= high + 1e-9]
    return Axis(0.0, high, begin, end, ticks)


def short(value: float, unit: str) -> str:
    """A round number without the zeros behind its point."""
    return re.sub(r"(\.\d*?)0+(?=\D|$)", lambda found: found[1].rstrip("."), shown(value, unit))


def _named(ticks: list[float], text: Callable[[float], str]) -> list[tuple[float, str]]:
    return [(tick, text(tick)) for tick in ticks]
