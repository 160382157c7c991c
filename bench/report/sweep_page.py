"""The page of a sweep: what was found, its curve and its points, and then the best runs beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from drumfire.bench.report import content, page, sweeps
from drumfire.bench.report.blocks import Axis, Block, Chart, Dash, Line, Mark, Report, Section, Table, Text
from drumfire.bench.report.plots import COLOURS
from drumfire.bench.report.sweeps import Document, Point
from drumfire.loadgen.saved import SavedRun


def write(document: Document, runs: Mapping[str, SavedRun], path: Path) -> None:
    """Write the page.  Raises ``UserError`` for runs that cannot be read, and ``OSError``."""
    sections = [Section("sweep", "Sweep", list(_blocks(document)))]
    if shown := _shown(document):
        sections += content.report([runs[name] for name in shown]).sections
    first = ", ".join(document["axes"])
    page.write(Report(f"A sweep over {first}", sections), path)


def _blocks(document: Document) -> Iterator[Block]:
    for row in sweeps.verdict(document):
        yield Text(" ".join(filter(None, (row.label, *row.cells))), row.style)
    yield Table("", [], [list(row) for row in sweeps.named(document)])
    yield from _curve(document)
    head, *rows = sweeps.table(document)
    width = 1 + len(head.cells)
    yield Table(
        "Points", [head.label.strip(), *head.cells],
        [[row.label.strip(), *row.cells, *[""] * (width - 1 - len(row.cells))] for row in rows],
    )  # fmt: skip


def _curve(document: Document) -> Iterator[Chart]:
    """Latency over what was delivered, a pair of lines for each value of the other axis."""
    load, series = document["load"], dict[str, list[Point]]()
    for one in document["points"]:
        if one["usable"] and one["rate"] and one["p50"] and one["p99"]:
            name = ", ".join(f"{label} {value}" for label, value in one["at"].items() if label != load)
            series.setdefault(name, []).append(one)
    figures = ("p99", "p50") if len(series) * 2 <= COLOURS else ("p99",)
    lines: list[Line] = []
    for name, points in list(series.items())[:COLOURS]:
        ascending = sorted(points, key=lambda one: one["rate"])
        x = np.array([one["rate"] for one in ascending])
        for figure in figures:
            y, number = np.array([one[figure] for one in ascending], np.float64), len(lines)
            lines.append(Line(f"{name} {figure}".strip(), x, y, number, Dash(number % len(Dash))))
    if not lines:
        return
    names: dict[float, list[str]] = {}
    for name, at in (("best", _chosen(document)), ("power", document["named"]["power"])):
        if at is not None:
            names.setdefault(document["points"][at]["rate"], []).append(name)
    marks = [Mark(rate, ", ".join(of_place)) for rate, of_place in names.items()]
    found = "; ".join(f"{name}: {text}" for name, text in sweeps.named(document))
    what = f"Latency at what each point delivered, along {load}; those of several runs are medians."
    yield Chart("curve", "Latency over throughput", found, what, "ns", Axis.RATE, lines, logarithmic=True, marks=marks)


def _chosen(document: Document) -> int | None:
    best = sweeps.chosen(document)
    return None if best is None else document["points"].index(best)


def _shown(document: Document) -> Sequence[str]:
    """The runs that are laid over each other: of the best points, from the lowest rate to the highest."""
    front = sorted((one for one in document["points"] if one["front"] == "on"), key=lambda one: one["rate"])
    places = np.unique(np.linspace(0, len(front) - 1, min(len(front), COLOURS)).round().astype(int)).tolist()
    return [front[place]["runs"][0] for place in places]
