"""A report as text of 80 columns, or as Markdown: the same sections, with charts of block characters."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from html import escape
from itertools import groupby

import numpy as np
from rich.cells import cell_len

from drumfire.bench.report.blocks import (
    Axis,
    Bars,
    Block,
    Chart,
    Heat,
    Report,
    Section,
    Table,
    Text,
    Values,
    shown,
)
from drumfire.bench.report.figures import duration, seconds
from drumfire.bench.report.listed import listed
from drumfire.bench.report.rows import Style
from drumfire.bench.report.terminal import VERDICTS, wrapped
from drumfire.loadgen.errors import printable

_WIDTH = 80
_ACROSS = 56
"""Columns of a line of blocks."""
_NAME = 22
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ACROSS_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SHADES = " ·░▒▓█"
_HEAT_ROWS = 12
_LABEL = 24
"""The widest first column of a table."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~!])")


def text(report: Report) -> str:
    """The report as plain text, in lines of at most 80 columns where no word is longer."""
    parts = [_underlined(report.title, "=")]
    for section in report.sections:
        parts.append(_underlined(section.title, "-"))
        parts += _joined(section, _lines)
    defined = (line for name, meaning in _definitions(report) for line in _hung(f"{name}: ", meaning))
    parts += [_underlined("What the figures are", "-"), "\n".join(defined)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown(report: Report) -> str:
    """The report as Markdown, with the headings, lists, tables and folds that GitHub and GitLab show."""
    parts = [f"# {_safe(report.title)}"]
    for section in report.sections:
        parts.append(f"## {_safe(section.title)}")
        parts += _joined(section, _marked)
    parts += [
        "## What the figures are",
        "\n".join(f"* **{_safe(name)}**: {_safe(meaning)}" for name, meaning in _definitions(report)),
    ]
    return re.sub("\n{3,}", "\n\n", "\n\n".join(part for part in parts if part)) + "\n"


def _joined(section: Section, form: Callable[[Block, str], Iterator[str]]) -> Iterator[str]:
    """The section's blocks; sentences that follow each other stay together."""
    for _, blocks in groupby(section.blocks, lambda block: isinstance(block, Text) or id(block)):
        yield "\n".join(line for block in blocks for line in form(block, section.title))


def _underlined(title: str, line: str) -> str:
    title = printable(title)
    return f"{title}\n{line * min(cell_len(title), _WIDTH)}"


def _lines(block: Block, title: str) -> Iterator[str]:
    if isinstance(block, Text):
        if block.style is Style.FOLDER:
            yield printable(block.text)
        else:
            head = "  - " if block.style in (Style.REASON, Style.WARNING) else ""
            yield from _hung(head, block.text)
    elif isinstance(block, Table):
        if block.title:
            yield printable(block.title)
        yield from _table(block)
    else:
        if block.title != title:
            yield printable(block.title)
        yield from wrapped(printable(block.defined), _WIDTH)
        yield from _drawn(block)
        yield from wrapped(printable(block.finding), _WIDTH)


def _marked(block: Block, title: str) -> Iterator[str]:
    if isinstance(block, Text):
        if block.style is Style.FOLDER:
            yield f"\n    {printable(block.text)}\n"
        elif block.style in VERDICTS:
            yield f"\n**{_safe(block.text)}**\n"
        else:
            yield f"* {_safe(block.text)}"
    elif isinstance(block, Table):
        if block.folded:
            yield f"<details><summary>{escape(printable(block.title))}</summary>\n"
        elif block.title:
            yield f"### {_safe(block.title)}\n"
        yield from _marked_table(block)
        if block.folded:
            yield "\n</details>"
    else:
        if block.title != title:
            yield f"### {_safe(block.title)}\n"
        yield f"{_safe(block.defined)}\n"
        yield from (f"    {line}" for line in _drawn(block))  # indented, as no text within can end it
        yield f"\n{_safe(block.finding)}"


def _marked_table(table: Table) -> Iterator[str]:
    columns = max(len(row) for row in table.rows) if table.rows else len(table.head)
    head = [*table.head, *[""] * (columns - len(table.head))]
    for number, row in enumerate([head, *table.rows]):
        yield "| " + " | ".join("<br>".join(map(_safe, cell.split("\n"))) for cell in row) + " |"
        if number == 0:
            yield "|" + "---|" * columns


def _safe(line: str) -> str:
    """The line with what Markdown would take as its own signs escaped."""
    return _SPECIAL.sub(r"\\\1", printable(line))


def _definitions(report: Report) -> Iterator[tuple[str, str]]:
    found: dict[str, str] = {}
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Table):
                found |= block.defined
    yield from found.items()


