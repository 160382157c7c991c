"""A sweep's document as rows: what was found, a table of its points, and the curve of latency over throughput."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from drumfire.bench import statuses
from drumfire.bench.report import expectations, figures
from drumfire.bench.report.rows import Row, Section, Style

Document = Mapping[str, Any]
Point = Mapping[str, Any]

_MARKS = {"on": "*", "near": "o", "": ""}
_LEGEND = "p99 (*: Pareto, o: may be, ': not) and p50 (.)"
_AXIS_WIDTH, _WIDTHS = 8, (11, 9, 9, 8, 9, 0)
_ACROSS, _DOWN = 60, 12
"""Of the drawn curve, in characters."""
_LOGARITHMIC = 10
"""How far apart the rates are, as a ratio, from which on their axis is logarithmic."""


def report(document: Document) -> Iterator[Section]:
    """As it is printed at the end."""
    yield list(verdict(document))
    if lines := [Row(label, [text]) for label, text in expectations.rows(document)]:
        yield lines
    yield list(table(document))
    if drawn := list(_curve(document)):
        yield drawn
    yield list(_named(document))
    pages = [Row("page", [document["page"]], Style.FOLDER)] if document.get("page") else []
    yield [*pages, Row("saved in", [document["directory"]], Style.FOLDER)]


def status(document: Document) -> int:
    """Whether there is a point as was asked."""
    if not document["finished"]:
        return statuses.UNDECIDED
    named = document["named"]
    if document["bounds"]:
        return statuses.UNMET if named["best"] is None else statuses.DONE
    return statuses.INVALID if named["highest_valid"] is None else statuses.DONE


def chosen(document: Document) -> Point | None:
    """The best point by the bounds, else by the verdict."""
    at = document["named"]["best" if document["bounds"] else "highest_valid"]
    return None if at is None else document["points"][at]


def table(document: Document) -> Section:
    """A row for each point."""
    first, *others = document["axes"]
    head = [*others, "delivered", "p50", "p99", "errors", "verdict", "Pareto"]
    lines = [_cells(one) for one in document["points"]]
    least = [*[max(_AXIS_WIDTH, len(name) + 2) for name in others], *_WIDTHS]
    # Of those that were skipped, a text stands across the columns.
    widths = [
        max([width, *(len(line[at]) + 1 for line in lines if at < len(others) or len(line) == len(head))])
        for at, width in enumerate(least)
    ]
    longest = max(map(len, (first, *(one["at"][first] for one in document["points"])))) + 2
    found = [Row(first.ljust(longest), head, widths=widths)]
    for one, cells in zip(document["points"], lines, strict=True):
        style = Style.METRIC if one is chosen(document) else Style.FIGURES
        wide = widths if len(cells) == len(head) else [*widths[: len(others)], 0, 0]
        found.append(Row(one["at"][first].ljust(longest), cells, style, wide))
    return found


def _cells(point: Point) -> list[str]:
    """What follows the label."""
    _, *cells = point["at"].values()
    if point["validity"] is None:
        return [*cells, f"skipped: {point['skipped']}" if point["skipped"] else "-", ""]
    rate = "-" if point["rate"] is None else figures.rate(point["rate"])
    times = ["-" if point[name] is None else figures.duration(point[name]) for name in ("p50", "p99")]
    return [*cells, rate, *times, figures.share(point["errors"]), point["validity"], _MARKS[point["front"]]]


def where(point: Point) -> str:
    """Its place in words."""
    return ", ".join(f"{name} {value}" for name, value in point["at"].items())


def told(point: Point) -> str:
    """Its place, and what it delivers."""
    latency = "" if point["p99"] is None else f" with p99 {figures.duration(point['p99'])}"
    return f"{where(point)}: {figures.rate(point['rate'])}{latency}"


def verdict(document: Document) -> Iterator[Row]:
    """The best point, or why there is none."""
    wanted = " and ".join(document["bounds"])
    if not document["finished"]:
        yield Row("Sweep is", ["unfinished"], Style.UNFINISHED)
        yield Row("", [f"{document['stopped']}: {document['again']} resumes it"], Style.REASON)
    elif (best := chosen(document)) is None:
        yield Row("Best point", [f"none holds {wanted}" if wanted else "none is VALID"], Style.INVALID)
        for text in dict.fromkeys(text for one in document["points"] for text in one["reasons"]):
            yield Row("", [text], Style.REASON)
    else:
        yield Row("Best point", [told(best)], Style.VALID)
        if wanted and best["validity"] != "VALID":
            yield Row("", [f"it holds {wanted}, and yet its run is INVALID: see its report"], Style.WARNING)


def named(document: Document) -> Iterator[tuple[str, str]]:
    """The points that have a name, each with what it is."""
    points, found = document["points"], document["named"]
    if document["bounds"]:
        best = "none" if found["best"] is None else told(points[found["best"]])
        yield "within bound", f"{best} ({' and '.join(document['bounds'])})"
    yield "VALID up to", "none" if found["highest_valid"] is None else told(points[found["highest_valid"]])
    if "qps" in document["axes"]:
        at = [
            f"{where(points[place])} delivers {figures.rate(points[place]['rate'] or 0)}"
            for place in found["saturated"]
        ]
        if at:
            yield "saturation", "; ".join(at)
        elif last := _last(points):
            yield "saturation", f"not up to {last}/s: all of it was delivered"
    if found["power"] is not None:
        yield "power point", f"{told(points[found['power']])} (the most throughput for its mean latency)"


def _last(points: Sequence[Point]) -> str:
    return max((str(one["at"]["qps"]) for one in points if one["validity"]), key=float, default="")


def _named(document: Document) -> Iterator[Row]:
    for name, text in named(document):
        yield Row(name, [text])


def _curve(document: Document) -> Iterator[Row]:
    """p50 and p99 over the delivered rate, on a logarithmic axis of latency."""
    points = [one for one in document["points"] if one["usable"] and one["rate"] and one["p50"] and one["p99"]]
    if len(points) < 2:
        return
    rates = [one["rate"] for one in points]
    is_log = max(rates) >= _LOGARITHMIC * min(rates)
    across = [math.log(rate) if is_log else rate for rate in rates]
    low, high = min(one["p50"] for one in points), max(one["p99"] for one in points)
    grid = [[" "] * _ACROSS for _ in range(_DOWN)]

    def put(x: float, y: float, mark: str) -> None:
        column = _place(x, min(across), max(across), _ACROSS)
        row = _DOWN - 1 - _place(math.log(y), math.log(low), math.log(high), _DOWN)
        if mark in "*o" or grid[row][column] == " ":
            grid[row][column] = mark

    for x, one in zip(across, points, strict=True):
        put(x, one["p99"], _MARKS[one["front"]] or "'")
    for x, one in zip(across, points, strict=True):
        put(x, one["p50"], ".")
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
