"""ResNet-50 v1.5 on ImageNet, as in MLPerf."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drumfire.sut.models.imagenet import ImageNetClassifier
from drumfire.sut.models.weights.publication import Published

if TYPE_CHECKING:
    from torch import nn


class ResNet50(ImageNetClassifier):
    """The published ONNX file gives class numbers with a background class; torchvision's network has no such class."""

    name = "resnet50"
    description = "ResNet-50 v1.5, 224x224 pixels, 1000 ImageNet classes: ILSVRC 2012 validation set"
    quality_target = 0.99 * 0.76456
    published = (
        Published(
            "resnet50_v1.onnx",
            "https://zenodo.org/record/4735647/files/resnet50_v1.onnx",
            "MLPerf's ONNX file: 76.456 %",
        ),
        Published(
            "resnet50-19c8e357.pth",
            "https://zenodo.org/record/4588417/files/resnet50-19c8e357.pth",
            "torchvision's state dict: 76.014 %",
        ),
    )
    recipe, state_dict_recipe = "imagenet", "imagenet_pytorch"

    def new_network(self) -> nn.Module:
        from drumfire.sut.models.networks import resnet

        return resnet.ResNet50()
