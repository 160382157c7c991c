"""What a report for reading is made of: sections of texts, tables and charts.  Data only: each form shows it."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.bench.report import figures
from drumfire.bench.report.rows import Style

Values = npt.NDArray[np.float64]


class Dash(enum.IntEnum):
    """How a line is drawn, so that it is known without its colour."""

    SOLID = 0
    DASHED = 1
    DOTTED = 2
    LONG = 3
    DOT_DASHED = 4
    SHORT = 5


class Axis(enum.StrEnum):
    """The quantity of a chart's x axis."""

    TIME = "time"
    """Seconds."""
    PERCENTILE = "percentile"
    """-log10(1 - p)."""
    RATE = "rate"
    """1/s."""

    def place(self, x: float) -> str:
        """A place on the axis as text."""
        if self is Axis.PERCENTILE:
            return percentile(x)
        return shown(x, "1/s") if self is Axis.RATE else f"{figures.digits(x)} s"


@dataclass(frozen=True)
class Line:
    """``x`` and ``y`` of shape (n,); a NaN in ``y`` is a gap."""

    name: str
    x: Values
    y: Values
    colour: int = 0
    """An index into a form's colours."""
    dash: Dash = Dash.SOLID
    exact: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Percentiles that the run's result has, ns, by name."""

    def at(self, share: float) -> str:
        """The percentile of ``share``: as the result has it, else about; ``-`` where the line has ended."""
        place = -math.log10(1 - share)
        if not self.x.size or place > float(self.x[-1]) + 1e-9:
            return "-"
        if (known := self.exact.get(percentile(place))) is not None:
            return figures.duration(known)
        return f"about {figures.duration(float(np.interp(place, self.x, self.y)))}"


@dataclass(frozen=True)
class Mark:
    """A place on the x axis, or, of a bound, on the y axis, with its name."""

    at: float
    name: str


@dataclass(frozen=True)
class Heat:
    """Counts by x and by y: ``counts`` of shape (columns, rows) over equal parts of both axes; y is logarithmic."""

    counts: npt.NDArray[np.int64]
    right: float
    """Where the last column ends, s; the first begins at 0."""
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """Lines, or a heat map, on two axes."""

    name: str
    """Unique within a report: letters, digits and dashes."""
    title: str
    finding: str
    """What the drawing shows, as a sentence, for readers who do not see it."""
    defined: str
    """What is drawn, in one line."""
    unit: str
    """The unit of y: see ``shown``."""
    axis: Axis = Axis.TIME
    lines: Sequence[Line] = ()
    heat: Heat | None = None
    logarithmic: bool = False
    right: float = 0.0
    """The end of the x axis; 0: that of the lines."""
    top: float = 0.0
    """The end of the y axis at least."""
    bound: Mark | None = None
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Bars:
    """Amounts by category; several ``groups`` of them are beside each other."""

    name: str
    title: str
    finding: str
    defined: str
    unit: str
    categories: Sequence[str]
    groups: Mapping[str, Sequence[float]]
    """By name, an amount a category."""
    stacked: bool = False
    """Whether the amounts of a group add up, and are drawn as one bar."""


@dataclass(frozen=True)
class Table:
    """Texts in rows; the first cell of a row is its head.  A cell may have several lines."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False
    defined: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """One line on what a row is, by the row's head."""


@dataclass(frozen=True)
class Text:
    """A line of text."""

    text: str
    style: Style = Style.FIGURES


Block = Chart | Bars | Table | Text


@dataclass(frozen=True)
class Section:
    name: str
    """Unique within a report: letters, digits and dashes."""
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    title: str
    sections: Sequence[Section]


def shown(value: float, unit: str) -> str:
    """A figure for people.

    ``unit``: ``ns``, ``1/s``, ``share``, ``bytes``, none for a number, or any other, which is written behind it.
    """
    if not math.isfinite(value):
        return "-"
    if unit == "ns":
        return figures.duration(value)
    if unit == "1/s":
        return figures.rate(value) if value else "0/s"
    if unit == "share":
        return figures.share(value)
    if unit == "bytes":
        return f"{figures.digits(value / 1e9)} GB" if abs(value) >= 1e9 else f"{figures.digits(value / 1e6)} MB"
    number = f"{value:,.0f}" if float(value).is_integer() else figures.digits(value)
    return f"{number} {unit}".rstrip()


def percentile(x: float) -> str:
    """The name of a place on the axis of percentiles, such as ``p99``."""
    return f"p{100 * (1 - 10.0**-x):.{math.ceil(x) + 1}g}"


def document(report: Report) -> dict[str, Any]:
    """The report as JSON-ready data."""
    return {
        "title": report.title,
        "sections": [
            {"name": one.name, "title": one.title, "blocks": [_plain_block(block) for block in one.blocks]}
            for one in report.sections
        ],
    }


def _plain_block(block: Block) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": type(block).__name__.lower()}
    for field in dataclasses.fields(block):
        found[field.name] = _plain(getattr(block, field.name))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return rounded(value) if value.dtype.kind == "f" else value.tolist()
    if isinstance(value, Style):
        return value.name.lower()
    if isinstance(value, enum.IntEnum):
        return value.name.lower()
    if isinstance(value, (str, int, float)) or value is None:
        return str(value) if isinstance(value, enum.StrEnum) else value
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(one) for one in value]


def rounded(values: Values) -> list[float | int | None]:
    """To four digits, as no picture has more; None for NaN."""
    found: list[float | int | None] = []
    for value in values.tolist():
        if not math.isfinite(value):
            found.append(None)
            continue
        near = float(f"{value:.4g}")
        found.append(int(near) if near.is_integer() else near)
    return found
