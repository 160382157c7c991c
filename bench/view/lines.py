"""The live view's lines: a figure of the run each, with what it means and how much it matters.

Only draws; uses one ``Text`` with fixed places rather than rich's tables and panels, which take several times as long
to lay out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from drumfire.bench.report import figures
from drumfire.bench.view.charts import EIGHTHS, LABEL
from drumfire.bench.watch import Snapshot, Spread, ViewPlan
from drumfire.loadgen.results import LATE_NS
from drumfire.loadgen.settings import Scenario, percentile_name
from drumfire.sut.remote.figures import Gpus, ServerFigures

if TYPE_CHECKING:
    from drumfire.bench.fleet.overview import Row

_FIELD = 16
_FOUR_FIGURES = LABEL + 4 * _FIELD
"""A line has room for four figures from this many columns; a narrower line shows three."""
_SIZE_CLASSES = 8
"""Batch sizes are shown one by one up to this many, and by powers of two beyond."""
_STALL_NS = 10_000_000
_ROW_NAME, _ROW_FIELD = 18, 12
"""Columns of a generator's name and of each of its figures."""
_ROW_HEADS = ("state", "rate", "p99 late", "heard", "in flight", "done")
_MOST_ROWS = 16
UNSOUND = ("lost", "stale")
_STYLES = {"lost": "bold red", "stale": "yellow", "starting": "dim", "done": "dim"}


@dataclass(frozen=True)
class Line:
    """A line of the screen, or several that belong together."""

    rank: int
    """Of a screen that is too low for all, those with the lowest ranks remain."""
    text: Text
    """Each of its lines ends with a newline."""
    meaning: str = ""
    """Its name and what it shows, in at most 59 columns; empty where that is plain."""

    @property
    def height(self) -> int:
        return self.text.plain.count("\n")


def head(plan: ViewPlan, snapshot: Snapshot, width: int) -> Iterator[Line]:
    """What is run, and how far it is."""
    yield Line(5, _title(plan, width))
    meaning = meant("━━━ 50%", "how far the run is, its time, and what is left")
    yield Line(0, _progress(plan, snapshot, width), meaning if snapshot.started else "")
    if plan.probes:
        meaning = meant("probes", "loads tried: ✓ passed, ✗ failed, ● this one")
        yield Line(7, _probes(plan, width), meaning)


def body(plan: ViewPlan, snapshot: Snapshot, width: int, server: ServerFigures | None) -> Iterator[Line]:
    """The figures of a run that has started."""
    s = snapshot
    yield Line(1, _verdict(plan, s), meant("so far", "whether what is measured by now would be VALID"))
    yield Line(2, _rates(plan, s, width), meant("rate", "samples a second: asked for, last 2 s, mean"))
    if s.latency is not None:
        text = _spread("latency", s.latency, width)
        yield Line(3, text, meant("latency", "from when a sample is due to its answer"))
    if s.query_latency is not None:
        text = _spread("per query", s.query_latency, width)
        yield Line(8, text, meant("per query", "from when it is due to the last of its answers"))
    if s.lateness is not None:
        text = _spread("lateness", s.lateness, width, limit_ns=LATE_NS)
        yield Line(6, text, meant("lateness", "from when a query is due until it is issued"))
    if s.sent is not None:
        text = _spread("sent late", s.sent, width, limit_ns=LATE_NS)
        yield Line(8, text, meant("sent late", "from when it is due until its request is sent"))
    yield Line(4, _counts(s, width), meant("in flight", "issued and not answered; failed; refused"))
    if s.batches:
        text = _batches(s, width)
        yield Line(10, text, meant("batch size", "how many of the batches have each size"))
    text = _generator(s, width)
    yield Line(11, text, meant("generator", "this program's CPU, stalls, and lost CPU time"))
    if s.computing is not None:
        text = _computing(plan, width, *s.computing)
        yield Line(12, text, meant("system", "CPU and memory of the model's own processes"))
    if server is not None:
        yield Line(13, _server(server, width), meant("server", "what the servers count themselves, last 2 s"))
        if server.gpus is not None:
            text = _gpus(server.gpus, width)
            yield Line(14, text, meant("GPU", "as the server reports: use, power, memory"))


def meant(name: str, meaning: str) -> str:
    return name.ljust(LABEL) + meaning


