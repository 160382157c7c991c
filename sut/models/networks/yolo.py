"""YOLO11, a detector without anchors: a convolutional trunk with attention at its end, and a pyramid of three levels.

Written from the published architecture, of which sizes n and l are built here; parameters have names of our own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
"""Pixels a cell of each level."""
_BINS = 16
"""A box's side is this many cells from its cell's centre at most: the mean of a distribution over whole distances."""
_EPSILON = 1e-3
_BRANCH = 0.1
"""The initial scale of a branch: without it, sums of random branches would grow with each block."""


class Size(NamedTuple):
    """How large the network is."""

    repeats: int
    """Blocks of each stage."""
    width: float
    """Scales all channels."""
    most_channels: int
    """Before they are scaled."""
    deep: bool
    """Whether each block is one of several convolutions at all stages, or at the last ones only."""


N, L = Size(1, 0.25, 1024, deep=False), Size(2, 1.0, 512, deep=True)


class Yolo11(nn.Module):
    """(n, 3, h, w) of 0..1, with h and w multiples of 32, to (n, 4 + classes, a): all candidates, none left out.

    a: h * w / 64 of the first level, then a quarter of that each.  The first four rows are centre x, centre y, width
    and height in pixels, the others the classes' scores, 0..1.  Size l has 25,372,144 parameters, n 2,624,064.
    """

    def __init__(self, size: Size = L, classes: int = 80) -> None:
        super().__init__()
        c64, c128, c256, c512, c1024 = (
            math.ceil(min(channels, size.most_channels) * size.width / 8) * 8 for channels in (64, 128, 256, 512, 1024)
        )
        repeats, deep = size.repeats, size.deep
        self.shallow = nn.Sequential(
            Convolution(3, c64, 3, 2),
            Convolution(c64, c128, 3, 2),
            Stage(c128, c256, repeats, deep, inner=0.25),
            Convolution(c256, c256, 3, 2),
            Stage(c256, c512, repeats, deep, inner=0.25),
        )
        self.middle = nn.Sequential(Convolution(c512, c512, 3, 2), Stage(c512, c512, repeats, deep=True))
        self.deepest = nn.Sequential(
            Convolution(c512, c1024, 3, 2),
            Stage(c1024, c1024, repeats, deep=True),
            Pools(c1024),
            Attentive(c1024, repeats),
        )
        self.up_to_middle = Stage(c1024 + c512, c512, repeats, deep)
        self.up_to_shallow = Stage(c512 + c512, c256, repeats, deep)
        self.from_shallow = Convolution(c256, c256, 3, 2)
        self.down_to_middle = Stage(c256 + c512, c512, repeats, deep)
        self.from_middle = Convolution(c512, c512, 3, 2)
        self.down_to_deepest = Stage(c512 + c1024, c1024, repeats, deep=True)
        levels = (c256, c512, c1024)
        of_boxes, of_classes = max(c256 // 4, 4 * _BINS), max(c256, min(classes, 100))
        self.sides = nn.ModuleList(
            nn.Sequential(
                Convolution(channels, of_boxes, 3),
                Convolution(of_boxes, of_boxes, 3),
                nn.Conv2d(of_boxes, 4 * _BINS, 1),
            )
            for channels in levels
        )
        self.classes = nn.ModuleList(
            nn.Sequential(
                Convolution(channels, channels, 3, groups=channels),
                Convolution(channels, of_classes, 1),
                Convolution(of_classes, of_classes, 3, groups=of_classes),
                Convolution(of_classes, of_classes, 1),
                nn.Conv2d(of_classes, classes, 1),
            )
            for channels in levels
        )
        # So that random weights, too, find boxes of many sizes and classes, but not everywhere.
        for heads, deviation, bias in ((self.sides, 0.2, 0.0), (self.classes, 0.03, -9.8)):
            for head in heads:
                nn.init.normal_(head[-1].weight, std=deviation)
                nn.init.constant_(head[-1].bias, bias)
        self.register_buffer("distances", torch.arange(_BINS, dtype=torch.float32)[:, None], persistent=False)

    distances: Tensor

    def forward(self, images: Tensor) -> Tensor:
        found = []
        for features, sides, classes, stride in zip(
            self.features(images), self.sides, self.classes, STRIDES, strict=True
        ):
            height, width = features.shape[-2:]
            spread = sides(features).reshape(-1, 4, _BINS, height * width).softmax(dim=2)
            left, top, right, bottom = (spread * self.distances).sum(dim=2).unbind(dim=1)
            y = torch.arange(height, device=images.device).to(images.dtype)[:, None].expand(height, width).flatten()
            x = torch.arange(width, device=images.device).to(images.dtype)[None].expand(height, width).flatten()
            centre_x, centre_y = x + 0.5 + (right - left) / 2, y + 0.5 + (bottom - top) / 2
            boxes = torch.stack((centre_x, centre_y, left + right, top + bottom), dim=1) * stride
            found.append(torch.cat((boxes, classes(features).flatten(2).sigmoid()), dim=1))
        return torch.cat(found, dim=2)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Those of the three levels."""
        shallow = self.shallow(images)
        middle = self.middle(shallow)
        deepest = self.deepest(middle)
        middle = self.up_to_middle(torch.cat((_doubled(deepest), middle), dim=1))
        shallow = self.up_to_shallow(torch.cat((_doubled(middle), shallow), dim=1))
        middle = self.down_to_middle(torch.cat((self.from_shallow(shallow), middle), dim=1))
        deepest = self.down_to_deepest(torch.cat((self.from_middle(middle), deepest), dim=1))
        return shallow, middle, deepest


