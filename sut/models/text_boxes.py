"""Boxes around the lines of text in a map of probabilities ("differentiable binarization"), and how good they are.

Boxes are upright: x1, y1, x2, y2 in pixels.  Does not depend on a network.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]

INK = 0.3
"""A pixel of at least this probability belongs to the core of a line.  This and the next four are PP-OCR's own."""
LEAST_SCORE = 0.5
"""Of a box: the mean probability in it."""
LEAST_SIDE = 3
GROWTH = 1.6
"""The network marks only the core of a line, which grows by area x GROWTH / perimeter on each side."""
MOST = 1000


def found(probability: Float32Array) -> Float32Array:
    """The boxes in a map of shape (height, width), with their scores: shape (n, 5), best first."""
    height, width = probability.shape
    cores = components(probability > INK)
    cores = cores[(cores[:, 2:] - cores[:, :2]).min(1, initial=width) >= LEAST_SIDE]
    scores = np.array([probability[y1:y2, x1:x2].mean() for x1, y1, x2, y2 in cores.tolist()], np.float32)
    sides = cores[:, 2:] - cores[:, :2]
    margin = (GROWTH * sides.prod(1) / (2 * sides.sum(1)))[:, None]
    grown = np.concatenate([cores[:, :2] - margin, cores[:, 2:] + margin], 1).clip(0, (width, height) * 2)
    order = np.argsort(-scores, kind="stable")[:MOST]
    boxes = np.concatenate([grown, scores[:, None]], 1)[order[scores[order] >= LEAST_SCORE]]
    return boxes.astype(np.float32)


def components(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The boxes around the parts of a mask (height, width) that hang together, also by corners: shape (n, 4).

    In the order of their first pixels.
    """
    height, width = mask.shape
    edges = np.zeros((height, width + 2), np.int8)
    edges[:, 1:-1] = mask
    steps = np.diff(edges, axis=1)
    rows, starts = np.nonzero(steps == 1)  # of the runs of pixels in each row
    ends = np.nonzero(steps == -1)[1]
    # A run touches those of the row above that end at its start or later, and start at its end or earlier.
    wide = width + 2
    above = (rows - 1) * wide
    first = np.searchsorted(rows * wide + ends, above + starts)
    last = np.searchsorted(rows * wide + starts, above + ends, side="right")
    touching = np.maximum(last - first, 0)
    lower = np.repeat(np.arange(rows.size), touching)
    upper = np.arange(lower.size) - np.repeat(np.cumsum(touching) - touching, touching) + first[lower]
    labels = _joined(rows.size, lower, upper)
    _, part = np.unique(labels, return_inverse=True)
    count = int(part.max(initial=-1)) + 1
    boxes = np.empty((count, 4), np.int64)
    boxes[:, :2], boxes[:, 2:] = max(height, width), 0
    for column, function, values in (
        (0, np.minimum, starts),
        (1, np.minimum, rows),
        (2, np.maximum, ends),
        (3, np.maximum, rows + 1),
    ):
        function.at(boxes[:, column], part, values)
    return boxes


def _joined(count: int, ones: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """For each of ``count`` items the least item that it is linked to, by the links ``ones[k]`` - ``others[k]``."""
    labels = np.arange(count)
    while True:
        low = np.minimum(labels[ones], labels[others])
        before = labels.copy()
        for side in (ones, others):
            np.minimum.at(labels, labels[side], low)
            np.minimum.at(labels, side, low)
        labels = labels[labels]
        if np.array_equal(labels, before):
            return labels


class Matches(NamedTuple):
    """How boxes match the true ones, summed over pages."""

    matched: int
    found: int
    true: int

    @property
    def precision(self) -> float:
        return self.matched / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.matched / self.true if self.true else 0.0

    @property
    def mean(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.matched / (self.found + self.true) if self.found + self.true else 0.0


def matched(boxes: Float32Array, true: Float32Array, overlap: float = 0.5) -> int:
    """How many boxes (n, 4), best first, have a true box (m, 4) of their own with this intersection over union."""
    corner = np.minimum(boxes[:, None, 2:], true[None, :, 2:]) - np.maximum(boxes[:, None, :2], true[None, :, :2])
    shared = corner.clip(0).prod(2)
    areas, true_areas = ((side[:, 2:] - side[:, :2]).prod(1) for side in (boxes, true))
    union = areas[:, None] + true_areas - shared
    ratio = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    count = 0
    for row in ratio:
        if row.size and row[best := int(row.argmax())] >= overlap:
            ratio[:, best] = 0
            count += 1
    return count
