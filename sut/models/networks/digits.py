"""The network of the digits that come with the package."""

from __future__ import annotations

from torch import nn


def network() -> nn.Sequential:
    """A small MobileNet: a convolution, then four depthwise-separable ones; 18,826 parameters.

    (n, 1, 8, 8) to logits (n, 10).
    """
    return nn.Sequential(
        *_convolution(1, 16, 3),
        *_separable(16, 32),
        *_separable(32, 64, stride=2),
        *_separable(64, 64),
        *_separable(64, 128, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def _separable(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return _convolution(inputs, inputs, 3, stride, groups=inputs) + _convolution(inputs, outputs, 1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU6()]
