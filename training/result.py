"""The result of one run: its figures, what they mean, and what it ran on.  Written whole, by rank 0."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from drumfire.training.clock import now_ms
from drumfire.training.evaluation import BOX_TARGET, MASK_TARGET
from drumfire.training.hyperparameters import Hyperparameters
from drumfire.training.ranks import Ranks
from drumfire.training.train import Outcome, Plan
from drumfire.training.vision import COMPILED_OPERATORS

RESULT = "result.json"


def document(plan: Plan, ranks: Ranks, found: Hyperparameters, outcome: Outcome) -> dict[str, Any]:
    """The result, ready for JSON.  Durations in seconds."""
    clock = outcome.clock
    rate = clock.images / clock.train_s if clock.train_s else 0.0
    return {
        "note": "MLPerf-style, not an MLPerf result",
        "task": plan.task.name,
        "seed": plan.seed,
        "converged": outcome.converged,
        "reason": outcome.reason,
        "target": {"box": BOX_TARGET, "mask": MASK_TARGET},
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
        "hyperparameters": asdict(found) | {"accumulation": plan.accumulation, "precision": plan.precision},
        "environment": _environment(ranks),
    }


def save(found: dict[str, Any], path: Path) -> None:
    """Whole or not at all.  Raises ``OSError``."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _environment(ranks: Ranks) -> dict[str, Any]:
    on_gpu = ranks.device.type == "cuda"
    hosts = len(set(ranks.hosts))
    return {
        "hosts": hosts,
        "gpus_per_host": ranks.world // hosts if on_gpu else 0,
        "cpu": _cpu(),
        "device": torch.cuda.get_device_name(ranks.device) if on_gpu else _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "torchvision", "faster-coco-eval", "numpy")},
        "compiled_operators": COMPILED_OPERATORS,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
