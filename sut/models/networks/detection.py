"""What one-shot detectors share: from offsets to boxes, and from all boxes to the best candidates.

All shapes are fixed and boxes are not suppressed here, so that any runtime can run the graph, in batches; see
``drumfire.sut.models.boxes`` for the suppression that follows.
"""

from __future__ import annotations

import torch
from torch import Tensor

Candidates = tuple[Tensor, Tensor, Tensor]
"""Boxes x1, y1, x2, y2 of shape (n, k, 4), scores (n, k) and labels (n, k)."""


def around_centres(offsets: Tensor, priors: Tensor, variances: tuple[float, float]) -> Tensor:
    """SSD's boxes: ``offsets`` (n, a, 4) as x, y, width, height relative to ``priors`` (a, 4), centre and size."""
    centre = priors[:, :2] + offsets[..., :2] * variances[0] * priors[:, 2:]
    half = priors[:, 2:] * torch.exp(offsets[..., 2:] * variances[1]) / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def rows(raw: Tensor, width: int) -> Tensor:
    """(n, boxes in a cell * width, h, w) to (n, h * w * boxes in a cell, width)."""
    return raw.permute(0, 2, 3, 1).reshape(raw.shape[0], -1, width)


def best(boxes: Tensor, scores: Tensor, count: int, first_label: int) -> Candidates:
    """The ``count`` best pairs of a box and a class.  ``boxes`` (n, a, 4); ``scores`` (n, a, classes)."""
    classes = scores.shape[-1]
    found, at = scores.flatten(1).topk(count)
    place = torch.div(at, classes, rounding_mode="floor")
    chosen = boxes.gather(1, place[..., None].expand(-1, -1, 4))
    return chosen, found, at - place * classes + first_label
