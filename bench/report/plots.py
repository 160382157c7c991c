"""The charts of a report: which lines a run over time gives, alone or beside other runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from drumfire.bench.report.blocks import Axis, Bars, Chart, Dash, Heat, Line, Mark, Values, shown
from drumfire.bench.report.figures import duration, seconds
from drumfire.bench.report.timeline import ROWS_AN_OCTAVE, Timeline
from drumfire.loadgen.saved import SavedRun
from drumfire.loadgen.series import Series
from drumfire.loadgen.settings import Scenario

COLOURS = 6
"""Colours that people can tell apart."""
_POINTS = 200
"""Points of a line of percentiles."""
_READINGS = 400
"""Points of a line of a series."""
_FAR = 30
"""A bound that is more than this many times the highest value is not drawn: it would flatten the lines."""
_MOST_BARS = 40
_STEADY = 0.1


@dataclass(frozen=True)
class Track:
    """A run over time, with its short name."""

    label: str
    run: SavedRun
    line: Timeline
    colour: int = 0
    dash: Dash = Dash.SOLID

    def drawn(self, x: Values, y: Values) -> Line:
        """A line in the run's colour and dashes."""
        return Line(self.label, x, y, self.colour, self.dash)

    def exact(self, name: str) -> Mapping[str, float]:
        """Percentiles of ``latency`` or ``lateness`` that the result has, ns, by name; of queries, as the lines are."""
        result = {} if self.run.unfinished else self.run.result
        found = result.get(f"query_{name}_ns") or result.get(f"{name}_ns") or {}
        return {figure: float(value) for figure, value in found.items() if figure[0] == "p"}


@dataclass(frozen=True)
class _Kind:
    """A line of a chart."""

    name: str
    values: Callable[[Timeline], Values | None]
    several: bool = True
    """Whether it is drawn of several runs too."""


@dataclass(frozen=True)
class _Plot:
    name: str
    title: str
    defined: str
    unit: str
    kinds: Sequence[_Kind]
    logarithmic: bool = False


_TIME = (
    _Plot(
        "rate", "Rate", "Samples that were due and samples answered well, per second, by slice of the run.", "1/s",
        (_Kind("answered", lambda t: t.answered), _Kind("asked", lambda t: t.asked, several=False)),
    ),
    _Plot(
        "latency", "Latency", "From the scheduled time to the answer, of the queries that were due in each slice.",
        "ns",
        (
            _Kind("p99", lambda t: t.p99),
            _Kind("p50", lambda t: t.p50),
            _Kind("highest", lambda t: t.highest, several=False),
        ),
        logarithmic=True,
    ),
    _Plot(
        "in-flight", "In flight", "Samples issued and not yet answered, at the end of each slice.", "",
        (_Kind("in flight", lambda t: t.in_flight),),
    ),
    _Plot(
        "lateness", "Lateness",
        "How late the generator issued the queries of each slice: its own fault, not the system's. In a closed loop, "
        "from an answer, and the think time, to the next issue.", "ns",
        (
            _Kind("p99", lambda t: t.late_p99),
            _Kind("p50", lambda t: t.late_p50, several=False),
            _Kind("highest", lambda t: t.late_highest, several=False),
        ),
        logarithmic=True,
    ),
    _Plot(
        "errors", "Errors", "Samples due in each slice that were never answered well.", "",
        (_Kind("errors", lambda t: t.errors if t.errors.any() else None),),
    ),
    _Plot(
        "batch", "Batch size", "Mean size of the batch that a sample was in.", "",
        (_Kind("batch size", lambda t: t.batch),),
    ),
    _Plot(
        "parts", "Queue and compute",
        "Mean times of a slice's samples: from the issue to the begin of the computation, and on to the answer.",
        "ns",
        (_Kind("compute", lambda t: t.compute), _Kind("queue", lambda t: t.queue)),
        logarithmic=True,
    ),
)  # fmt: skip
_PERCENTILES = _Plot(
    "percentiles", "Latency by percentile",
    "The time that a percentage of the queries does not exceed; each step to the right leaves out nine of ten of the "
    "others. The line is within 0.4 %, and ends where fewer than 10 queries are above it.", "ns",
    (), logarithmic=True,
)  # fmt: skip
_NAMES = {"late": "until the issue", "waiting": "until sent", "network": "network"}
_PARTS = ("late", "waiting", "network", "queue", "compute", "cache_hit")


