"""What is particular to a benchmark: its data, model, hyperparameters, quality targets, and names in MLPerf's logs.

Each benchmark's file makes one ``Task``, and ``drumfire.training.tasks`` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drumfire.training.hyperparameters import Hyperparameters
from drumfire.training.vision import MaskRCNN

DATA = Path("runs/data")
"""The default place of the data sets, each in a folder with its task's name."""


@dataclass(frozen=True)
class Quality:
    """A figure of an evaluation, and the lowest value that reaches the target."""

    name: str
    target: float
    log_key: str
    """Its key in the log's ``eval_accuracy``."""


@dataclass(frozen=True)
class Task:
    """A benchmark.  A run reaches its target when one evaluation reaches all ``qualities``."""

    name: str
    benchmark: str
    """MLPerf's name for it, in logs and in a submission's folders."""
    rulesets: tuple[str, ...]
    """Rulesets of MLPerf's compliance checker that know the benchmark."""
    closed: bool
    """Whether the closed division accepts it."""
    data: str
    """The argument with which ``drumfire.training.prepare`` makes its data set."""
    weights: str | None
    """File name of the backbone's weights in the data folder; None: the backbone starts with random weights."""
    classes: int
    """Categories of the data set."""
    metric: str
    """What the qualities measure, as people read it."""
    qualities: tuple[Quality, ...]
    batch_size: int
    """Default, in images over all ranks."""
    epochs: int
    """Default upper limit."""
    hyperparameters: Callable[[int, int], Hyperparameters]
    """From the global batch size and the number of images that a rank processes at a time."""
    logged_hyperparameters: Callable[[Hyperparameters], Mapping[str, Any]]
    """What the log states beside seed, batch size and accumulation: values by log key, in the log's order."""
    build: Callable[[int, Path | None, Callable[[str], None]], MaskRCNN]
    """From the number of proposals kept per image, the file of the backbone's weights (None: random weights), and a
    function that receives the name of each tensor whose initialisation the rules want in the log."""

    @property
    def folder(self) -> Path:
        """Default folder of the data set."""
        return DATA / self.name

    @property
    def targets(self) -> dict[str, float]:
        """By the qualities' names."""
        return {quality.name: quality.target for quality in self.qualities}

    def reached(self, accuracy: Mapping[str, float]) -> bool:
        """Whether an evaluation, by the qualities' names, reaches every target."""
        return all(accuracy[quality.name] >= quality.target for quality in self.qualities)
