"""Scores detections: converts a model's outputs to COCO's form, and computes COCO's mean average precision (mAP).

The mAP is COCO's first figure: averaged over IoU 0.50 to 0.95, all areas, up to 100 detections per image.
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

_MASK_THRESHOLD = 0.5
"""A pixel with a higher probability belongs to the mask."""

Detection = dict[str, Any]
"""One detection in COCO's result form: image_id, category_id, score, bbox (x, y, width, height), segmentation."""


@dataclass(frozen=True)
class RankDetections:
    """The images that one rank evaluated, and what it detected in them."""

    images: list[int]
    detections: list[Detection]


def detections(
    picture_ids: Sequence[int], outputs: Sequence[Mapping[str, Tensor]], categories: Sequence[int]
) -> list[Detection]:
    """The outputs of torchvision's model in COCO's form.  ``categories``: COCO's ids of the labels 1, 2, …"""
    return [
        detection
        for picture_id, output in zip(picture_ids, outputs, strict=True)
        for detection in _of_picture(picture_id, output, categories)
    ]


def score(annotations: Path | Mapping[str, Any], of_ranks: Sequence[RankDetections]) -> dict[str, float]:
    """The mAP of ``box`` and ``mask`` over all ranks' detections.  An image that two ranks evaluated counts once."""
    seen: set[int] = set()
    detections: list[Detection] = []
    for rank in of_ranks:
        new = set(rank.images) - seen
        seen |= new
        detections.extend(detection for detection in rank.detections if detection["image_id"] in new)
    if not detections:
        return {"box": 0.0, "mask": 0.0}
    truth = COCO(annotations if isinstance(annotations, dict) else str(annotations))
    detected = truth.loadRes(detections)
    return {
        "box": _mean_average_precision(truth, detected, "bbox"),
        "mask": _mean_average_precision(truth, detected, "segm"),
    }


def _mean_average_precision(truth: Any, detected: Any, kind: str) -> float:
    evaluation = COCOeval_faster(truth, detected, kind, print_function=lambda *_: None)
    evaluation.run()
    return float(evaluation.stats[0])


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