class Convolution(nn.Module):
    """A convolution with a batch norm and, unless it is ``linear``, SiLU."""

    def __init__(
        self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, *, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(after, eps=_EPSILON)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if self.linear else functional.silu(x)


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, to whose output the input is added."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(Convolution(channels, inner, 3), Convolution(inner, channels, 3))
        nn.init.constant_(self.layers[1].norm.weight, _BRANCH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class Deep(nn.Module):
    """Two bottlenecks beside a 1x1 convolution, joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.enter = Convolution(channels, inner, 1)
        self.beside = Convolution(channels, inner, 1)
        self.leave = Convolution(2 * inner, channels, 1)
        self.blocks = nn.Sequential(Bottleneck(inner, inner), Bottleneck(inner, inner))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.leave(torch.cat((self.blocks(self.enter(x)), self.beside(x)), dim=1))
        return out


class Stage(nn.Module):
    """Blocks in a row, on half of the channels; all their outputs go to the last convolution."""

    def __init__(self, before: int, after: int, repeats: int, deep: bool, inner: float = 0.5) -> None:
        super().__init__()
        self.channels = int(after * inner)
        self.enter = Convolution(before, 2 * self.channels, 1)
        self.leave = Convolution((2 + repeats) * self.channels, after, 1)
        self.blocks = nn.ModuleList(
            Deep(self.channels) if deep else Bottleneck(self.channels, self.channels // 2) for _ in range(repeats)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).split(self.channels, dim=1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        out: Tensor = self.leave(torch.cat(parts, dim=1))
        return out


class Pools(nn.Module):
    """The maxima over 5, 9 and 13 pixels beside the features themselves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter, self.leave = Convolution(channels, channels // 2, 1), Convolution(channels * 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], 5, 1, 2))
        out: Tensor = self.leave(torch.cat(parts, dim=1))
        return out


class Attentive(nn.Module):
    """Blocks of attention on half of the channels."""

    def __init__(self, channels: int, repeats: int) -> None:
        super().__init__()
        self.channels = channels // 2
        self.enter, self.leave = Convolution(channels, channels, 1), Convolution(channels, channels, 1)
        self.blocks = nn.Sequential(*(AttentionBlock(self.channels) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        beside, x = self.enter(x).split(self.channels, dim=1)
        out: Tensor = self.leave(torch.cat((beside, self.blocks(x)), dim=1))
        return out


class AttentionBlock(nn.Module):
    """Attention, then two 1x1 convolutions; the input of each is added to its output."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = Attention(channels)
        self.layers = nn.Sequential(
            Convolution(channels, 2 * channels, 1), Convolution(2 * channels, channels, 1, linear=True)
        )
        for last in (self.attention.leave, self.layers[1]):
            nn.init.constant_(last.norm.weight, _BRANCH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        out: Tensor = x + self.layers(x)
        return out


class Attention(nn.Module):
    """Of all pixels to all, in heads of 64 channels with keys of 32; a depthwise convolution tells places apart."""

    WIDTH = 64

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // self.WIDTH
        self.keys = self.WIDTH // 2
        self.enter = Convolution(channels, channels + 2 * self.keys * self.heads, 1, linear=True)
        self.leave = Convolution(channels, channels, 1, linear=True)
        self.places = Convolution(channels, channels, 3, groups=channels, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        parts = self.enter(x).reshape(-1, self.heads, 2 * self.keys + self.WIDTH, height * width)
        query, key, value = parts.split((self.keys, self.keys, self.WIDTH), dim=2)
        weights = (query.transpose(2, 3) @ key * self.keys**-0.5).softmax(dim=-1)
        seen = (value @ weights.transpose(2, 3)).reshape(-1, self.heads * self.WIDTH, height, width)
        out: Tensor = self.leave(seen + self.places(value.reshape(-1, self.heads * self.WIDTH, height, width)))
        return out


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
