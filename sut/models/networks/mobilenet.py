"""MobileNet v1 with TensorFlow's padding: an odd row or column of padding is at the bottom or the right."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Channels after each depthwise-separable layer, and its stride."""
_EPSILON = 1e-3


class Convolution(nn.Module):
    """A convolution with a batch norm and ReLU6; its output has ceil(size / stride) pixels, as TensorFlow's SAME."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv2d(before, after, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(after, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel > 1:
            top, bottom = self._padding(x.shape[-2])
            left, right = self._padding(x.shape[-1])
            x = functional.pad(x, (left, right, top, bottom))
        return functional.relu6(self.norm(self.conv(x)))

    def _padding(self, size: int) -> tuple[int, int]:
        """The padding before and after ``size`` pixels, in pixels."""
        whole = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
        return whole // 2, whole - whole // 2


class Separable(nn.Sequential):
    """A depthwise 3x3 and a pointwise convolution."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__(Convolution(before, before, 3, stride, groups=before), Convolution(before, after, 1))


def features(width: float = 1.0) -> nn.Sequential:
    """The fourteen layers; ``width`` scales all channels."""
    before = round(32 * width)
    layers: list[nn.Module] = [Convolution(3, before, 3, 2)]
    for channels, stride in LAYERS:
        after = round(channels * width)
        layers.append(Separable(before, after, stride))
        before = after
    return nn.Sequential(*layers)


class MobileNet(nn.Module):
    """MobileNet 1.0 for 224 pixels and 1001 classes, the first of which is the background: 4,233,001 parameters.

    (n, 3, 224, 224) to logits (n, classes).
    """

    def __init__(self, classes: int = 1001) -> None:
        super().__init__()
        self.features = features()
        self.classifier = nn.Linear(1024, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits
