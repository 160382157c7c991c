"""The numbers of a chart as a table, for readers who do not see it and for forms without pictures."""

from __future__ import annotations

import numpy as np

from drumfire.bench.report.blocks import Axis, Bars, Chart, Heat, Table, Values, percentile, shown
from drumfire.bench.report.figures import digits, duration
from drumfire.bench.report.timeline import LISTED, ROWS_AN_OCTAVE
from drumfire.loadgen.wording import counted

_MOST = 20
_COLUMNS = 8


def listed(block: Chart | Bars) -> Table:
    """The chart as a table of about 20 rows: a longer line at equal distances, and where it is highest."""
    if isinstance(block, Bars):
        rows = [
            [category, *(shown(values[number], block.unit) for values in block.groups.values())]
            for number, category in enumerate(block.categories)
        ]
        return Table("As a table", ["", *block.groups], rows)
    if block.heat:
        return _heat(block.heat)
    if block.axis is Axis.PERCENTILE:
        return _percentiles(block)
    longest = max(block.lines, key=lambda line: line.x.size).x
    step = -(-longest.size // _MOST)
    picked = longest[::step]
    highest = [float(line.x[int(np.nanargmax(line.y))]) for line in block.lines if np.isfinite(line.y).any()]
    places = np.unique(np.concatenate([picked, highest])) if step > 1 else picked
    columns = [[shown(value, block.unit) for value in _nearest(line.x, line.y, places)] for line in block.lines]
    title = "As a table"
    if step > 1:
        title += f": {counted(longest.size, 'slice')}, one in {step} and the highest"
    rows = [
        [block.axis.place(at), *(column[number] for column in columns)] for number, at in enumerate(places.tolist())
    ]
    return Table(title, ["at", *(line.name for line in block.lines)], rows)


def _percentiles(block: Chart) -> Table:
    rows = []
    for share in LISTED:
        values = [line.at(share) for line in block.lines]
        if any(value != "-" for value in values):
            rows.append([percentile(-float(np.log10(1 - share))), *values])
    return Table("As a table", ["", *(line.name for line in block.lines)], rows)


def _heat(heat: Heat) -> Table:
    """The heat map as a table, by octave of latency and by eighth of the time."""
    parts = [part.sum(axis=0) for part in np.array_split(heat.counts, min(_COLUMNS, heat.counts.shape[0]))]
    rows = []
    for first in range(0, heat.counts.shape[1], ROWS_AN_OCTAVE):
        low = heat.low * 2 ** (first / ROWS_AN_OCTAVE)
        counts = [f"{int(part[first : first + ROWS_AN_OCTAVE].sum()):,}" for part in parts]
        rows.append([f"{duration(low)} to {duration(low * 2)}", *counts])
    ends = [f"to {digits(heat.right * (number + 1) / len(parts))} s" for number in range(len(parts))]
    return Table("As a table: queries by latency and time", ["latency", *ends], rows)


def _nearest(x: Values, y: Values, places: Values) -> list[float]:
    """The value next to each place; NaN beyond the ends of the line."""
    if not x.size:
        return [float("nan")] * places.size
    right = np.clip(np.searchsorted(x, places), 0, x.size - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(x[left] - places) < np.abs(x[right] - places), left, right)
    step = float(x[-1] - x[0]) / max(x.size - 1, 1)
    beyond = (places > x[-1] + step) | (places < x[0] - step)
    found: list[float] = np.where(beyond, np.nan, y[nearest]).tolist()
    return found
