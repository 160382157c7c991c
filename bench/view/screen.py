"""The live view of a run as text: a ``Snapshot`` in, the lines of a screen or one plain line out.

Only draws: does not depend on a process, a clock or the run's table.  It uses one ``Text`` with fixed places rather
than rich's tables and panels, which take several times as long to lay out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from rich.text import Text

from drumfire.bench.report import figures
from drumfire.bench.view.history import History
from drumfire.bench.watch import Snapshot, Spread, ViewPlan, rebin
from drumfire.loadgen.results import LATE_NS
from drumfire.loadgen.settings import Scenario, percentile_name
from drumfire.sut.remote.figures import Gpus, ServerFigures

_LEAST_WIDTH, _MOST_WIDTH = 60, 100
_LABEL = 12
"""Columns of the names at the left."""
_FIELD = 16
_FOUR_FIGURES = _LABEL + 4 * _FIELD
"""A line has room for four figures from this many columns; a narrower line shows three."""
_ROWS, _MOST_ROWS = 4, 10
"""Height of the latency histogram, and where there is room for more."""
_LEAST_HISTORY, _MOST_HISTORY = 2, 4
"""Height of each chart of the history."""
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_SIZE_CLASSES = 8
"""Batch sizes are shown one by one up to this many, and by powers of two beyond."""
_STALL_NS = 10_000_000


def plain_line(plan: ViewPlan, snapshot: Snapshot, server: ServerFigures | None = None) -> str:
    """The state of a run in one line without escape codes."""
    s = snapshot
    if not s.started:
        return "warming up"
    parts = [figures.clock(s.elapsed_s) + (f" (ETA {figures.clock(s.eta_s)})" if s.eta_s is not None else "")]
    if s.rate_now is not None:
        asked = f" of {figures.rate(plan.asked_qps)} asked" if plan.asked_qps is not None else ""
        parts.append(f"{figures.rate(s.rate_now)} now{asked}")
    if s.latency is not None:
        parts.append(f"p50 {figures.duration(s.latency.p50)}, p99 {figures.duration(s.latency.p99)}")
    if s.sent is not None and s.sent.p99 > LATE_NS:
        parts.append(f"sent late p99 {figures.duration(s.sent.p99)}")
    parts.append(f"{s.in_flight:,} in flight")
    parts.append(f"{s.failed:,} failed" + (f", {s.refused:,} refused" if s.refused else ""))
    if server is not None and server.rate is not None:
        parts.append(f"server {figures.rate(server.rate)}")
        if server.queue_ns is not None and server.compute_ns is not None:
            parts.append(f"queue {figures.duration(server.queue_ns)}, compute {figures.duration(server.compute_ns)}")
    return ", ".join(parts)


def draw(
    plan: ViewPlan,
    snapshot: Snapshot,
    width: int,
    server: ServerFigures | None = None,
    history: History | None = None,
    height: int = 0,
) -> Text:
    """The screen of a run; ``width`` as in ``page``.  ``server``: what the servers say, where the view asks any.

    ``height``: at most so many lines, which charts fill as far as they are useful; 0 for no bound.
    """
    text, width = page(width)
    _title(text, plan, width)
    _progress(text, plan, snapshot, width)
    if plan.probes:
        _probes(text, plan, width)
    if not snapshot.started:
        return text
    text.append("\n")
    _rates(text, plan, snapshot, width)
    if (latency := snapshot.latency) is not None:
        _spread(text, "latency", latency, width)
        if plan.target_latency_ns:
            _target(text, plan, latency)
    if (whole := snapshot.query_latency) is not None:
        _spread(text, "per query", whole, width)
    if (lateness := snapshot.lateness) is not None:
        _spread(text, "lateness", lateness, width, limit_ns=LATE_NS)
    if (sent := snapshot.sent) is not None:
        _spread(text, "sent late", sent, width, limit_ns=LATE_NS)
    _counts(text, snapshot)
    _generator(text, snapshot, width)
    if snapshot.computing is not None:
        _computing(text, plan, *snapshot.computing)
    if snapshot.batches:
        _batches(text, snapshot, width)
    if server is not None:
        _server(text, server, width)
    rows, history_rows = _shares(height - text.plain.count("\n")) if height else (_ROWS, 0)
    if latency is not None and rows:
        text.append("\n")
        _histogram(text, plan, latency, width, rows)
    if history is not None and len(history.rates) > 1 and history_rows:
        text.append("\n\n")
        _history(text, history, width, history_rows)
    return cut(text, height) if height else text


def _shares(room: int) -> tuple[int, int]:
    """How high to draw the histogram and each chart of the history in ``room`` lines; 0 for not at all.

    Each of the two has an empty line before it and an axis below it.
    """
    rows = _ROWS if room >= _ROWS + 2 else 0
    left = room - (rows + 2 if rows else 0) - 2
    each = min(left // 2, _MOST_HISTORY)
    if each < _LEAST_HISTORY:
        return rows, 0
    return min(rows + left - 2 * each, _MOST_ROWS), each


def cut(text: Text, height: int) -> Text:
    """At most the first ``height`` lines: of a higher screen, what has scrolled away could not be taken back."""
    lines = text.plain.split("\n")
    if len(lines) > height:
        text.right_crop(len(text.plain) - len("\n".join(lines[:height])))
    return text


def page(width: int) -> tuple[Text, int]:
    """An empty screen for a terminal of ``width`` columns, and the columns that it uses: 60 to 100, less one."""
    return Text(no_wrap=True, overflow="crop"), min(max(width, _LEAST_WIDTH), _MOST_WIDTH) - 1


def _title(text: Text, plan: ViewPlan, width: int) -> None:
    mode = f"{plan.scenario} {'accuracy' if plan.accuracy else 'performance'}"
    room = width - len(mode) - 2
    title = plan.title if len(plan.title) <= room else plan.title[: room - 1] + "…"
    text.append(title.ljust(room), "bold")
    text.append(f"  {mode}\n", "cyan")


def _progress(text: Text, plan: ViewPlan, snapshot: Snapshot, width: int) -> None:
    if not snapshot.started:
        text.append("warming up\n", "dim")
        return
    if snapshot.eta_s is not None:
        left = f"ETA {figures.clock(snapshot.eta_s)}"
    elif snapshot.fraction >= 1.0:
        left = "draining" if plan.scenario == Scenario.Server.name else ""
    else:
        left = "ETA -:--"
    end = f" {snapshot.fraction:4.0%}  {figures.clock(snapshot.elapsed_s)}  {left:<9}"
    cells = width - len(end)
    full = int(cells * snapshot.fraction)
    text.append("━" * full, "cyan")
    text.append("━" * (cells - full), "bright_black")
    text.append(f"{end}\n")


def _probes(text: Text, plan: ViewPlan, width: int) -> None:
    """The loads of a search on a logarithmic line: those that passed, those that failed, and the current load."""
    loads = [load for load, _ in plan.probes] + [plan.load]
    low, high = min(loads), max(loads)
    cells = width - _LABEL - 1
    span = math.log(high / low) or 1.0

    def cell(load: float) -> int:
        return round(math.log(load / low) / span * cells)

    marks = {cell(load): ("✓", "green") if passed else ("✗", "red") for load, passed in plan.probes}
    marks[cell(plan.load)] = ("●", "bold cyan")
    _name(text, "probes")
    for at in range(cells + 1):
        text.append(*marks.get(at, ("─", "bright_black")))
    text.append("\n")
    _name(text, "")
    ends = [figures.digits(load) for load in (low, high)]
    text.append(ends[0].ljust(cells + 1 - len(ends[1])) + ends[1] + "\n", "dim")


def _rates(text: Text, plan: ViewPlan, snapshot: Snapshot, width: int) -> None:
    rates = {"asked": plan.asked_qps, "now": snapshot.rate_now, "mean": snapshot.rate_mean}
    shown = {name: (figures.rate(value), "") for name, value in rates.items() if value is not None}
    if width >= _FOUR_FIGURES:
        shown["done"] = (f"{snapshot.answered:,}", "")
    _name(text, "rate")
    _figures(text, shown)


def _spread(text: Text, name: str, spread: Spread, width: int, limit_ns: int = 0) -> None:
    shown = {"p50": spread.p50, "p90": spread.p90, "p99": spread.p99, "max": spread.maximum}
    if width < _FOUR_FIGURES:
        del shown["p90"]
    _name(text, name)
    marked = {name: "yellow" if limit_ns and ns > limit_ns else "" for name, ns in shown.items()}
    _figures(text, {name: (figures.duration(ns), marked[name]) for name, ns in shown.items()})


def _target(text: Text, plan: ViewPlan, latency: Spread) -> None:
    met = latency.target <= plan.target_latency_ns
    _name(text, "target")
    percentile = percentile_name(plan.target_percentile)
    text.append(f"{percentile} within {figures.duration(plan.target_latency_ns)}  ", "")
    text.append(
        "✓ met so far\n" if met else f"✗ over: {figures.duration(latency.target)}\n", "green" if met else "bold red"
    )


def _counts(text: Text, snapshot: Snapshot) -> None:
    _name(text, "in flight")
    text.append(f"{snapshot.in_flight:<{_FIELD},}")
    counts = {"failed": snapshot.failed, "refused": snapshot.refused}
    _figures(text, {name: (f"{count:,}", "bold red" if count else "") for name, count in counts.items()})


def _generator(text: Text, snapshot: Snapshot, width: int) -> None:
    """What the load generator costs, and what delays it."""
    s = snapshot
    shown = {} if s.busy is None else {"CPU": (figures.share(s.busy), "")}
    shown["stall"] = (figures.duration(s.stall_ns), "yellow" if s.stall_ns > _STALL_NS else "")
    if width >= _FOUR_FIGURES:
        shown["GC"] = (figures.duration(s.gc_pause_ns), "yellow" if s.gc_pause_ns else "")
    if s.steal_s is not None:
        shown["steal"] = (figures.duration(s.steal_s * 1e9), "")
    _name(text, "generator")
    _figures(text, shown)


def _computing(text: Text, plan: ViewPlan, cores: float, memory_bytes: int) -> None:
    """What the system takes in processes of its own."""
    _name(text, "system")
    shown = {"CPU": figures.share(cores), "memory": f"{memory_bytes / 1e6:,.0f} MB"}
    many = len(plan.pids) > 1
    shown["processes" if many else "process"] = str(len(plan.pids) if many else plan.pids[0])
    _figures(text, {name: (value, "") for name, value in shown.items()})


def _batches(text: Text, snapshot: Snapshot, width: int) -> None:
    """A bar for each size, or class of sizes, as high as its share of the batches."""
    classes = _size_classes(snapshot.batches)
    highest = max(classes.values())
    _name(text, "batch size")
    text.append(f"mean {snapshot.mean_batch_size:.1f}".ljust(_FIELD))
    used = _LABEL + _FIELD
    for name, share in classes.items():
        used += len(name) + 4
        if used > width:
            break
        text.append(f"{name} ", "dim")
        text.append(f"{_EIGHTHS[max(1, round(share / highest * 8))]}  ", "cyan")
    text.append("\n")


def _server(text: Text, server: ServerFigures, width: int) -> None:
    """What the servers count."""
    _name(text, "server")
    if server.note is not None:
        note = f"no statistics ({server.note})"
        room = width - _LABEL
        text.append((note if len(note) <= room else note[: room - 1] + "…") + "\n", "yellow")
    elif server.rate is None:
        text.append("\n")
    else:
        shown = {"now": figures.rate(server.rate)}
        if server.queue_ns is not None and server.compute_ns is not None:
            shown |= {"queue": figures.duration(server.queue_ns), "compute": figures.duration(server.compute_ns)}
        if width >= _FOUR_FIGURES:
            if server.cached_share:
                shown["cached"] = figures.share(server.cached_share)
            elif server.mean_batch_size is not None:
                shown["batch"] = f"{server.mean_batch_size:.1f}"
        _figures(text, {name: (value, "") for name, value in shown.items()})
    if server.gpus is not None:
        _gpus(text, server.gpus, width)


def _gpus(text: Text, gpus: Gpus, width: int) -> None:
    shown = {}
    if gpus.utilization is not None:
        shown["use"] = figures.share(gpus.utilization)
    if gpus.power_w is not None:
        shown["power"] = f"{gpus.power_w:,.0f} W"
    if gpus.memory_used_bytes is not None:
        total = f" of {gpus.memory_total_bytes / 1e9:.0f}" if gpus.memory_total_bytes and width >= _FOUR_FIGURES else ""
        shown["memory"] = f"{figures.digits(gpus.memory_used_bytes / 1e9)}{total} GB"
    _name(text, "GPU" if gpus.count == 1 else f"{gpus.count} GPUs")
    _figures(text, {name: (value, "") for name, value in shown.items()})


def _size_classes(batches: dict[int, float]) -> dict[str, float]:
    """Shares by size, or by classes 1, 2, 3-4, 5-8, ... where a size is above 8."""
    if max(batches) <= _SIZE_CLASSES:
        return {str(size): share for size, share in batches.items()}
    classes: dict[str, float] = {}
    for size, share in batches.items():
        high = 1 << (size - 1).bit_length()
        low = high // 2 + 1
        name = str(high) if low >= high else f"{low}-{high}"
        classes[name] = classes.get(name, 0.0) + share
    return classes


def _histogram(text: Text, plan: ViewPlan, latency: Spread, width: int, rows: int) -> None:
    """Bars over equal ratios of latency, between round figures so that the picture does not move."""
    columns = width - _LABEL
    low = _round_below(max(int(latency.values[0]), 1))
    high = _round_above(latency.maximum, low)
    heights = rebin(latency, low, high, columns)
    eighths = np.ceil(heights * (rows * 8 / heights.max())).astype(int)
    mark = _place(plan.target_latency_ns, low, high, columns)
    for row in range(rows - 1, -1, -1):
        text.append(("latency" if row == rows - 1 else "").ljust(_LABEL), "dim")
        cells = "".join(_EIGHTHS[level] for level in np.clip(eighths - row * 8, 0, 8).tolist())
        if mark is None:
            text.append(cells, "cyan")
        else:
            text.append(cells[:mark], "cyan")
            text.append("┊" if cells[mark] == " " else cells[mark], "red")
            text.append(cells[mark + 1 :], "red")
        text.append("\n")
    text.append("".ljust(_LABEL) + _axis(low, high, columns), "dim")


def _history(text: Text, history: History, width: int, rows: int) -> None:
    """The rate and the p99 latency over time, the last at the right, each from 0 to its highest."""
    columns = width - _LABEL
    rates, p99s = np.array(history.rates[-columns:]), np.array(history.p99s[-columns:])
    for name, values, unit, style in (("rate", rates, figures.rate, "green"), ("p99", p99s, figures.duration, "cyan")):
        highest = values.max()
        eighths = np.ceil(values * (rows * 8 / (highest or 1))).astype(int)
        for row in range(rows - 1, -1, -1):
            label = {rows - 1: name, rows - 2: f" {unit(highest)}"}.get(row, "")
            text.append(label.ljust(_LABEL), "dim")
            cells = "".join(_EIGHTHS[level] for level in np.clip(eighths - row * 8, 0, 8).tolist())
            text.append(cells + "\n", style)
    ago = f"{figures.clock(history.step_s * len(rates))} ago"
    text.append("".ljust(_LABEL) + ago + "now".rjust(max(len(rates) - len(ago), 4)), "dim")


def _axis(low: int, high: int, columns: int) -> str:
    """Round latencies, each under its column."""
    line = ""
    tick = low
    while tick <= high:
        label = figures.duration(tick).replace(".00", "").replace(".0", "")
        place = min(_place(tick, low, high, columns) or 0, columns - len(label))
        if not line or place >= len(line) + 3:
            line = line.ljust(place) + label
        tick = _round_above(tick + 1, 0)
    return line


def _place(ns: int, low: int, high: int, columns: int) -> int | None:
    """The column of a latency; None outside the bounds."""
    if not low <= ns <= high:
        return None
    return min(int(columns * math.log(ns / low) / math.log(high / low)), columns - 1)


def _round_below(ns: int) -> int:
    """The highest 1, 2 or 5 times a power of ten that is not above ``ns``."""
    power: int = 10 ** (len(str(ns)) - 1)
    return next(step * power for step in (5, 2, 1) if step * power <= ns)


def _round_above(ns: int, low: int) -> int:
    """The lowest 1, 2 or 5 times a power of ten that is not below ``ns``, but at least 2 * ``low``."""
    power: int = 10 ** (len(str(ns)) - 1)
    return max(next(step * power for step in (1, 2, 5, 10) if step * power >= ns), 2 * low)


def _name(text: Text, name: str) -> None:
    text.append(name.ljust(_LABEL), "dim")


def _figures(text: Text, shown: Mapping[str, tuple[str, str]]) -> None:
    """The end of a line: each name with its value (text and style), at a distance of ``_FIELD`` columns.

    What follows a value that is too long for its column is back in its own as soon as there is room.
    """
    used = 0
    for number, (name, (value, style)) in enumerate(shown.items()):
        gap = max(min(number, 1), number * _FIELD - used)
        text.append(" " * gap + f"{name} ", "dim")
        text.append(value, style)
        used += gap + len(name) + 1 + len(value)
    text.append("\n")