def over_time(tracks: Sequence[Track]) -> Iterator[Chart]:
    """The time lines, on one x axis."""
    right = max((track.line.step_s * track.line.answered.size for track in tracks), default=0.0)
    for plot in _TIME:
        for chart in _charts(plot, tracks):
            marks = [worst] if len(tracks) == 1 and plot.name == "lateness" and (worst := _worst(tracks[0])) else []
            yield replace(chart, right=right, marks=marks)


def percentiles(tracks: Sequence[Track]) -> Iterator[Chart]:
    """Latency from the schedule and from the sending, and lateness, by percentile; none of Offline runs."""
    tracks = [track for track in tracks if track.run.effective.scenario != Scenario.Offline]
    if len(tracks) == 1:
        tallies = tracks[0].line
        lines = {
            "latency": tallies.latency,
            "latency from the sending": tallies.from_send,
            "lateness": tallies.lateness,
        }
        drawn = [
            replace(_numbered(n, name, *tally.curve(_POINTS)), exact=tracks[0].exact(name))
            for n, (name, tally) in enumerate(lines.items())
        ]
        yield from _percentile_chart(_PERCENTILES, tracks, drawn)
        return
    further = _Plot(
        "percentiles-late", "Lateness by percentile", "How late the generator issued.", "ns", (), logarithmic=True
    )
    for plot, which in ((_PERCENTILES, "latency"), (further, "lateness")):
        drawn = [
            replace(track.drawn(*getattr(track.line, which).curve(_POINTS)), exact=track.exact(which))
            for track in tracks
        ]
        yield from _percentile_chart(plot, tracks, drawn)


def _percentile_chart(plot: _Plot, tracks: Sequence[Track], drawn: Sequence[Line]) -> Iterator[Chart]:
    top = max((float(line.y.max()) for line in drawn if line.y.size), default=0.0)
    for number, lines in enumerate(_groups([line for line in drawn if line.x.size])):
        found = "; ".join(f"{line.name}: {_at_percentiles(line)}" for line in lines)
        bound = _target(tracks, top) if plot is _PERCENTILES else None
        name = plot.name + (f"-{number + 1}" if number else "")
        yield Chart(
            name, plot.title, found, plot.defined, "ns", Axis.PERCENTILE, lines, logarithmic=True, top=top, bound=bound
        )


def _at_percentiles(line: Line) -> str:
    at = [(name, line.at(share)) for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))]
    return ", ".join(f"{name} {value}" for name, value in at if value != "-") or "few values"


def heat(tracks: Sequence[Track]) -> Iterator[Chart]:
    """A map of latency over time of each run, all on the same axes."""
    tracks = [track for track in tracks if track.line.heat.any()]
    if not tracks:
        return
    rows = np.flatnonzero(sum(track.line.heat.sum(axis=0) for track in tracks))
    first, last = int(rows[0]), int(rows[-1]) + 1
    right = max(track.line.step_s * track.line.answered.size for track in tracks)
    for number, track in enumerate(tracks):
        counts = track.line.heat[:, first:last]
        low, high = (2.0 ** (edge / ROWS_AN_OCTAVE) for edge in (first, last))
        most = int(counts.sum(axis=0).argmax()) + first
        where = [duration(2.0 ** (edge / ROWS_AN_OCTAVE)) for edge in (most, most + 1)]
        yield Chart(
            f"heat-{number + 1}",
            "Latency over time" + ("" if len(tracks) == 1 else f": {track.label}"),
            f"most queries take from {where[0]} to {where[1]}; all take from {duration(low)} to {duration(high)}",
            "Each cell counts the queries that were due in a slice of the run and took that long; the stronger, the "
            "more, by the square root.",
            "ns", heat=Heat(counts, track.line.step_s * counts.shape[0], low, high), logarithmic=True, right=right,
        )  # fmt: skip


