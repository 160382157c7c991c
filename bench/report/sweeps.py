"""A sweep's document as rows: what was found, a table of its points, and the curve of latency over throughput."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, TypeVar

from drumfire.bench import statuses
from drumfire.bench.report import expectations, figures
from drumfire.bench.report.rows import Row, Section, Style

T = TypeVar("T")
_MARKS = {"on": "*", "near": "o", "": ""}
_LEGEND = "p99 (*: Pareto, o: may be, ': not) and p50 (.)"
_AXIS_WIDTH, _WIDTHS = 8, (11, 9, 9, 8, 9, 0)
_ACROSS, _DOWN = 60, 12
"""The size of the drawn curve in characters."""
_LOGARITHMIC = 10
"""The ratio of the highest rate to the lowest from which on their axis is logarithmic."""


@dataclass(frozen=True)
class Point:
    """What was measured at a point of a sweep: the medians of its runs; times in ns, rates in 1/s."""

    at: Mapping[str, str]
    """The value of each axis by its label, as it is written."""
    runs: Sequence[str] = ()
    """The runs that are done, by their place in the sweep's folder."""
    skipped: str = ""
    """Why it need not be measured."""
    asked: float | None = None
    """The rate of --qps; None without one."""
    rate: float | None = None
    mean: float | None = None
    p50: float | None = None
    p99: float | None = None
    errors: float | None = None
    """The share of samples that failed, from 0 to 1."""
    p99_interval: tuple[float | None, float | None] = (None, None)
    """The widest ends of the runs' intervals at about 95 %; None: open."""
    validity: str | None = None
    """VALID, or INVALID where a run is; None without a run."""
    reasons: Sequence[str] = ()
    """Why runs are INVALID."""
    usable: bool = False
    """Whether its figures mean anything: no run ended early or had too many failed samples."""
    saturated: bool = False
    """Whether less than 98 % of what was sent is delivered."""
    holds: bool | None = None
    """Whether the bounds hold; None without bounds or runs."""
    front: str = ""
    """``on`` on the Pareto front, ``near`` where the interval of the p99 leaves it open, empty elsewhere."""


@dataclass(frozen=True)
class Named:
    """Which points are best by a rule: their places in the list of points, None where no point is."""

    highest_valid: int | None
    """The most throughput of those that are VALID."""
    saturated: Sequence[int]
    """Those of the lowest load that is not delivered, for each value of the other axis."""
    power: int | None
    """The most throughput for its mean latency."""
    best: int | None
    """The most throughput of those at which the bounds hold."""


class OnCurve(NamedTuple):
    """A point with all figures of the curve; times in ns, the rate in 1/s."""

    rate: float
    p50: float
    p99: float
    point: Point


@dataclass(frozen=True)
class Outcome:
    """What a sweep found, which is saved as JSON."""

    axes: Sequence[str]
    """The labels of the options that it goes over."""
    load: str
    """The one of them along which a curve goes."""
    repeats: int
    seed: int
    bounds: Sequence[str]
    finished: bool
    stopped: str
    """Why it is not finished."""
    again: str
    """The command that resumes it."""
    points: Sequence[Point]
    named: Named
    directory: str
    expectations: Sequence[Mapping[str, Any]] = ()
    page: str = ""
    """The page's path; empty without one."""

    def document(self) -> dict[str, Any]:
        """The outcome as JSON has it."""
        found = asdict(self)
        return found if self.page else {name: value for name, value in found.items() if name != "page"}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Outcome:
        """The outcome from JSON.  Raises ``LookupError`` or ``TypeError`` for what no sweep wrote."""
        points = [_of(Point, one) for one in document["points"]]
        return _of(cls, {**document, "points": points, "named": _of(Named, document["named"])})

    @property
    def chosen(self) -> Point | None:
        """The best point by the bounds; without bounds, the highest VALID one."""
        at = self.named.best if self.bounds else self.named.highest_valid
        return None if at is None else self.points[at]

    @property
    def curve(self) -> list[OnCurve]:
        """The points whose latency is drawn over the delivered rate."""
        return [
            OnCurve(one.rate, one.p50, one.p99, one)
            for one in self.points
            if one.usable and one.rate and one.p50 and one.p99
        ]


def _of(kind: type[T], document: Mapping[str, Any]) -> T:
    """The dataclass from an object in JSON, which another version may have written with further keys."""
    names = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in document.items() if name in names})


def report(outcome: Outcome) -> Iterator[Section]:
    """The report as it is printed at the end."""
    yield list(verdict(outcome))
    if lines := [Row(label, [text]) for label, text in expectations.rows({"expectations": outcome.expectations})]:
        yield lines
    yield list(table(outcome))
    if drawn := list(_curve(outcome)):
        yield drawn
    yield [Row(name, [text]) for name, text in named(outcome)]
    pages = [Row("page", [outcome.page], Style.FOLDER)] if outcome.page else []
    yield [*pages, Row("saved in", [outcome.directory], Style.FOLDER)]


def status(outcome: Outcome) -> int:
    """The exit status: whether there is a point at which the bounds hold, or a VALID one."""
    if not outcome.finished:
        return statuses.UNDECIDED
    if outcome.bounds:
        return statuses.UNMET if outcome.named.best is None else statuses.DONE
    return statuses.INVALID if outcome.named.highest_valid is None else statuses.DONE