def _table(table: Table) -> Iterator[str]:
    """In columns where they fit; else each cell of a row on lines of its own."""
    cells = [[[printable(line) for line in cell.split("\n")] for cell in row] for row in table.rows]
    head = [[printable(name)] for name in table.head]
    widths = [max(cell_len(line) for cell in column for line in cell)
              for column in zip(*([head] if head else []), *cells, strict=True)]  # fmt: skip
    if sum(widths) + 2 * (len(widths) - 1) <= _WIDTH:
        for row in [head, *cells] if head else cells:
            for number in range(max(map(len, row))):
                parts = [cell[number] if number < len(cell) else "" for cell in row]
                yield "  ".join(_padded(part, width) for part, width in zip(parts, widths, strict=True)).rstrip()
        return
    first = min(widths[0], _LABEL) + 2
    for row in cells:
        name = row[0][0]
        if len(row) > 2 or cell_len(name) > first - 2:
            yield name
            name = ""
        for number, cell in enumerate(row[1:], 1):
            label = f"  {printable(table.head[number])}: " if len(row) > 2 else _padded(name, first)
            for line in cell:
                yield from _hung(label, line)
                label = " " * cell_len(label)


def _padded(line: str, width: int) -> str:
    return line + " " * (width - cell_len(line))


def _hung(head: str, line: str) -> Iterator[str]:
    """The line with a hanging indent."""
    head = printable(head)
    for number, part in enumerate(wrapped(printable(line), max(_WIDTH - cell_len(head), 30)) or [""]):
        yield (head if number == 0 else " " * cell_len(head)) + part


def _drawn(block: Chart | Bars) -> Iterator[str]:
    if isinstance(block, Bars):
        yield from _bars(block)
    elif block.heat:
        yield from _heat(block.heat)
    else:
        yield from _blocks(block)
        if block.axis is Axis.PERCENTILE:
            yield from _table(listed(block))


def _blocks(block: Chart) -> Iterator[str]:
    """Each line as blocks of eighths, all on one scale."""
    known = [line.y[np.isfinite(line.y)] for line in block.lines]
    high = max(float(values.max(initial=0.0)) for values in known)
    low = min(float(values.min(initial=high)) for values in known) if block.logarithmic else 0.0
    right = max(block.right, *(float(line.x[-1]) for line in block.lines if line.x.size))
    for line, values in zip(block.lines, known, strict=True):
        yield from _hung("", f"{line.name}: {shown(float(values.min()), block.unit)} to "
                             f"{shown(float(values.max()), block.unit)}")  # fmt: skip
        yield f"  {_eighths(_binned(line.x, line.y, right), low, high, logarithmic=block.logarithmic)}".rstrip()
    ends = (seconds(right) if block.axis is Axis.TIME else block.axis.place(right)).rjust(_ACROSS - 2)
    yield f"  0 {ends}"


def _binned(x: Values, y: Values, right: float) -> Values:
    """The highest value of each column; where there is none, as of few points, that of the next one."""
    found = np.full(_ACROSS, np.nan)
    there = np.isfinite(y)
    place = np.clip((x[there] / (right or 1.0) * _ACROSS).astype(np.int64), 0, _ACROSS - 1)
    np.fmax.at(found, place, y[there])
    if x.size < 2 * _ACROSS:
        for number in range(1, int(place.max(initial=0)) + 1):
            if not np.isfinite(found[number]):
                found[number] = found[number - 1]
        found[: place.min(initial=_ACROSS)] = found[place.min(initial=_ACROSS - 1)]
    return found


def _eighths(values: Values, low: float, high: float, *, logarithmic: bool) -> str:
    if logarithmic:
        low, high = math.log(max(low, 1.0)), math.log(max(high, 1.0))
        values = np.log(np.maximum(values, 1.0))
    span = (high - low) or 1.0
    heights = np.where(np.isfinite(values), 1 + np.clip((values - low) / span, 0, 1) * 7, 0)
    return "".join(_EIGHTHS[round(height)] for height in heights.tolist())


def _heat(heat: Heat) -> Iterator[str]:
    """The longest latency on top."""
    columns = min(_ACROSS, heat.counts.shape[0])
    merged = -(-heat.counts.shape[1] // _HEAT_ROWS)
    by_time = np.add.reduceat(heat.counts, np.arange(columns) * heat.counts.shape[0] // columns, axis=0)
    counts = np.add.reduceat(by_time, np.arange(0, heat.counts.shape[1], merged), axis=1)
    strength = np.sqrt(counts / counts.max())
    shades = np.where(counts > 0, np.maximum(np.ceil(strength * (len(_SHADES) - 1)), 1), 0).astype(int)
    step = (heat.high / heat.low) ** (merged / heat.counts.shape[1])
    for row in reversed(range(counts.shape[1])):
        yield f"{duration(heat.low * step**row):>8} {''.join(_SHADES[one] for one in shades[:, row])}".rstrip()
    yield f"{'':>8} 0{seconds(heat.right).rjust(columns - 1)}"


def _bars(block: Bars) -> Iterator[str]:
    most = max((value for values in block.groups.values() for value in values), default=0.0) or 1.0
    width = min(max(map(cell_len, block.categories)), _NAME)
    for group, values in block.groups.items():
        if len(block.groups) > 1:
            yield printable(group)
        for category, value in zip(block.categories, values, strict=True):
            eighths = round(value / most * (_WIDTH - width - 24) * 8)
            bar = "█" * (eighths // 8) + _ACROSS_EIGHTHS[eighths % 8].strip()
            yield f"  {_padded(printable(category), width)} {shown(value, block.unit):>10} {bar}".rstrip()