def series(runs: Sequence[tuple[str, Mapping[str, Series]]]) -> Iterator[Chart]:
    """The figures with a clock of their own, those of one kind together."""
    kinds: dict[tuple[str, str], list[tuple[str, Series]]] = {}
    for label, found in runs:
        for name, one in found.items():
            if np.isfinite(one.points["value"]).any():
                shown_as = f"{label}: {name}" if len(runs) > 1 else name
                kinds.setdefault((name.rpartition(".")[2], one.unit), []).append((shown_as, one))
    for number, ((figure, unit), several) in enumerate(kinds.items()):
        title = re.sub("_(w|j|ns|bytes|per_s)$", "", figure).replace("_", " ").replace("cpu", "CPU")
        sources = ", ".join(sorted({one.source for _, one in several if one.source}))
        where = f" from {sources}" if sources else ""
        every = [_numbered(place, name, *_thinned(one)) for place, (name, one) in enumerate(several)]
        for part_number, lines in enumerate(_groups(every)):
            yield Chart(
                f"series-{number + 1}" + (f"-{part_number + 1}" if part_number else ""),
                title[:1].upper() + title[1:],
                _finding(lines, unit),
                f"As read during the run{where}, from its first phase on.",
                unit, lines=lines,
            )  # fmt: skip