def draw_rows(rows: Sequence[Row], width: int, height: int) -> Text:
    """Draw a line for each generator, below an empty line and their heads, in about ``height`` lines.

    Of more than 16, or than have room, those are drawn that are lost, stale or late, and the others counted.  Figures
    for which ``width`` columns are too few are left out.
    """
    text = Text(no_wrap=True, overflow="crop")
    if not rows:
        return text
    heads = [head for head in _ROW_HEADS if width > _ROW_NAME + _ROW_FIELD * (_ROW_HEADS.index(head) + 1)]
    text.append("\n" + "".ljust(_ROW_NAME) + "".join(head.ljust(_ROW_FIELD) for head in heads).rstrip() + "\n", "dim")
    shown = list(rows)
    room = height - 2
    if len(shown) > min(_MOST_ROWS, room):
        shown.sort(key=lambda row: (row.state not in UNSOUND, -(row.late_p99_ns or 0)))
        shown = shown[: max(min(_MOST_ROWS, room - 1), 1)]
    for row in shown:
        text.append(row.name[: _ROW_NAME - 1].ljust(_ROW_NAME))
        figure = {
            "state": (row.state, _STYLES.get(row.state, "green")),
            "rate": ("" if row.rate is None else figures.rate(row.rate), ""),
            "p99 late": (
                "" if row.late_p99_ns is None else figures.duration(row.late_p99_ns),
                "yellow" if (row.late_p99_ns or 0) > LATE_NS else "",
            ),
            "heard": (f"{figures.duration(row.silent_s * 1e9)} ago", ""),
            "in flight": (f"{row.in_flight:,}", ""),
            "done": (f"{row.answered:,}", ""),
        }
        for head in heads:
            text.append(figure[head][0].ljust(_ROW_FIELD), figure[head][1])
        text.append("\n")
    if len(rows) > len(shown):
        text.append(f"and {len(rows) - len(shown)} more\n", "dim")
    return text


def _title(plan: ViewPlan, width: int) -> Text:
    mode = f"{plan.scenario} {'accuracy' if plan.accuracy else 'performance'}"
    room = max(width - len(mode) - 2, 0)
    title = "".join(letter if letter.isprintable() else "?" for letter in plan.title)
    if cell_len(title) > room:
        title = set_cell_size(title, max(room - 1, 0)).rstrip() + "…"
    return Text().append(set_cell_size(title, room), "bold").append(f"  {mode}\n", "cyan")


def _progress(plan: ViewPlan, snapshot: Snapshot, width: int) -> Text:
    if not snapshot.started:
        return Text("warming up\n", "dim")
    if snapshot.eta_s is not None:
        left = f"ETA {figures.clock(snapshot.eta_s)}"
    elif snapshot.fraction >= 1.0:
        left = "draining" if plan.scenario == Scenario.Server.name else ""
    else:
        left = "ETA -:--"
    end = f" {snapshot.fraction:4.0%}  {figures.clock(snapshot.elapsed_s)}  {left:<9}"
    cells = width - len(end)
    full = int(cells * snapshot.fraction)
    return Text().append("━" * full, "cyan").append("━" * (cells - full), "bright_black").append(f"{end}\n")


def _verdict(plan: ViewPlan, snapshot: Snapshot) -> Text:
    """Against what is known by now: failed samples, and the bound of the latency where there is one."""
    good: list[str] = []
    bad: list[str] = []
    (bad if snapshot.failed else good).append(f"{snapshot.failed:,} failed" if snapshot.failed else "none failed")
    bounded = snapshot.query_latency or snapshot.latency
    if plan.target_latency_ns and not plan.accuracy and bounded is not None:
        met = bounded.target <= plan.target_latency_ns
        latency = f"{percentile_name(plan.target_percentile)} {figures.duration(bounded.target)}, "
        latency += f"{'within' if met else 'over'} {figures.duration(plan.target_latency_ns)}"
        (good if met else bad).insert(0, latency)
    text = _named("so far")
    if bad:
        return text.append(f"✗ {'; '.join(bad)}\n", "bold red")
    return text.append(f"✓ {'; '.join(good)}\n", "green")


def _probes(plan: ViewPlan, width: int) -> Text:
    """The loads of a search on a logarithmic line: those that passed, those that failed, and the current load."""
    loads = [load for load, _ in plan.probes] + [plan.load]
    low, high = min(loads), max(loads)
    cells = width - LABEL - 1
    span = math.log(high / low) or 1.0

    def cell(load: float) -> int:
        return round(math.log(load / low) / span * cells)

    marks = {cell(load): ("✓", "green") if passed else ("✗", "red") for load, passed in plan.probes}
    marks[cell(plan.load)] = ("●", "bold cyan")
    text = _named("probes")
    for at in range(cells + 1):
        text.append(*marks.get(at, ("─", "bright_black")))
    text.append("\n" + "".ljust(LABEL))
    ends = [figures.digits(load) for load in (low, high)]
    return text.append(ends[0].ljust(cells + 1 - len(ends[1])) + ends[1] + "\n", "dim")


def _rates(plan: ViewPlan, snapshot: Snapshot, width: int) -> Text:
    rates = {"asked": plan.asked_qps, "now": snapshot.rate_now, "mean": snapshot.rate_mean}
    shown = {name: (figures.rate(value), "") for name, value in rates.items() if value is not None}
    if width >= _FOUR_FIGURES:
        shown["done"] = (f"{snapshot.answered:,}", "")
    return _figures(_named("rate"), shown, width)


