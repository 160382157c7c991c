"""The page of a sweep: what was found, its curve and its points, and then the best runs beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from drumfire.bench.report import content, page, sweeps
from drumfire.bench.report.blocks import Axis, Block, Chart, Dash, Line, Mark, Report, Section, Table, Text
from drumfire.bench.report.plots import COLOURS
from drumfire.bench.report.sweeps import OnCurve, Outcome
from drumfire.loadgen.saved import SavedRun


def write(outcome: Outcome, runs: Mapping[str, SavedRun], path: Path) -> None:
    """Write the page.  Raises ``UserError`` for runs that cannot be read, and ``OSError``."""
    blocks: list[Block] = list(_blocks(outcome))
    of_runs: Sequence[Section] = ()
    if shown := _shown(outcome):
        blocks.append(Text(f"What follows is the report of runs on the Pareto front: {', '.join(shown)}."))
        of_runs = content.report([runs[name] for name in shown]).sections
    first = ", ".join(outcome.axes)
    page.write(Report(f"A sweep over {first}", [Section("sweep", "Sweep", blocks), *of_runs]), path)


def _blocks(outcome: Outcome) -> Iterator[Block]:
    for row in sweeps.verdict(outcome):
        yield Text(": ".join(filter(None, (row.label, *row.cells))), row.style)
    yield Table("", [], [list(row) for row in sweeps.named(outcome)])
    yield from _curve(outcome)
    head, *rows = sweeps.table(outcome)
    width = 1 + len(head.cells)
    yield Table(
        "Points (*: on the Pareto front, o: may be on it)", [head.label.strip(), *head.cells],
        [[row.label.strip(), *row.cells, *[""] * (width - 1 - len(row.cells))] for row in rows],
    )  # fmt: skip


def _curve(outcome: Outcome) -> Iterator[Chart]:
    """Latency over what was delivered, a pair of lines for each value of the other axis."""
    load, series = outcome.load, dict[str, list[OnCurve]]()
    for one in outcome.curve:
        name = ", ".join(f"{label} {value}" for label, value in one.point.at.items() if label != load)
        series.setdefault(name, []).append(one)
    figures = ("p99", "p50") if len(series) * 2 <= COLOURS else ("p99",)
    lines: list[Line] = []
    for name, points in list(series.items())[:COLOURS]:
        points.sort(key=lambda one: one.rate)
        x = np.array([one.rate for one in points])
        for figure in figures:
            y, number = np.array([getattr(one, figure) for one in points], np.float64), len(lines)
            lines.append(Line(f"{name} {figure}".strip(), x, y, number, Dash(number % len(Dash))))
    if not lines:
        return
    names: dict[float, list[str]] = {}
    power = None if outcome.named.power is None else outcome.points[outcome.named.power]
    for name, point in (("best", outcome.chosen), ("power", power)):
        if point is not None and point.rate:
            names.setdefault(point.rate, []).append(name)
    marks = [Mark(rate, ", ".join(of_place)) for rate, of_place in names.items()]
    found = "; ".join(f"{name}: {text}" for name, text in sweeps.named(outcome))
    what = f"Latency at what each point delivered, along {load}; those of several runs are medians."
    yield Chart("curve", "Latency over throughput", found, what, "ns", Axis.RATE, lines, logarithmic=True, marks=marks)


def _shown(outcome: Outcome) -> Sequence[str]:
    """The runs that are laid over each other: of the best points, from the lowest rate to the highest."""
    front = sorted((one for one in outcome.points if one.front == "on"), key=lambda one: one.rate or 0.0)
    places = np.unique(np.linspace(0, len(front) - 1, min(len(front), COLOURS)).round().astype(int)).tolist()
    return [front[place].runs[0] for place in places]
