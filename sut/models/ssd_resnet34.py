"""SSD-ResNet34 at 1200 pixels on COCO, as in MLPerf until round v2.0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from drumfire.sut.data import coco
from drumfire.sut.models.photo_detector import PhotoDetector
from drumfire.sut.models.weights.publication import Published

if TYPE_CHECKING:
    from torch import nn

_CATEGORY = np.array([0, *coco.COCO_CATEGORIES])


class SsdResNet34(PhotoDetector):
    """The network's labels are 1 to 80 without gaps; answers hold COCO's category ids instead."""

    name = "ssd-resnet34"
    description = "SSD-ResNet34, 1200x1200 pixels, 80 classes: COCO 2017 validation set"
    quality_target = 0.99 * 0.20
    layout, total_count, performance_count = coco.COCO, coco.COCO.whole, 64
    published = (
        Published(
            "resnet34-ssd1200.onnx",
            "https://zenodo.org/record/3228411/files/resnet34-ssd1200.onnx",
            "MLPerf's ONNX file, made from torch: mAP 0.20",
        ),
    )
    recipe = "coco-1200"
    score_threshold, overlap, most = 0.05, 0.5, 200

    def new_network(self) -> nn.Module:
        from drumfire.sut.models.networks import ssd

        return ssd.SsdResNet34()

    def categories(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See ``DetectionJudge.categories``.  Raises ``ValueError`` for a label outside 1..80."""
        if labels.size and not 1 <= labels.min() <= labels.max() < _CATEGORY.size:
            raise ValueError(f"a label outside 1..{_CATEGORY.size - 1}: are these {self.name}'s weights?")
        categories: npt.NDArray[Any] = _CATEGORY[labels]
        return categories