def _spread(name: str, spread: Spread, width: int, limit_ns: int = 0) -> Text:
    shown = {"p50": spread.p50, "p90": spread.p90, "p99": spread.p99, "max": spread.maximum}
    if width < _FOUR_FIGURES:
        del shown["p90"]
    marked = {one: "yellow" if limit_ns and ns > limit_ns else "" for one, ns in shown.items()}
    return _figures(_named(name), {one: (figures.duration(ns), marked[one]) for one, ns in shown.items()}, width)


def _counts(snapshot: Snapshot, width: int) -> Text:
    text = _named("in flight").append(f"{snapshot.in_flight:<{_FIELD - 1},} ")
    counts = {"failed": snapshot.failed, "refused": snapshot.refused}
    return _figures(text, {name: (f"{count:,}", "bold red" if count else "") for name, count in counts.items()}, width)


def _generator(snapshot: Snapshot, width: int) -> Text:
    """What the load generator costs, and what delays it."""
    s = snapshot
    shown = {} if s.busy is None else {"CPU": (figures.share(s.busy), "")}
    shown["stall"] = (figures.duration(s.stall_ns), "yellow" if s.stall_ns > _STALL_NS else "")
    if width >= _FOUR_FIGURES:
        shown["GC"] = (figures.duration(s.gc_pause_ns), "yellow" if s.gc_pause_ns else "")
    if s.steal_s is not None:
        shown["steal"] = (figures.duration(s.steal_s * 1e9), "")
    return _figures(_named("generator"), shown, width)


def _computing(plan: ViewPlan, width: int, cores: float, memory_bytes: int) -> Text:
    """What the system takes in processes of its own."""
    shown = {"CPU": figures.share(cores), "memory": f"{memory_bytes / 1e6:,.0f} MB"}
    many = len(plan.pids) > 1
    shown["processes" if many else "process"] = str(len(plan.pids) if many else plan.pids[0])
    return _figures(_named("system"), {name: (value, "") for name, value in shown.items()}, width)


def _batches(snapshot: Snapshot, width: int) -> Text:
    """A bar for each size, or class of sizes, as high as its share of the batches."""
    classes = _size_classes(snapshot.batches)
    highest = max(classes.values())
    text = _named("batch size").append(f"mean {snapshot.mean_batch_size:.1f}".ljust(_FIELD))
    used = LABEL + _FIELD
    for name, share in classes.items():
        used += len(name) + 4
        if used > width:
            break
        text.append(f"{name} ", "dim")
        text.append(f"{EIGHTHS[max(1, round(share / highest * 8))]}  ", "cyan")
    return text.append("\n")


def _server(server: ServerFigures, width: int) -> Text:
    """What the servers count."""
    text = _named("server")
    if server.note is not None:
        note = f"no statistics ({server.note})"
        room = width - LABEL
        return text.append((note if len(note) <= room else note[: room - 1] + "…") + "\n", "yellow")
    if server.rate is None:
        return text.append("\n")
    shown = {"now": figures.rate(server.rate)}
    if server.queue_ns is not None and server.compute_ns is not None:
        shown |= {"queue": figures.duration(server.queue_ns), "compute": figures.duration(server.compute_ns)}
    if width >= _FOUR_FIGURES:
        if server.cached_share:
            shown["cached"] = figures.share(server.cached_share)
        elif server.mean_batch_size is not None:
            shown["batch"] = f"{server.mean_batch_size:.1f}"
    return _figures(text, {name: (value, "") for name, value in shown.items()}, width)


def _gpus(gpus: Gpus, width: int) -> Text:
    shown = {}
    if gpus.utilization is not None:
        shown["use"] = figures.share(gpus.utilization)
    if gpus.power_w is not None:
        shown["power"] = f"{gpus.power_w:,.0f} W"
    if gpus.memory_used_bytes is not None:
        total = f" of {gpus.memory_total_bytes / 1e9:.0f}" if gpus.memory_total_bytes and width >= _FOUR_FIGURES else ""
        shown["memory"] = f"{figures.digits(gpus.memory_used_bytes / 1e9)}{total} GB"
    text = _named("GPU" if gpus.count == 1 else f"{gpus.count} GPUs")
    return _figures(text, {name: (value, "") for name, value in shown.items()}, width)


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


def _named(name: str) -> Text:
    return Text().append(name.ljust(LABEL), "dim")


def _figures(text: Text, shown: Mapping[str, tuple[str, str]], width: int) -> Text:
    """The line ``text`` with its end: each name with its value (text and style), ``_FIELD`` columns apart.

    What follows a value that is too long for its column is back in its own as soon as there is room; those at the end
    for which ``width`` columns are too few are left out.
    """
    used, room = 0, width - len(text)
    for number, (name, (value, style)) in enumerate(shown.items()):
        gap = max(min(number, 1), number * _FIELD - used)
        if used + gap + len(name) + 1 + len(value) > room:
            break
        text.append(" " * gap + f"{name} ", "dim")
        text.append(value, style)
        used += gap + len(name) + 1 + len(value)
    return text.append("\n")
