"""How good answers are: a model's outputs in COCO's form, and COCO's mean average precision of all ranks' together.

A mean average precision is COCO's first figure: over IoU .50 to .95, all areas, 100 detections an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as masks
from torch import Tensor

BOX_TARGET, MASK_TARGET = 0.377, 0.339
_MASK_THRESHOLD = 0.5

Detection = dict[str, Any]
"""One detection in COCO's result form: image_id, category_id, score, bbox (x, y, width, height), segmentation."""


@dataclass(frozen=True)
class Accuracy:
    """Mean average precision of boxes and of masks."""

    box: float
    mask: float

    @property
    def reached(self) -> bool:
        return self.box >= BOX_TARGET and self.mask >= MASK_TARGET


@dataclass(frozen=True)
class Answers:
    """What one rank found, and in which images it looked."""

    images: list[int]
    detections: list[Detection]


def detections(
    picture_ids: Sequence[int], outputs: Sequence[Mapping[str, Tensor]], categories: Sequence[int]
) -> list[Detection]:
    """What torchvision's model put out for pictures, in COCO's form.  ``categories``: by label, from 1."""
    return [
        detection
        for picture_id, output in zip(picture_ids, outputs, strict=True)
        for detection in _of_picture(picture_id, output, categories)
    ]


def score(annotations: Path | Mapping[str, Any], of_ranks: Sequence[Answers]) -> Accuracy:
    """The accuracy of all ranks' answers together.  An image that several ranks looked at counts once."""
    seen: set[int] = set()
    detections: list[Detection] = []
    for rank in of_ranks:
        new = set(rank.images) - seen
        seen |= new
        detections.extend(detection for detection in rank.detections if detection["image_id"] in new)
    if not detections:
        return Accuracy(0.0, 0.0)
    truth = COCO(annotations if isinstance(annotations, dict) else str(annotations))
    found = truth.loadRes(detections)
    box, mask = (_mean_average_precision(truth, found, kind) for kind in ("bbox", "segm"))
    return Accuracy(box, mask)


def _mean_average_precision(truth: Any, found: Any, kind: str) -> float:
    evaluation = COCOeval_faster(truth, found, kind, print_function=_silently)
    evaluation.run()
    return float(evaluation.stats[0])


def _silently(*_: object) -> None:
    pass


def _of_picture(image_id: int, output: Mapping[str, Tensor], categories: Sequence[int]) -> Iterable[Detection]:
    boxes = output["boxes"].float().cpu().numpy().astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    covered = (output["masks"][:, 0] > _MASK_THRESHOLD).to(torch.uint8).cpu().numpy()
    runs = masks.encode(np.asfortranarray(covered.transpose(1, 2, 0)))
    scores, labels = output["scores"].float().tolist(), output["labels"].tolist()
    for box, run, value, label in zip(boxes.tolist(), runs, scores, labels, strict=True):
        yield {
            "image_id": image_id,
            "category_id": categories[label - 1],
            "score": value,
            "bbox": box,
            "segmentation": {"size": run["size"], "counts": run["counts"].decode()},
        }
