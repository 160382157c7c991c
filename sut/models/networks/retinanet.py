"""MLPerf's RetinaNet, on a ResNeXt-50 32x4d with a feature pyramid: 800 pixels, 264 classes.

Parameters have torchvision's names.  37,060,652 of them are trained: the trunk's batch norms are frozen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from drumfire.sut.models.networks.detection import Candidates, best, rows
from drumfire.sut.models.networks.resnet import Trunk

_SIZES = tuple((size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))) for size in (32, 64, 128, 256, 512))
"""The anchors' sizes of each level, pixels a side."""
_RATIOS = (0.5, 1.0, 2.0)
"""Height to width."""
_PER_CELL = len(_SIZES[0]) * len(_RATIOS)
_MOST_GROWTH = math.log(1000 / 16)
_CHANNELS = 256
_BEST_OF_LEVEL = 1000


class RetinaNet(nn.Module):
    """(n, 3, side, side) of 0..1 to 1000 candidates from each of five levels; boxes in pixels, labels 0..classes-1."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, classes: int = 264, side: int = 800) -> None:
        super().__init__()
        self.side, self.classes = side, classes
        self.backbone = _Backbone()
        self.head = nn.ModuleDict(
            {
                "classification_head": _Head("cls_logits", _PER_CELL * classes),
                "regression_head": _Head("bbox_reg", _PER_CELL * 4),
            }
        )
        scores = self.head["classification_head"].cls_logits
        nn.init.constant_(scores.bias, -math.log(99))  # a score of 0.01
        nn.init.normal_(scores.weight, std=0.16)  # so that random weights, too, detect something in most pictures
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("deviation", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        cells = side // 8
        for level, sizes in enumerate(_SIZES):
            self.register_buffer(f"anchors{level}", _anchors(side, cells, sizes), persistent=False)
            cells = math.ceil(cells / 2)

    def forward(self, images: Tensor) -> Candidates:
        levels = self.backbone((images - self.mean) / self.deviation)
        found = []
        for level, features in enumerate(levels):
            scores = rows(self.head["classification_head"](features), self.classes).sigmoid()
            offsets = rows(self.head["regression_head"](features), 4)
            anchors: Tensor = getattr(self, f"anchors{level}")
            boxes = _moved(offsets, anchors).clamp(0, self.side)
            found.append(best(boxes, scores, min(_BEST_OF_LEVEL, scores.shape[1] * self.classes), 0))
        boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        return boxes, scores, labels


class _Backbone(nn.Module):
    """The trunk and the pyramid above it: features of 256 channels at strides 8, 16, 32, 64 and 128."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Trunk((3, 4, 6, 3), groups=32, group_width=4)
        self.fpn = _Pyramid((512, 1024, 2048))
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.fpn(self.body(images))
        return levels


class _Pyramid(nn.Module):
    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(before, _CHANNELS, 1)) for before in channels)
        self.layer_blocks = nn.ModuleList(nn.Sequential(_convolution()) for _ in channels)
        self.extra_blocks = nn.ModuleDict({"p6": _convolution(2), "p7": _convolution(2)})

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        above = self.inner_blocks[-1](features[-1])
        levels = [self.layer_blocks[-1](above)]
        for at in range(len(features) - 2, -1, -1):
            side = self.inner_blocks[at](features[at])
            above = side + functional.interpolate(above, size=side.shape[-2:], mode="nearest")
            levels.insert(0, self.layer_blocks[at](above))
        sixth = self.extra_blocks["p6"](levels[-1])
        return [*levels, sixth, self.extra_blocks["p7"](torch.relu(sixth))]


class _Head(nn.Module):
    """Four convolutions, then the one called ``name``."""

    def __init__(self, name: str, outputs: int) -> None:
        super().__init__()
        self.name = name
        self.conv = nn.Sequential(*(nn.Sequential(_convolution(), nn.ReLU()) for _ in range(4)))
        self.add_module(name, nn.Conv2d(_CHANNELS, outputs, 3, padding=1))

    def forward(self, features: Tensor) -> Tensor:
        raw: Tensor = getattr(self, self.name)(self.conv(features))
        return raw


def _convolution(stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(_CHANNELS, _CHANNELS, 3, stride, padding=1)


def _anchors(side: int, cells: int, sizes: tuple[int, ...]) -> Tensor:
    """x1, y1, x2, y2 in pixels, cell by cell.  As in torchvision, shapes are rounded and cells rounded down."""
    tall = torch.tensor(_RATIOS).sqrt()
    lengths = torch.tensor(sizes, dtype=torch.float32)
    widths, heights = ((1 / tall)[:, None] * lengths).reshape(-1), (tall[:, None] * lengths).reshape(-1)
    shapes = (torch.stack((-widths, -heights, widths, heights), dim=1) / 2).round()
    places = torch.arange(cells, dtype=torch.float32) * (side // cells)
    y, x = torch.meshgrid(places, places, indexing="ij")
    corners = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
    return (corners + shapes).reshape(-1, 4)


def _moved(offsets: Tensor, anchors: Tensor) -> Tensor:
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + 0.5 * size + offsets[..., :2] * size
    half = 0.5 * torch.exp(offsets[..., 2:].clamp(max=_MOST_GROWTH)) * size
    return torch.cat((centre - half, centre + half), dim=-1)
