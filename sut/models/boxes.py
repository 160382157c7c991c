"""Greedy non-maximum suppression on the host, for the few candidates that a network outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def suppressed(boxes: Array, scores: Array, labels: Array, overlap: float, most: int) -> Array:
    """Indices of the boxes kept, best first, at most ``most``; no box overlaps a better one of the same label.

    ``boxes`` (n, 4) as x1, y1, x2, y2; ``scores`` and ``labels`` (n,).  Overlap is intersection over union, and boxes
    at ``overlap`` exactly are kept.  Boxes of equal score keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = boxes[order].astype(np.float32).T
    area = (x2 - x1) * (y2 - y1)
    label = labels[order]
    left = np.arange(order.size)
    kept: list[int] = []
    while left.size and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(int(best))
        width = np.minimum(x2[best], x2[left]) - np.maximum(x1[best], x1[left])
        height = np.minimum(y2[best], y2[left]) - np.maximum(y1[best], y1[left])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        left = left[(label[left] != label[best]) | (shared <= overlap * (area[best] + area[left] - shared))]
    return order[kept]
