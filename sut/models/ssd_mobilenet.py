"""SSD-MobileNet v1 at 300 pixels on COCO, as in MLPerf until round v2.0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drumfire.sut.data import coco
from drumfire.sut.models.photo_detector import PhotoDetector
from drumfire.sut.models.weights.publication import Published

if TYPE_CHECKING:
    from torch import nn


class SsdMobileNet(PhotoDetector):
    """The network takes bytes and scales them; its labels are COCO's category ids, 1 to 90 with gaps."""

    name = "ssd-mobilenet"
    description = "SSD-MobileNet v1, 300x300 pixels, 90 classes: COCO 2017 validation set"
    quality_target = 0.99 * 0.22
    layout, total_count, performance_count = coco.COCO, coco.COCO.whole, 256
    published = (
        Published(
            "ssd_mobilenet_v1_coco_2018_01_28.onnx",
            "https://zenodo.org/record/4735652/files/ssd_mobilenet_v1_coco_2018_01_28.onnx",
            "MLPerf's ONNX file: mAP 0.23",
        ),
    )
    recipe = "coco-300"
    score_threshold, overlap, most = 0.0, 0.6, 100  # as in the published graph, which includes suppression

    def new_network(self) -> nn.Module:
        from drumfire.sut.models.networks import ssd

        return ssd.SsdMobileNet(classes=91)