def batches(documents: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Bars]:
    """How many batches of each size were computed."""
    found = {label: sizes for label, document in documents if (sizes := _batch_sizes(document))}
    if not found:
        return
    every = sorted({int(size) for sizes in found.values() for size in sizes})
    step = -(-(every[-1] - every[0] + 1) // _MOST_BARS) if len(every) > _MOST_BARS else 0
    keys = {size: (size - every[0]) // step if step else size for size in every}
    names: dict[int, list[int]] = {}
    for size, key in keys.items():
        names.setdefault(key, []).append(size)
    groups = {
        label: [float(sum(sizes.get(str(size), 0) for size in members)) for members in names.values()]
        for label, sizes in found.items()
    }
    says = []
    for label, sizes in found.items():
        usual = max(sizes, key=lambda size: sizes[size])
        says.append(f"{_of(label, found)}most batches, {sizes[usual] / sum(sizes.values()):.0%}, have size {usual}")
    yield Bars(
        "batches", "Batches by size", "; ".join(says), "How many batches of each size were computed.", "",
        [f"{m[0]}-{m[-1]}" if len(m) > 1 else str(m[0]) for m in names.values()], groups,
    )  # fmt: skip


def shares(tracks: Sequence[Track], documents: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Bars]:
    """The parts of the mean latency: by the server's own statistics where there are some, else from the columns."""
    means = {track.label: track.line.means for track in tracks if track.line.means}
    for label, document in documents:
        server = (document.get("system") or {}).get("server") or {}
        found = (server.get("reconciliation") or {}).get("mean_ns")
        if found:
            means[label] = {part: found[part] for part in _PARTS if found.get(part)}
    if not means:
        return
    parts = [part for part in _PARTS if any(mean.get(part) for mean in means.values())]
    groups = {label: [float(mean.get(part, 0.0)) for part in parts] for label, mean in means.items()}
    says = []
    for label, values in groups.items():
        name = _part_name(parts[int(np.argmax(values))])
        says.append(f"{_of(label, groups)}the largest part is {name}, {max(values) / (sum(values) or 1):.0%}")
    yield Bars(
        "shares", "Where the time goes", "; ".join(says),
        "Parts of the mean latency. These are means, as percentiles do not add up.", "ns",
        [_part_name(part) for part in parts], groups, stacked=True,
    )  # fmt: skip


def _of(label: str, every: Mapping[str, Any]) -> str:
    """The name of the run before a finding, where there are several runs."""
    return f"{label}: " if len(every) > 1 else ""


def _part_name(part: str) -> str:
    return _NAMES.get(part, part.replace("_", " "))


def _batch_sizes(document: Mapping[str, Any]) -> dict[str, int]:
    system = document.get("system") or {}
    agreed = (system.get("server") or {}).get("reconciliation") or {}
    sizes = system.get("batch_sizes") or agreed.get("batch_sizes") or {}
    return {size: count for size, count in sizes.items() if re.fullmatch(r"[0-9]{1,9}", size) and count > 0}


def _charts(plot: _Plot, tracks: Sequence[Track]) -> Iterator[Chart]:
    """One chart of a single run; of several, one for each kind of line and for each six runs."""
    found = {
        kind: [
            (track, values)
            for track in tracks
            if (values := kind.values(track.line)) is not None and np.isfinite(values).any()
        ]
        for kind in plot.kinds
    }
    if len(tracks) == 1:
        lines = [
            _numbered(number, kind.name, track.line.at, values)
            for number, (kind, several) in enumerate(found.items())
            for track, values in several
        ]
        if lines:
            yield _chart(plot, plot.name, plot.title, lines, tracks)
        return
    for kind, several in found.items():
        if kind.several:
            title = plot.title if len(plot.kinds) == 1 else f"{plot.title}: {kind.name}"
            top = max((float(np.nanmax(values)) for _, values in several), default=0.0)
            every = [track.drawn(track.line.at, values) for track, values in several]
            for number, part in enumerate(_groups(every)):
                name = f"{plot.name}-{re.sub('[^a-z0-9]+', '-', kind.name)}" + (f"-{number + 1}" if number else "")
                yield replace(_chart(plot, name, title, part, tracks), top=top)


def _chart(plot: _Plot, name: str, title: str, lines: Sequence[Line], tracks: Sequence[Track]) -> Chart:
    top = max(float(np.nanmax(line.y)) for line in lines)
    bound = _target(tracks, top) if plot.name == "latency" else None
    return Chart(
        name, title, _finding(lines, plot.unit), plot.defined, plot.unit,
        lines=lines, logarithmic=plot.logarithmic, bound=bound,
    )  # fmt: skip


def _target(tracks: Sequence[Track], top: float) -> Mark | None:
    """The latency that Server runs must keep, where all have the same, and it is not far above the lines."""
    targets = {track.run.effective.target_latency_ns for track in tracks}
    servers = all(track.run.effective.scenario == Scenario.Server for track in tracks)
    if not servers or len(targets) != 1 or not 0 < (target := targets.pop()) <= _FAR * top:
        return None
    return Mark(float(target), f"target {duration(target)}")


def _worst(track: Track) -> Mark | None:
    """Where the generator was preempted the longest."""
    highest = track.line.late_highest
    if not np.isfinite(highest).any() or not (most := float(np.nanmax(highest))) >= 1_000_000:
        return None
    at = float(track.line.at[int(np.nanargmax(highest))])
    return Mark(at, f"latest issue: {duration(most)} at {seconds(at)}")


def _finding(lines: Sequence[Line], unit: str) -> str:
    """How each line begins and ends, and where it is highest."""
    says = []
    for line in lines:
        there = np.isfinite(line.y)
        x, y = line.x[there], line.y[there]
        if not y.size:
            continue
        tenth = max(y.size // 10, 1)
        first, last, most = float(np.median(y[:tenth])), float(np.median(y[-tenth:])), int(y.argmax())
        steady = abs(last - first) <= _STEADY * max(abs(first), abs(last))
        how = f"about {shown(last, unit)}" if steady else f"from {shown(first, unit)} to {shown(last, unit)}"
        says.append(f"{line.name} {how}, highest {shown(float(y[most]), unit)} at {seconds(float(x[most]))}")
    return "; ".join(says)


def _thinned(one: Series) -> tuple[Values, Values]:
    """Its points, or the means of equal times where it has many."""
    points = one.points[np.isfinite(one.points["value"])]
    x, y = points["time"] * 1e-9, points["value"].astype(np.float64)
    if x.size <= _READINGS:
        return x, y
    place = ((x - x.min()) / (np.ptp(x) or 1.0) * (_READINGS - 1)).astype(np.int64)
    counts = np.maximum(np.bincount(place), 1)
    kept = np.bincount(place) > 0
    return (np.bincount(place, x) / counts)[kept], (np.bincount(place, y) / counts)[kept]


def _numbered(number: int, name: str, x: Values, y: Values) -> Line:
    return Line(name, x, y, number % COLOURS, Dash(number % len(Dash)))


def _groups(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """The lines by chart: no two lines of a chart look alike."""
    group: list[Line] = []
    for line in lines:
        if any((line.colour, line.dash) == (one.colour, one.dash) for one in group):
            yield group
            group = []
        group.append(line)
    if group:
        yield group
