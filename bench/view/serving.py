"""What a server did in the last seconds, as a screen or a line: its counters in, text out.

``python -m`` draws counters that come as JSON lines, in a process of its own: drawing in the server's process would
delay requests twice a second.  Does not depend on the server.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from drumfire.bench.report import figures
from drumfire.bench.view import process
from drumfire.bench.view.screen import cut, page
from drumfire.bench.view.servers import figures_of, together
from drumfire.loadgen.wording import counted
from drumfire.sut import module_process
from drumfire.sut.remote.figures import Gpus, ServerFigures
from drumfire.sut.remote.kserve import meter
from drumfire.sut.remote.kserve.metrics import GPU_FIGURES
from drumfire.sut.remote.kserve.statistics import Snapshot
from drumfire.sut.window import begin_of_window

_SHORTEST_NAME, _LONGEST_NAME = 8, 24
"""Columns of a model's name."""
_GAP = 2
_COLUMNS = {"now": 8, "batch": 5, "queue": 7, "compute": 7, "in flight": 9, "answered": 10, "failed": 6}
"""The columns after the name and the width of each; a longer value widens it."""
_SPARE = ("batch", "queue", "compute")
"""Those that are left out on a narrow screen, the first of them first."""

Look = Mapping[str, Any]
"""JSON-ready: ``at_ns``, ``connections``, ``note``, ``gpus`` (figures under the metrics' names, by UUID) and
``models``, a list of ``statistics`` (an entry of Triton's model_stats), ``waiting`` and ``under_way`` (requests), and
``padding`` (its share of what was computed, or None)."""


@dataclass(frozen=True)
class ModelView:
    """One version of a model."""

    name: str
    recent: ServerFigures
    answered: int
    failed: int
    waiting: int
    under_way: int
    padding: float | None = None
    """Its share of all that was computed; None where nothing is padded."""


@dataclass(frozen=True)
class View:
    models: Sequence[ModelView]
    connections: int
    gpus: Gpus | None
    note: str


class Watch:
    """Turns looks, one after another, into what happened between them."""

    def __init__(self) -> None:
        self._looks: deque[tuple[int, Look]] = deque()

    def see(self, look: Look) -> View:
        then_ns, before = begin_of_window(self._looks, look["at_ns"], look)
        took_ns = look["at_ns"] - then_ns
        models = []
        for now, then in zip(look["models"], before["models"], strict=True):
            name = f"{now['statistics']['name']} {now['statistics']['version']}"
            total = _snapshot(now)
            recent = figures_of([meter.figures_of(total.since(_snapshot(then)), took_ns)])
            models.append(
                ModelView(
                    name,
                    recent,
                    total.success.count,
                    total.fail.count,
                    now["waiting"],
                    now["under_way"],
                    now["padding"],
                )
            )
        gpus = [{GPU_FIGURES[name]: value for name, value in one.items()} for one in look["gpus"].values()]
        return View(models, look["connections"], together(gpus), look["note"])


def plain_line(view: View) -> str:
    """The state in one line without escape codes."""
    parts = []
    for model in view.models:
        recent = model.recent
        said = f"{model.name}: {figures.rate(recent.rate or 0.0)}"
        if recent.mean_batch_size is not None:
            said += f", batch {recent.mean_batch_size:.1f}"
        if recent.queue_ns is not None and recent.compute_ns is not None:
            said += f", queue {figures.duration(recent.queue_ns)}, compute {figures.duration(recent.compute_ns)}"
        if model.padding is not None:
            said += f", {figures.share(model.padding)} padding"
        said += f", {model.under_way:,} under way, {model.answered:,} answered, {model.failed:,} failed"
        parts.append(said)
    return "; ".join([*parts, counted(view.connections, "connection")])


def draw(view: View, width: int) -> Text:
    """The screen, lines of at most ``width`` columns."""
    text, width = page(width)
    rows = [_row(model) for model in view.models]
    fields = {name: max([least, *(len(row[name]) for row in rows)]) for name, least in _COLUMNS.items()}
    longest = min(max([len("model"), *(len(model.name) for model in view.models)]), _LONGEST_NAME)
    for spare in _SPARE:
        if longest + sum(_GAP + field for field in fields.values()) > width:
            del fields[spare]
    first = max(min(longest, width - sum(_GAP + field for field in fields.values())), _SHORTEST_NAME)
    text.append("model".ljust(first) + "".join(" " * _GAP + name.rjust(fields[name]) for name in fields) + "\n", "dim")
    for model, row in zip(view.models, rows, strict=True):
        name = model.name if len(model.name) <= first else f"{model.name[: first - 1]}…"
        text.append(name.ljust(first), "bold")
        for column, field in fields.items():
            style = "red" if column == "failed" and model.failed else ""
            text.append(" " * _GAP + row[column].rjust(field), style)
        text.append("\n")
    text.append(f"\n{counted(view.connections, 'connection')}", "dim")
    if view.gpus is not None:
        text.append(f"    {_gpus(view.gpus)}", "dim")
    if view.note:
        text.append(f"\n{view.note}", "yellow")
    return text


def _row(model: ModelView) -> dict[str, str]:
    recent = model.recent
    return {
        "now": figures.rate(recent.rate or 0.0),
        "batch": "" if recent.mean_batch_size is None else f"{recent.mean_batch_size:.1f}",
        "queue": "" if recent.queue_ns is None else figures.duration(recent.queue_ns),
        "compute": "" if recent.compute_ns is None else figures.duration(recent.compute_ns),
        "in flight": f"{model.under_way:,}",
        "answered": f"{model.answered:,}",
        "failed": f"{model.failed:,}",
    }


def _gpus(gpus: Gpus) -> str:
    parts = [counted(gpus.count, "GPU")]
    if gpus.utilization is not None:
        parts.append(figures.share(gpus.utilization))
    if gpus.power_w is not None:
        parts.append(f"{gpus.power_w:.0f} W")
    if gpus.memory_used_bytes is not None:
        parts.append(f"{gpus.memory_used_bytes / 2**30:.1f} GiB")
    return " ".join(parts)


def _snapshot(model: Mapping[str, Any]) -> Snapshot:
    statistics = model["statistics"]
    return Snapshot.of({"model_stats": [statistics]}, statistics["name"], statistics["version"])


def main() -> None:
    """Draws until the input ends."""
    process.settle(idle=False)
    watch, console = Watch(), Console(highlight=False)
    with process.Screen(console) as screen:
        for line in sys.stdin:
            width, height = console.size
            screen.draw(cut(draw(watch.see(json.loads(line)), width), height - 1))


if __name__ == "__main__":
    module_process.run(main, "the status view")
