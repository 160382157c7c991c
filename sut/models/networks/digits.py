"""The network that reads digits: a small MobileNet."""

from __future__ import annotations

from torch import nn


def digits() -> nn.Sequential:
    """A convolution, then four depthwise-separable ones; 18,826 parameters.  (n, 1, 8, 8) to logits (n, 10)."""

    def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [layer, nn.BatchNorm2d(outputs), nn.ReLU6()]

    def separable(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        return conv(inputs, inputs, 3, stride, groups=inputs) + conv(inputs, outputs, 1)

    return nn.Sequential(
        *conv(1, 16, 3),
        *separable(16, 32),
        *separable(32, 64, stride=2),
        *separable(64, 64),
        *separable(64, 128, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
