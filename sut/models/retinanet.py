"""RetinaNet (ResNeXt-50 32x4d, FPN) at 800 pixels on MLPerf's subset of OpenImages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drumfire.sut.data import coco
from drumfire.sut.models.photo_detector import PhotoDetector
from drumfire.sut.models.weights.publication import Published

if TYPE_CHECKING:
    from torch import nn


class RetinaNet(PhotoDetector):
    """Boxes are in pixels, 0 to 800; labels are the data set's category ids, 0 to 263."""

    name = "retinanet"
    description = "RetinaNet ResNeXt50-32x4d-FPN, 800x800 pixels, 264 classes: OpenImages, MLPerf's subset"
    quality_target = 0.99 * 0.3755
    layout, total_count, performance_count = coco.OPENIMAGES, coco.OPENIMAGES.whole, 64
    published = (
        Published(
            "resnext50_32x4d_fpn.onnx",
            "https://zenodo.org/record/6617879/files/resnext50_32x4d_fpn.onnx",
            "MLPerf's ONNX file: mAP 0.3757; takes one picture at a time",
        ),
    )
    recipe = "openimages-800-retinanet"
    score_threshold, overlap, most = 0.05, 0.5, 300
    box_unit = 800.0

    def new_network(self) -> nn.Module:
        from drumfire.sut.models.networks import retinanet

        return retinanet.RetinaNet()
