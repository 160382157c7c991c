"""MobileNet v1 (1.0, 224) on ImageNet, as in MLPerf's first round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drumfire.sut.models.imagenet import ImageNetClassifier
from drumfire.sut.models.weights.publication import Published

if TYPE_CHECKING:
    from torch import nn


class MobileNet(ImageNetClassifier):
    """1001 classes, the first of which is the background."""

    name = "mobilenet"
    description = "MobileNet v1 1.0, 224x224 pixels, 1001 ImageNet classes: ILSVRC 2012 validation set"
    quality_target = 0.98 * 0.71676
    published = (
        Published(
            "mobilenet_v1_1.0_224.onnx",
            "https://zenodo.org/record/4735651/files/mobilenet_v1_1.0_224.onnx",
            "MLPerf's ONNX file: 71.676 %",
        ),
    )
    recipe = state_dict_recipe = "imagenet_mobilenet"

    def new_network(self) -> nn.Module:
        from drumfire.sut.models.networks import mobilenet

        return mobilenet.MobileNet()
