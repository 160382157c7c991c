"""The hyperparameters of Mask R-CNN by global batch size, and the learning rate of each iteration.

A batch size with a reference convergence point has that point's values; other sizes follow the same rules.  Pure
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
"""The learning rate of 16 images.  Larger batches have integer multiples of it, smaller ones integer fractions."""
_UNIT_IMAGES = 16
_DECAY_AT = (60_000, 80_000)
"""In iterations of 16 images."""


@dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters of a run.  Steps are iterations of ``global_batch_size`` images."""

    global_batch_size: int
    base_learning_rate: float
    warmup_steps: int
    warmup_factor: float
    """The rate is lower than the base by this amount for each remaining step of the warm-up."""
    decay_steps: tuple[int, int]
    image_candidates: int
    """Region proposals kept in training for all images of one rank together."""

    def learning_rate(self, iteration: int) -> float:
        """The rate of an iteration, counted from 0.  At least 0, although some warm-ups of the table start below."""
        left = max(self.warmup_steps - iteration, 0)
        rate = max(self.base_learning_rate - left * self.warmup_factor, 0.0)
        return rate * DECAY_FACTOR ** sum(iteration >= step for step in self.decay_steps)


@dataclass(frozen=True)
class _Point:
    """One known batch size.  ``stretch`` is the rules' K: the 1x schedule's decay steps times (1 + K / 10)."""

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


def of_batch(global_batch_size: int, images_per_rank: int) -> Hyperparameters:
    """The hyperparameters of a global batch of which each rank processes ``images_per_rank`` at a time."""
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
    """The rate by linear scaling, rounded down to what the rules allow; the rest from the next smaller known size."""
    near = _POINTS[max((size for size in _POINTS if size <= images), default=min(_POINTS))]
    rate = _UNIT * (images // _UNIT_IMAGES) if images >= _UNIT_IMAGES else _UNIT / math.ceil(_UNIT_IMAGES / images)
    # Beyond the largest rate that is known to converge, scaling is no longer linear.
    rate = min(rate, max(point.rate for point in _POINTS.values()))
    return _Point(rate, near.stretch, near.warmup_steps, rate / near.warmup_steps, None)


def _decay_steps(images: int, stretch: int) -> tuple[int, int]:
    first, second = (step * (10 + stretch) * _UNIT_IMAGES // (10 * images) for step in _DECAY_AT)
    return first, second
