"""The measures of training: images a second of a run and of the plain loop.

Both run as programs; does not import training.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drumfire.bench.peers.goal import Figure, both
from drumfire.bench.peers.process import Finished, run
from drumfire.bench.peers.rounds import Measure

PLAIN = "plain loop"
_SEED = "1"
_LEAST_STEPS = 3


@dataclass(frozen=True)
class Case:
    """What is trained, and on what."""

    task: str
    data: str
    """What ``drumfire.training.prepare`` is to make."""
    batch_size: int
    step_s: float
    """About how long a step takes, as the length of a run is set in seconds."""
    warmup: int
    """Steps that are not counted."""
    options: tuple[str, ...] = ()
    """Of the run alone."""
    precision: str = "fp32"

    def steps(self, seconds: float) -> int:
        """All steps of a run whose counted steps last about ``seconds``."""
        return self.warmup + max(round(seconds / self.step_s), _LEAST_STEPS)


def ours(case: Case, seconds: float) -> dict[str, float]:
    """Figures from the steps that a run recorded.  Raises ``MeasurementError``."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        _module(
            *("drumfire.training", case.task, "--data-dir", _prepared(case, folder), "--output", str(output)),
            *("--seed", _SEED, "--batch-size", str(case.batch_size)),
            *("--steps", str(case.steps(seconds)), "--precision", case.precision, *case.options),
        )
        events = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["kind"] == "step"][case.warmup :]
    images, took_s, cpu_s = (sum(step[name] for step in steps) for name in ("images", "took_s", "cpu_s"))
    return {
        "images_per_s": images / took_s,
        "images_per_cpu_s": images / cpu_s,
        "waiting": sum(step["waited_s"] for step in steps) / took_s,
        "slowest_step_s": max(step["took_s"] for step in steps),
    }


def plain(case: Case, seconds: float) -> dict[str, float]:
    """Figures of the plain loop.  Raises ``MeasurementError``."""
    with tempfile.TemporaryDirectory() as folder:
        ended = _module(
            *("drumfire.training.plain", case.task, "--data-dir", _prepared(case, folder), "--seed", _SEED),
            *("--batch-size", str(case.batch_size), "--warmup", str(case.warmup)),
            *("--steps", str(case.steps(seconds) - case.warmup), "--precision", case.precision),
        )
    return {name: float(ended.document[name]) for name in ("images_per_s", "images_per_cpu_s")}


def _prepared(case: Case, folder: str) -> str:
    data = f"{folder}/data"
    _module("drumfire.training.prepare", case.data, "--data-dir", data)
    return data


def _module(*arguments: str) -> Finished:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return run([sys.executable, "-m", *arguments], variables=environment, patience_s=1200)


def _measure(label: str, case: Case, *, once: bool = False) -> Measure:
    a_cpu_second = f"{label}: a CPU second of the computing process"
    figures = (
        both(label, "images_per_s", "images/s", more_is_better=True, goal_ratio=0.95),
        both(a_cpu_second, "images_per_cpu_s", "images", more_is_better=True, goal_ratio=0.95),
        Figure(f"{label}: share of time waiting for data", "waiting", "%", per_unit=0.01),
    )
    return Measure(case.task, figures, partial(ours, case), {PLAIN: partial(plain, case)}, once)


MEASURES: Sequence[Measure] = (
    _measure("shapes, 8 images of 96 px a step", Case("shapes", "shapes", 8, step_s=0.25, warmup=5)),
    _measure(
        "R50-FPN, 2 images of 800 px a step",
        Case("maskrcnn", "sample", 2, step_s=30, warmup=1, options=("--from-scratch", "--eval-batch-size", "1")),
        once=True,  # five minutes a round on a CPU
    ),
)