def table(outcome: Outcome) -> Section:
    """A row for each point."""
    first, *others = outcome.axes
    head = [*others, "delivered", "p50", "p99", "errors", "verdict", "Pareto"]
    lines = [_cells(one) for one in outcome.points]
    least = [*[max(_AXIS_WIDTH, len(name) + 2) for name in others], *_WIDTHS]
    # Of those that were skipped, a text stands across the columns.
    widths = [
        max([width, *(len(line[at]) + 1 for line in lines if at < len(others) or len(line) == len(head))])
        for at, width in enumerate(least)
    ]
    longest = max(map(len, (first, *(one.at[first] for one in outcome.points)))) + 2
    found = [Row(first.ljust(longest), head, widths=widths)]
    for one, cells in zip(outcome.points, lines, strict=True):
        style = Style.METRIC if one is outcome.chosen else Style.FIGURES
        wide = widths if len(cells) == len(head) else [*widths[: len(others)], 0, 0]
        found.append(Row(one.at[first].ljust(longest), cells, style, wide))
    return found


def _cells(point: Point) -> list[str]:
    """The cells of a point's row."""
    _, *cells = point.at.values()
    if point.validity is None:
        return [*cells, f"skipped: {point.skipped}" if point.skipped else "-", ""]
    rate = "-" if point.rate is None else figures.rate(point.rate)
    times = ["-" if each is None else figures.duration(each) for each in (point.p50, point.p99)]
    return [*cells, rate, *times, figures.share(point.errors or 0.0), point.validity, _MARKS[point.front]]


def where(point: Point) -> str:
    """A point's place in words."""
    return ", ".join(f"{name} {value}" for name, value in point.at.items())


def described(point: Point) -> str:
    """A point's place, and what it delivers."""
    latency = "" if point.p99 is None else f" with p99 {figures.duration(point.p99)}"
    return f"{where(point)}: {figures.rate(point.rate or 0)}{latency}"


def verdict(outcome: Outcome) -> Iterator[Row]:
    """The best point, or why there is none."""
    wanted = " and ".join(outcome.bounds)
    if not outcome.finished:
        yield Row("Sweep is", ["unfinished"], Style.UNFINISHED)
        yield Row("", [f"{outcome.stopped}: {outcome.again} resumes it"], Style.REASON)
    elif (best := outcome.chosen) is None:
        yield Row("Best point", [f"none holds {wanted}" if wanted else "none is VALID"], Style.INVALID)
        for text in dict.fromkeys(text for one in outcome.points for text in one.reasons):
            yield Row("", [text], Style.REASON)
    else:
        yield Row("Best point", [described(best)], Style.VALID)
        if wanted and best.validity != "VALID":
            yield Row("", [f"it holds {wanted}, and yet its run is INVALID: see its report"], Style.WARNING)


def named(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """The points that have a name, each with what it is."""
    points, found = outcome.points, outcome.named
    if outcome.bounds:
        best = "none" if found.best is None else described(points[found.best])
        yield "within bound", f"{best} ({' and '.join(outcome.bounds)})"
    yield "VALID up to", "none" if found.highest_valid is None else described(points[found.highest_valid])
    if "qps" in outcome.axes:
        at = [f"{where(points[place])} delivers {figures.rate(points[place].rate or 0)}" for place in found.saturated]
        if at:
            yield "saturation", "; ".join(at)
        elif last := _last(points):
            yield "saturation", f"not up to {last}/s: all of it was delivered"
    if found.power is not None:
        yield "power point", f"{described(points[found.power])} (the most throughput for its mean latency)"


def _last(points: Sequence[Point]) -> str:
    return max((str(one.at["qps"]) for one in points if one.validity), key=float, default="")


def _curve(outcome: Outcome) -> Iterator[Row]:
    """p50 and p99 over the delivered rate, on a logarithmic axis of latency."""
    points = outcome.curve
    if len(points) < 2:
        return
    rates = [one.rate for one in points]
    is_log = max(rates) >= _LOGARITHMIC * min(rates)
    across = [math.log(rate) if is_log else rate for rate in rates]
    low, high = min(one.p50 for one in points), max(one.p99 for one in points)
    grid = [[" "] * _ACROSS for _ in range(_DOWN)]

    def put(x: float, y: float, mark: str) -> None:
        column = _place(x, min(across), max(across), _ACROSS)
        row = _DOWN - 1 - _place(math.log(y), math.log(low), math.log(high), _DOWN)
        if mark in "*o" or grid[row][column] == " ":
            grid[row][column] = mark

    for x, one in zip(across, points, strict=True):
        put(x, one.p99, _MARKS[one.point.front] or "'")
    for x, one in zip(across, points, strict=True):
        put(x, one.p50, ".")
    for number, line in enumerate(grid):
        share = (_DOWN - 1 - number) / (_DOWN - 1)
        label = figures.duration(low * (high / low) ** share) if number % 4 == 0 or number == _DOWN - 1 else ""
        yield Row(label, ["|" + "".join(line).rstrip()])
    ends = figures.rate(min(rates)), figures.rate(max(rates))
    gap = _ACROSS - len(ends[0]) - len(ends[1])
    yield Row("", [f"+{'-' * _ACROSS}"])
    yield Row("delivered", [f"{ends[0]}{' ' * gap} {ends[1]}"])
    yield Row("", [_LEGEND])


def _place(value: float, low: float, high: float, places: int) -> int:
    return round((value - low) / ((high - low) or 1.0) * (places - 1))
