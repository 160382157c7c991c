"""Draws charts as SVG that needs no style sheet: it has light colours of its own, which a page's may replace."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from drumfire.bench.report import axes, png
from drumfire.bench.report.axes import Axis
from drumfire.bench.report.blocks import Axis as Kind
from drumfire.bench.report.blocks import Bars, Chart, Dash, Heat, Line, rounded, shown

COLOURS = ("#0b5cad", "#a8320a", "#1b7a3d", "#7d3cb5", "#8a5a00", "#00737a")
"""Each has a contrast of 4.5 or more to white."""
_WIDTH, _LEFT, _RIGHT, _TOP, _FOOT = 760, 76, 16, 8, 24
_HEIGHT = {Kind.TIME: 150, Kind.PERCENTILE: 260, Kind.RATE: 260}
_HEAT_HEIGHT = 200
_BAR, _GAP = 22, 8
_LEGEND = 18
_LETTER = 6.6
_DASHES = {
    Dash.SOLID: "",
    Dash.DASHED: "6 4",
    Dash.DOTTED: "1.5 3.5",
    Dash.LONG: "12 4",
    Dash.DOT_DASHED: "8 3 1.5 3",
    Dash.SHORT: "3 3",
}
_FAINTEST = 0.16
"""The opacity of a cell of a heat map that counts little."""


def chart(block: Chart) -> tuple[str, dict[str, Any]]:
    """The drawing, and what a cross-hair over it must know."""
    legend, top = _legend([(line.name, line.colour, line.dash) for line in block.lines])
    height = _HEAT_HEIGHT if block.heat else _HEIGHT[block.axis]
    x, y = _axes(block, top, top + height)
    marks = [*_grid(x, y)]
    if block.heat:
        marks.append(_heat(block.heat, block.name, x, y))
    for line in block.lines:
        marks.append(_path(line, x, y))
    if block.bound:
        marks += _bound(block.bound.at, block.bound.name, x, y)
    for mark in block.marks:
        marks += _mark(mark.at, mark.name, x, y)
    marks.append('<path class="cross" d="" fill="none" stroke="#555"/>')
    hair = {
        "group": block.axis.value,
        "x": [x.begin, x.end, x.low, x.high],
        "y": [top, top + height],
        "unit": block.unit,
        "lines": [[line.name, _places(line), rounded(line.y)] for line in block.lines],
    }
    return _svg(block.name, block.title, block.finding, top + height + _FOOT, [*legend, *marks]), hair


def bars(block: Bars) -> str:
    """Categories beside each other, or, stacked, a bar a group."""
    if block.stacked:
        return _stacked(block)
    legend, top = _legend([(name, number, Dash.SOLID) for number, name in enumerate(block.groups)])
    legend, top = (legend, top) if len(block.groups) > 1 else ([], _TOP)
    height = _HEIGHT[Kind.TIME]
    y = axes.linear(0, max(max(values) for values in block.groups.values()), top + height, top, block.unit)
    wide = (_WIDTH - _LEFT - _RIGHT) / len(block.categories)
    thin = min(0.8 * wide / len(block.groups), 40.0)
    x = Axis(0, 1, _LEFT, _WIDTH - _RIGHT, [])
    marks = [*_grid(x, y)]
    every = -(-len(block.categories) // 20)
    for number, category in enumerate(block.categories):
        middle = _LEFT + (number + 0.5) * wide
        if number % every == 0:
            marks.append(_text(middle, top + height + 16, category, "middle"))
        for group, values in enumerate(block.groups.values()):
            if values[number] > 0:
                left = middle + (group - len(block.groups) / 2) * thin
                tall = max(y.begin - y.at(values[number]), 1.0)  # what is there is seen
                marks.append(_box(left, y.begin - tall, thin * 0.92, tall, group))
    return _svg(block.name, block.title, block.finding, top + height + _FOOT, [*legend, *marks])


def _stacked(block: Bars) -> str:
    legend, top = _legend([(name, number, Dash.SOLID) for number, name in enumerate(block.categories)])
    several = len(block.groups) > 1
    most = max(sum(values) for values in block.groups.values()) or 1.0
    below = top + len(block.groups) * (_BAR + _GAP + (14 if several else 0))
    x = axes.linear(0, most, _LEFT, _WIDTH - _RIGHT, block.unit)
    marks = [_below(x.at(at), below + 12, text) for at, text in x.ticks]
    for number, (name, values) in enumerate(block.groups.items()):
        y, begin = top + number * (_BAR + _GAP + (14 if several else 0)), float(_LEFT)
        if several:
            marks.append(_text(_LEFT, y + 10, name, "start"))
            y += 14
        for part, value in enumerate(values):
            long = value / (x.high - x.low) * (x.end - x.begin)
            marks.append(_box(begin, y, max(long - 1, 0.5), _BAR, part))
            text = shown(value, block.unit)
            if long > _LETTER * len(text) + 8:
                marks.append(
                    f'<text class="on" x="{begin + long / 2:.1f}" y="{y + 15}" text-anchor="middle" fill="#fff" '
                    f'font-size="11">{escape(text)}</text>'
                )
            begin += long
    return _svg(block.name, block.title, block.finding, round(below + 18), [*legend, *marks])


def _svg(name: str, title: str, finding: str, height: float, marks: Iterable[str]) -> str:
    said = escape(f"{title}: {finding}" if finding else title)
    return (
        f'<svg role="img" viewBox="0 0 {_WIDTH} {height:.0f}" aria-labelledby="{name}-title" '
        f'font-family="system-ui, sans-serif" font-size="11"><title id="{name}-title">{said}</title>'
        + "".join(marks)
        + "</svg>"
    )


def _axes(block: Chart, top: float, bottom: float) -> tuple[Axis, Axis]:
    ends = [float(line.x[-1]) for line in block.lines if line.x.size]
    starts = [float(line.x[0]) for line in block.lines if line.x.size]
    right = max([*ends, block.right])
    if block.axis is Kind.PERCENTILE:
        x = axes.percentiles(right, _LEFT, _WIDTH - _RIGHT)
    else:
        unit = "1/s" if block.axis is Kind.RATE else "s"
        x = axes.linear(min([0.0, *starts]), right, _LEFT, _WIDTH - _RIGHT, unit)
    if block.heat:
        low, high = block.heat.low, block.heat.high
        ticks = axes.logarithmic(low, high, bottom, top, block.unit).ticks
        return x, Axis(low, high, bottom, top, ticks, logarithmic=True)
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in block.lines])
    bound = block.bound.at if block.bound else 0.0
    high = max(float(values.max(initial=0.0)), block.top, bound)
    if block.logarithmic:
        positive = values[values >= 1]
        low = float(positive.min()) if positive.size else 1.0
        return x, axes.logarithmic(low, max(high, low), bottom, top, block.unit)
    return x, axes.linear(min(0.0, float(values.min(initial=0.0))), high, bottom, top, block.unit)


def _legend(entries: Sequence[tuple[str, int, Dash]]) -> tuple[list[str], float]:
    """Names with pieces of their lines, and where the drawing below them begins."""
    marks, x, y = [], float(_LEFT), _TOP + 6.0
    for name, colour, dash in entries:
        name = name if len(name) <= 90 else f"…{name[-89:]}"
        long = 30 + _LETTER * len(name) + 12
        if x > _LEFT and x + long > _WIDTH - _RIGHT:
            x, y = float(_LEFT), y + _LEGEND
        marks.append(_line(f"M{x:.0f} {y:.0f}h24", colour, dash))
        hue = colour % len(COLOURS)
        marks.append(
            f'<text class="t{hue}" x="{x + 30:.0f}" y="{y + 4:.0f}" fill="{COLOURS[hue]}">{escape(name)}</text>'
        )
        x += long
    return marks, y + 12 if entries else float(_TOP)


def _grid(x: Axis, y: Axis) -> Iterable[str]:
    """The lines at which the axes are named."""
    across = "".join(f"M{x.begin:.0f} {y.at(at):.1f}H{x.end:.0f}" for at, _ in y.ticks if _inside(at, y))
    up = "".join(f"M{x.at(at):.1f} {y.begin:.0f}V{y.end:.0f}" for at, _ in x.ticks)
    frame = f"M{x.begin:.0f} {y.end:.0f}V{y.begin:.0f}H{x.end:.0f}"
    yield f'<path class="grid" d="{across}{up}" fill="none" stroke="#e3e6ea"/>'
    yield f'<path class="frame" d="{frame}" fill="none" stroke="#8a929b"/>'
    for at, text in y.ticks:
        if _inside(at, y):
            yield _text(x.begin - 6, y.at(at) + 4, text, "end")
    for at, text in x.ticks:
        yield _below(x.at(at), y.begin + 16, text)


def _inside(at: float, axis: Axis) -> bool:
    return axis.low * (1 - 1e-9) <= at <= axis.high * (1 + 1e-9) or axis.low < 0


def _path(line: Line, x: Axis, y: Axis) -> str:
    """With gaps where there are no values; a value alone is a dot."""
    d, pen = [], False
    there = np.isfinite(line.y)
    across, up = x.place(line.x).tolist(), y.place(np.where(there, line.y, y.low)).tolist()
    known = [*there.tolist(), False]
    for number in range(line.y.size):
        if known[number]:
            d.append(f"{'L' if pen else 'M'}{across[number]:.1f} {up[number]:.1f}")
            if not pen and not known[number + 1]:
                d.append("h.1")
        pen = known[number]
    return _line("".join(d), line.colour, line.dash)


def _line(d: str, colour: int, dash: Dash) -> str:
    hue = colour % len(COLOURS)
    dashes = f' stroke-dasharray="{_DASHES[dash]}"' if _DASHES[dash] else ""
    return (
        f'<path class="c{hue}" d="{d}" fill="none" stroke="{COLOURS[hue]}" stroke-width="1.5" '
        f'stroke-linejoin="round" stroke-linecap="round"{dashes}/>'
    )


def _heat(heat: Heat, name: str, x: Axis, y: Axis) -> str:
    """One picture of opacities, through which the colour of the page is seen, so that it is right in any theme."""
    counts = heat.counts.T[::-1]
    strength = np.sqrt(counts / counts.max())
    pixels = np.where(counts > 0, 255 * (_FAINTEST + (1 - _FAINTEST) * strength), 0).astype(np.uint8)
    data = base64.b64encode(png.opacities(pixels)).decode()
    top, right = y.end, x.at(heat.right)
    box = f'x="{x.begin:.1f}" y="{top:.1f}" width="{right - x.begin:.1f}" height="{y.begin - top:.1f}"'
    return (
        f'<mask id="{name}-mask" mask-type="alpha"><image {box} preserveAspectRatio="none" image-rendering="pixelated" '
        f'href="data:image/png;base64,{data}"/></mask>'
        f'<rect class="f0" {box} fill="{COLOURS[0]}" mask="url(#{name}-mask)"/>'
    )


def _bound(at: float, name: str, x: Axis, y: Axis) -> list[str]:
    place = y.at(at)
    return [
        f'<path class="bound" d="M{x.begin:.0f} {place:.1f}H{x.end:.0f}" fill="none" stroke="#333" '
        'stroke-dasharray="8 3 2 3"/>',
        _text(x.end - 4, place - 4 if place - y.end > 14 else place + 13, name, "end"),
    ]


def _mark(at: float, name: str, x: Axis, y: Axis) -> list[str]:
    place = x.at(at)
    late = place > (x.begin + x.end) / 2
    return [
        f'<path class="bound" d="M{place:.1f} {y.begin:.0f}V{y.end:.0f}" fill="none" stroke="#333" '
        'stroke-dasharray="2 2"/>',
        _text(place + (-4 if late else 4), y.end + 11, name, "end" if late else "start"),
    ]


def _box(x: float, y: float, width: float, height: float, colour: int) -> str:
    hue = colour % len(COLOURS)
    return (
        f'<rect class="f{hue}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{COLOURS[hue]}"/>'
    )


def _below(x: float, y: float, text: str) -> str:
    """The name of a place on the x axis; at the right edge it ends there."""
    at_edge = x + _LETTER * len(text) / 2 > _WIDTH
    return _text(_WIDTH - 1 if at_edge else x, y, text, "end" if at_edge else "middle")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#444">{escape(text)}</text>'


def _places(line: Line) -> list[float | int | None]:
    """Where its values are on the x axis: where they are at equal distances, only the first place and the distance."""
    steps = np.diff(line.x)
    if steps.size and np.ptp(steps) < 1e-6 * abs(float(steps.mean())):
        return [float(f"{line.x[0]:.6g}"), float(f"{steps.mean():.6g}")]
    return rounded(line.x)
