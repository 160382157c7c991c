"""The hyperparameters of Mask R-CNN by global batch size, and the learning rate of an iteration.

Sizes with a reference convergence point have that point's values; others follow the rules that these follow.  Pure
arithmetic.  Sources: MLPerf Training rules 3.1, closed division; the reference's 1x schedule; rcps_maskrcnn.json.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DECAY_FACTOR = 0.1
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
BIAS_RATE = 2.0
"""Biases learn at this multiple of the rate, without decay."""

_UNIT = 0.02
"""The learning rate of 16 images; rates are whole multiples of it, below 16 images whole fractions."""
_UNIT_IMAGES = 16
_DECAY_AT = (60_000, 80_000)
"""Iterations of 16 images."""


@dataclass(frozen=True)
class Hyperparameters:
    """What a run is trained with.  Steps are iterations of ``global_batch_size`` images."""

    global_batch_size: int
    base_learning_rate: float
    warmup_steps: int
    warmup_factor: float
    """What the rate is short of the base for each step that is left of the warm-up."""
    decay_steps: tuple[int, int]
    image_candidates: int
    """Region proposals kept for the images of one rank together, in training."""

    def learning_rate(self, iteration: int) -> float:
        """The rate of an iteration, counted from 0; never below 0, where the table's warm-up would begin there."""
        left = max(self.warmup_steps - iteration, 0)
        rate = max(self.base_learning_rate - left * self.warmup_factor, 0.0)
        return rate * DECAY_FACTOR ** sum(iteration >= step for step in self.decay_steps)


@dataclass(frozen=True)
class _Point:
    """One known size.  ``stretch``: the K of the rules, decay steps are (1 + K / 10) times the 1x schedule's."""

    rate: float
    stretch: int
    warmup_steps: int
    warmup_factor: float
    candidates: int | None


_POINTS = {
    # The reference's own two schedules: warm-up from a third of the rate.
    2: _Point(0.0025, 0, 500, 0.0025 * 2 / 3 / 500, None),
    16: _Point(0.02, 0, 500, 0.02 * 2 / 3 / 500, None),
    # Reference convergence points.
    8: _Point(0.01, 2, 500, 0.00002, 1000),
    48: _Point(0.06, 2, 800, 0.000096, 6000),
    64: _Point(0.08, 2, 800, 0.0001, 6000),
    96: _Point(0.12, 2, 625, 0.000192, 6000),
    128: _Point(0.16, 2, 625, 0.000256, 6000),
    256: _Point(0.24, 5, 1800, 0.000133, 6000),
    272: _Point(0.24, 5, 1800, 0.000133, 6000),
}

REFERENCE_POINTS = (8, 48, 64, 96, 128, 256, 272)


def of_batch(global_batch_size: int, images_per_rank: int) -> Hyperparameters:
    """The hyperparameters of a global batch of which each rank sees ``images_per_rank`` at a time."""
    point = _POINTS.get(global_batch_size) or _derived(global_batch_size)
    return Hyperparameters(
        global_batch_size=global_batch_size,
        base_learning_rate=point.rate,
        warmup_steps=point.warmup_steps,
        warmup_factor=point.warmup_factor,
        decay_steps=_decay_steps(global_batch_size, point.stretch),
        image_candidates=point.candidates or 1000 * images_per_rank,
    )


def _derived(images: int) -> _Point:
    """By linear scaling, down to what the rules allow; the rest from the next smaller known size."""
    near = _POINTS[max((size for size in _POINTS if size <= images), default=min(_POINTS))]
    rate = _UNIT * (images // _UNIT_IMAGES) if images >= _UNIT_IMAGES else _UNIT / math.ceil(_UNIT_IMAGES / images)
    # Beyond the largest rate that is known to converge, scaling is no longer linear.
    rate = min(rate, max(point.rate for point in _POINTS.values()))
    return _Point(rate, near.stretch, near.warmup_steps, rate / near.warmup_steps, None)


def _decay_steps(images: int, stretch: int) -> tuple[int, int]:
    first, second = (step * (10 + stretch) * _UNIT_IMAGES // (10 * images) for step in _DECAY_AT)
    return first, second
