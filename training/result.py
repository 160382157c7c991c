"""The result of one run: its figures and its environment.  Rank 0 writes it, and only as a whole."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from drumfire.loadgen import environment
from drumfire.loadgen.errors import UserError, printable
from drumfire.loadgen.files import in_one_step, read_json
from drumfire.training import operators
from drumfire.training.clock import now_ms
from drumfire.training.faults import InputError
from drumfire.training.hyperparameters import Hyperparameters
from drumfire.training.ranks import Ranks
from drumfire.training.train import NUMBERS, Outcome, Plan

RESULT = "result.json"
NOTE = "MLPerf-style, not an MLPerf result"
_DISTRIBUTIONS = ("torch", "torchvision", "faster-coco-eval", "numpy")


def document(plan: Plan, ranks: Ranks, used: Hyperparameters, outcome: Outcome) -> dict[str, Any]:
    """The result, ready for JSON.  Durations in seconds."""
    clock = outcome.clock
    rate = clock.images / clock.train_s if clock.train_s else 0.0
    return {
        "note": NOTE,
        "task": plan.task.name,
        "seed": plan.seed,
        "converged": outcome.converged,
        "reason": outcome.reason,
        "target": plan.task.targets,
        "epochs": outcome.epochs,
        "evaluations": outcome.evaluations,
        "official_s": clock.official_s,
        "wall_s": (now_ms() - clock.process_start_ms) / 1000,
        "training_s": clock.train_s,
        "data_wait_s": clock.data_wait_s,
        "evaluation_s": clock.evaluation_s,
        "lost_s": clock.lost_s,
        "resumptions": clock.resumptions,
        "images": clock.images,
        "images_per_s": rate,
        "images_per_s_per_rank": rate / ranks.world,
        "ranks": ranks.world,
        "hyperparameters": asdict(used) | {"accumulation": plan.accumulation, "precision": plan.precision},
        "environment": _environment(ranks),
    }


def load(path: Path) -> dict[str, Any]:
    """The result of a run that ``save`` wrote.  ``InputError`` if it is damaged, or another program's."""
    document = read(path, _DOCUMENT)
    needed = {"epoch", "since_start_s", *document["target"]}
    if not all(needed <= one.keys() for one in document["evaluations"]):
        lacking = f"{path} has an evaluation without one of {', '.join(sorted(needed))}"
        raise InputError(f"{printable(lacking)}: remove it, or choose another --output")
    return document


def read(path: Path, schema: Mapping[str, Any]) -> dict[str, Any]:
    """JSON with all the schema's properties, of their types.  ``InputError`` if it holds anything else."""
    try:
        found: dict[str, Any] = read_json(path, {"type": "object", **schema}, whole=True)
    except UserError as error:
        raise InputError(f"{error}; remove it, or choose another --output") from None
    return found


_NUMBER: Mapping[str, Any] = {"type": "number"}
_DOCUMENT: Mapping[str, Any] = {
    "properties": {
        "seed": {"type": "integer"},
        "converged": {"type": "boolean"},
        "epochs": {"type": "integer"},
        "target": NUMBERS,
        "evaluations": {"type": "array", "items": NUMBERS},
        **dict.fromkeys(("official_s", "wall_s", "training_s", "evaluation_s", "images", "images_per_s"), _NUMBER),
        "environment": {
            "type": "object",
            "properties": {"versions": {"type": "object", "additionalProperties": {"type": "string"}}},
        },
    }
}
"""What a benchmark reads of it."""


def save(document: dict[str, Any], path: Path) -> None:
    """Write JSON, as a whole or not at all.  Raises ``OSError``."""
    with in_one_step(path) as file:
        file.write((json.dumps(document, indent=2, allow_nan=False) + "\n").encode())


def _environment(ranks: Ranks) -> dict[str, Any]:
    on_gpu = ranks.device.type == "cuda"
    hosts = len(set(ranks.hosts))
    cpu = environment.cpu_model() or platform.machine()
    return {
        "hosts": hosts,
        "gpus_per_host": ranks.world // hosts if on_gpu else 0,
        "cpu": cpu,
        "device": torch.cuda.get_device_name(ranks.device) if on_gpu else cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": environment.versions(_DISTRIBUTIONS),
        "compiled_operators": operators.COMPILED,
    }
