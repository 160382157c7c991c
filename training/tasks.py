"""The two benchmarks: what each trains, on what, and for how long at most.  The training itself is one and the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drumfire.training import hyperparameters, maskrcnn, shapes
from drumfire.training.hyperparameters import Hyperparameters
from drumfire.training.vision import MaskRCNN


@dataclass(frozen=True)
class Task:
    """A benchmark.  ``build`` takes the proposals kept for an image, the backbone's weights, and whom to tell."""

    name: str
    classes: int
    image_sizes: tuple[int, int]
    hyperparameters: Callable[[int, int], Hyperparameters]
    """By global batch size and images that a rank sees at a time."""
    build: Callable[[int, Path | None, Callable[[str], None]], MaskRCNN]
    weights: str | None
    """The file of the backbone's weights in the data folder, if it needs any."""
    batch_size: int
    """By default."""
    epochs: int
    """At most, by default."""


TASKS = {
    task.name: task
    for task in (
        Task(
            "maskrcnn", maskrcnn.CLASSES, maskrcnn.IMAGE_SIZES, hyperparameters.of_batch, maskrcnn.build,
            maskrcnn.WEIGHTS, batch_size=8, epochs=20,
        ),
        Task(
            "shapes", shapes.CLASSES, shapes.IMAGE_SIZES, shapes.hyperparameters, shapes.build,
            None, batch_size=8, epochs=20,
        ),
    )
}  # fmt: skip
