"""Residual networks: ResNet-50 v1.5, and what detectors use of ResNeXt-50 and ResNet-34.

Parameters have torchvision's names, so that published state dicts fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_BRANCH = 0.3
"""The initial scale of a branch: without it, sums of random branches would grow with each block."""


class Block(nn.Module):
    """Two 3x3 convolutions, to whose output the input is added."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _convolution(before, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        nn.init.constant_(self.bn2.weight, _BRANCH)
        self.downsample = _downsample(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1.  The 3x3 has the stride: that is what v1.5 means."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int = 1, groups: int = 1, group_width: int = 64) -> None:
        super().__init__()
        inner = width * group_width // 64 * groups
        after = width * self.expansion
        self.conv1 = _convolution(before, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _convolution(inner, inner, 3, stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _convolution(inner, after, 1)
        self.bn3 = nn.BatchNorm2d(after)
        nn.init.constant_(self.bn3.weight, _BRANCH)
        self.downsample = _downsample(before, after, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        return torch.relu(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))


class Trunk(nn.Module):
    """A network of bottlenecks without its classifier.  Gives the outputs of ``layer2``, ``layer3`` and ``layer4``."""

    def __init__(self, depths: Sequence[int], groups: int = 1, group_width: int = 64) -> None:
        super().__init__()
        self.conv1 = _convolution(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before = 64
        for number, depth in enumerate(depths):
            width, blocks = 64 << number, []
            for at in range(depth):
                stride = 2 if number and not at else 1
                blocks.append(Bottleneck(before, width, stride, groups, group_width))
                before = width * Bottleneck.expansion
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))

    def forward(self, images: Tensor) -> list[Tensor]:
        out = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        out = self.layer1(out)
        outputs = []
        for layer in (self.layer2, self.layer3, self.layer4):
            out = layer(out)
            outputs.append(out)
        return outputs


class ResNet50(Trunk):
    """ResNet-50 v1.5 for 1000 classes: 25,557,032 parameters.  (n, 3, 224, 224) to logits (n, classes)."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__((3, 4, 6, 3))
        self.fc = nn.Linear(2048, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(super().forward(images)[-1].mean(dim=(2, 3)))
        return logits


def _convolution(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)


def _downsample(before: int, after: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and before == after:
        return None
    return nn.Sequential(_convolution(before, after, 1, stride), nn.BatchNorm2d(after))
