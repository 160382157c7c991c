"""Greedy non-maximum suppression on the host, for the candidates that a network outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_BLOCK = 64
"""Candidates compared with each other at a time: their comparisons fit into a CPU's cache."""


def suppressed(boxes: Array, scores: Array, labels: Array, overlap: float, most: int) -> Array:
    """Indices of the boxes kept, best first, at most ``most``; no box overlaps a better one of the same label.

    ``boxes`` (n, 4) as x1, y1, x2, y2; ``scores`` and ``labels`` (n,).  Overlap is intersection over union, and boxes
    at ``overlap`` exactly are kept.  Boxes of equal score keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = boxes[order].astype(np.float32).T
    columns = np.stack((x1, y1, x2, y2, (x2 - x1) * (y2 - y1), labels[order].astype(np.float32)))
    kept = np.empty(0, np.intp)
    for first in range(0, order.size, _BLOCK):
        block = np.arange(first, min(first + _BLOCK, order.size))
        block = block[~_doubles(columns[:, kept], columns[:, block], overlap).any(axis=0)]
        doubles = np.triu(_doubles(columns[:, block], columns[:, block], overlap), 1)
        # A box is kept if no kept one before it overlaps it.  Each round settles at least one more box.
        keeps = ~doubles.any(axis=0)
        while not np.array_equal(keeps, again := ~doubles[keeps].any(axis=0)):
            keeps = again
        kept = np.concatenate((kept, block[keeps]))
        if kept.size >= most:
            break
    return order[kept[:most]]


def _doubles(ones: Array, others: Array, overlap: float) -> Array:
    """Whether boxes of the same label overlap by more than ``overlap``, shape (n, m).

    ``ones`` (6, n) and ``others`` (6, m): x1, y1, x2, y2, area and label.
    """
    x1, y1, x2, y2, area, label = ones[:, :, None]
    width = np.minimum(x2, others[2]) - np.maximum(x1, others[0])
    height = np.minimum(y2, others[3]) - np.maximum(y1, others[1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    doubles: Array = (shared > overlap * (area + others[4] - shared)) & (label == others[5])
    return doubles
