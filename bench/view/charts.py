"""The live view's charts in blocks of eighths: the histogram of latencies, and rate and p99 over the run.

Each fills the rows and columns that it is given.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from rich.text import Text

from drumfire.bench.report import figures
from drumfire.bench.view.history import History
from drumfire.bench.watch import Spread, ViewPlan, rebin

EIGHTHS = " ▁▂▃▄▅▆▇█"
LABEL = 12
"""Columns of the names at the left."""
_HIGHEST = 16
"""Columns at the right of the history, for the highest value."""


def histogram(plan: ViewPlan, latency: Spread, width: int, rows: int) -> Text:
    """Bars over equal ratios of latency, between round figures so that the picture does not move, and an axis."""
    text = Text()
    columns = width - LABEL
    low = figures.round_down(max(float(latency.values[0]), 1.0))
    high = max(figures.round_up(latency.maximum), 2 * low)
    lines = _rows(rebin(latency, low, high, columns), rows)
    mark = _place(plan.target_latency_ns, low, high, columns)
    for number, cells in enumerate(lines):
        text.append(("latency" if number == 0 else "").ljust(LABEL), "dim")
        if mark is None:
            text.append(cells, "cyan")
        else:
            text.append(cells[:mark], "cyan")
            text.append("┊" if cells[mark] == " " else cells[mark], "red")
            text.append(cells[mark + 1 :], "red")
        text.append("\n")
    text.append("".ljust(LABEL) + _axis(low, high, columns) + "\n", "dim")
    return text


def over_time(history: History, width: int, rows: int, *, axis: bool) -> Text:
    """The rate and the p99 latency from the run's start to now, each from 0 to its highest, and the time below."""
    text = Text()
    columns = width - LABEL - _HIGHEST
    points = len(history.rates)
    if points > columns:  # of those that share a column, the mean rate and the highest p99, as in the history itself
        starts = np.arange(columns) * points // columns
        rates = np.add.reduceat(history.rates, starts) / np.diff([*starts, points])
        p99s = np.maximum.reduceat(history.p99s, starts)
    else:
        at = np.arange(columns) * points // columns
        rates, p99s = np.array(history.rates)[at], np.array(history.p99s)[at]
    for name, values, unit, style in (
        ("rate/time", rates, figures.rate, "green"),
        ("p99/time", p99s, figures.duration, "cyan"),
    ):
        for number, cells in enumerate(_rows(values, rows)):
            text.append((name if number == 0 else "").ljust(LABEL), "dim")
            text.append(cells, style)
            text.append((f" max {unit(values.max())}" if number == 0 else "") + "\n", "dim")
    if axis:
        text.append("".ljust(LABEL) + "0:00" + figures.clock(history.until_s).rjust(columns - 4) + "\n", "dim")
    return text


def _rows(values: npt.NDArray[np.generic], rows: int) -> list[str]:
    """Bars from 0 to the highest value, the upper row first."""
    heights = np.asarray(values, np.float64)
    eighths = np.ceil(heights * (rows * 8 / (heights.max() or 1))).astype(int)
    return [
        "".join(EIGHTHS[level] for level in np.clip(eighths - row * 8, 0, 8).tolist())
        for row in range(rows - 1, -1, -1)
    ]


def _axis(low: float, high: float, columns: int) -> str:
    """Round latencies, each under its column."""
    line = ""
    tick = low
    while tick <= high:
        label = figures.duration(tick).replace(".00", "").replace(".0", "")
        place = min(_place(tick, low, high, columns) or 0, columns - len(label))
        if not line or place >= len(line) + 3:
            line = line.ljust(place) + label
        tick = figures.round_up(1.5 * tick)
    return line


def _place(ns: float, low: float, high: float, columns: int) -> int | None:
    """The column of a latency; None outside the bounds."""
    if not low <= ns <= high:
        return None
    return min(int(columns * math.log(ns / low) / math.log(high / low)), columns - 1)
