"""Shows the progress of a benchmark from the events that the current run writes.

Does not depend on how runs are started.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from drumfire.training.faults import InputError
from drumfire.training.task import Task

_BARS = "▁▂▃▄▅▆▇█"
_RECENT = 30
"""Steps over which the shown loss and speed are averaged."""


class Tail:
    """Iterating gives the events written since the last time, whole lines only; all events if the file was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            status = self._path.stat()
            if self._file is None or os.fstat(self._file.fileno()).st_ino != status.st_ino:
                self.close()
                self._file, self._rest = self._path.open("rb"), b""
        except FileNotFoundError:
            return
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
                known = isinstance(event, dict) and isinstance(event.get("kind"), str)
            except (ValueError, RecursionError):
                known = False
            if not known:
                raise InputError(f"{self._path} holds a line that no run wrote: choose another --output")
            yield event

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Progress:
    """The state of the current run.  ``done``: the results of the runs before it."""

    def __init__(self, task: Task, title: str, runs: int, done: Sequence[Mapping[str, Any]]) -> None:
        self.task, self.title, self.runs, self.done = task, title, runs, done
        self._begin(epochs=0)

    def _begin(self, epochs: int) -> None:
        self.epoch, self.epochs, self.step, self.steps = 0, epochs, 0, 0
        self.rate = 0.0
        self.evaluating = False
        self.evaluations: list[Mapping[str, Any]] = []
        self._recent: deque[Mapping[str, Any]] = deque(maxlen=_RECENT)

    def take(self, event: Mapping[str, Any]) -> None:
        kind = event["kind"]
        if kind == "start":
            self._begin(event["epochs"])
        elif kind == "epoch":
            self.epoch, self.steps, self.step = event["epoch"], event["steps"], 0
        elif kind == "step":
            self.step += 1
            self.rate = event["rate"]
            self._recent.append(event)
        elif kind == "evaluation":
            self.evaluating = True
        elif kind == "accuracy":
            self.evaluating = False
            self.evaluations.append(event)

    @property
    def loss(self) -> float:
        return float(sum(step["loss"] for step in self._recent)) / max(len(self._recent), 1)

    @property
    def images_per_s(self) -> float:
        took_s = float(sum(step["took_s"] for step in self._recent))
        return sum(int(step["images"]) for step in self._recent) / took_s if took_s else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds to the target, extrapolated from this run's accuracy, else from earlier runs; None if unknown."""
        if not self.evaluations:
            return None
        last = self.evaluations[-1]
        left = epochs_to_target(self.evaluations, self.task.targets)
        converged = [run["epochs"] for run in self.done if run["converged"]]
        if left is None and converged:
            left = max(sum(converged) / len(converged) - last["epoch"], 1.0)
        if left is None:
            return None
        begun = self.step / self.steps if self.epoch > last["epoch"] and self.steps else 0.0
        return max(math.ceil(left) - begun, 0.0) * float(last["since_start_s"]) / float(last["epoch"])

    def line(self) -> str:
        """The last evaluation on one line, for output that is not a terminal."""
        last = self.evaluations[-1]
        accuracy = "  ".join(f"{name} {last[name]:.3f}" for name in self.task.targets)
        return (
            f"run {len(self.done) + 1}/{self.runs}  epoch {last['epoch']:>2}  {last['since_start_s']:6.1f} s  "
            f"loss {self.loss:.3f}  {self.images_per_s:.1f} images/s  {accuracy}"
        )

    def __rich__(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", width=10)
        for run in self.done:
            verdict = "reached" if run["converged"] else "not reached"
            grid.add_row(f"seed {run['seed']}", f"{verdict} in {run['epochs']} epochs, {run['official_s']:.1f} s")
        share = self.step / self.steps if self.steps else 0.0
        eta = self.eta_s
        activity = "evaluating" if self.evaluating else f"step {self.step} of {self.steps}"
        grid.add_row("epoch", f"{self.epoch} of at most {self.epochs}, {activity}")
        grid.add_row("", ProgressBar(total=1.0, completed=share, width=50))
        grid.add_row("loss", f"{self.loss:.4f}    lr {self.rate:.5f}    {self.images_per_s:.1f} images/s")
        grid.add_row("target in", "-" if eta is None else f"about {eta:.0f} s")
        for name, target in self.task.targets.items():
            grid.add_row(f"{name} {self.task.metric}", curve([at[name] for at in self.evaluations], target))
        return Group(Text(f"{self.title}: run {len(self.done) + 1} of {self.runs}", style="bold"), grid)


def epochs_to_target(evaluations: Sequence[Mapping[str, Any]], targets: Mapping[str, float]) -> float | None:
    """Extrapolate the line through the last two evaluations.  None with fewer than two, or if it does not rise."""
    if len(evaluations) < 2:
        return None
    before, last = evaluations[-2], evaluations[-1]
    left = 0.0
    for name, target in targets.items():
        missing, rise = target - last[name], last[name] - before[name]
        if missing <= 0:
            continue
        if rise <= 0:
            return None
        left = max(left, missing / rise * (last["epoch"] - before["epoch"]))
    return left


def curve(values: Sequence[float], target: float) -> Text:
    """One bar per epoch, full at the target, then the last value and the target."""
    text = Text()
    for value in values:
        reached = value >= target
        level = len(_BARS) - 1 if reached else int(value / target * (len(_BARS) - 1))
        text.append(_BARS[level], "green" if reached else "cyan")
    if values:
        text.append(f"  {values[-1]:.3f} of {target}")
    return text
