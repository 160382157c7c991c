"""Single-shot detectors on a MobileNet and on a ResNet-34, laid out as TensorFlow's and MLPerf's own models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from drumfire.sut.models.networks import mobilenet
from drumfire.sut.models.networks.detection import Candidates, around_centres, best, rows
from drumfire.sut.models.networks.resnet import Block

_VARIANCES = 0.1, 0.2


class SsdMobileNet(nn.Module):
    """MobileNet v1 with six feature maps.  At 300 pixels: 19, 10, 5, 3, 2 and 1 cells a side, 1917 priors.

    uint8 (n, side, side, 3) to candidates whose boxes are fractions of the picture.  Each class has a sigmoid of its
    own; class 0 is the background, and labels are the classes' numbers.
    """

    _EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 128))
    """Channels within and after each layer behind the trunk."""
    priors: Tensor

    def __init__(
        self,
        classes: int,
        side: int = 300,
        width: float = 1.0,
        taken: Sequence[int] = (12, 14),
        extras: int = 4,
        scales: tuple[float, float] = (0.2, 0.95),
        candidates: int = 500,
    ) -> None:
        """``classes`` counts the background; ``width`` scales all channels.

        ``taken`` numbers the trunk's layers whose outputs are feature maps; the trunk ends with the last of them.  Each
        of ``extras`` further layers gives another map.  ``scales`` are the sizes of the priors of the first and the
        last map, as fractions of the picture.
        """
        super().__init__()
        self.classes, self.candidates = classes, candidates
        layers = list(mobilenet.features(width))
        self.trunk = nn.ModuleList(
            nn.Sequential(*layers[first:last]) for first, last in zip((0, *taken[:-1]), taken, strict=True)
        )
        outputs = [round(mobilenet.LAYERS[last - 2][0] * width) for last in taken]
        self.extras = nn.ModuleList()
        for inner, after in ((round(a * width), round(b * width)) for a, b in self._EXTRAS[:extras]):
            shrink = mobilenet.Convolution(outputs[-1], inner, 1)
            self.extras.append(nn.Sequential(shrink, mobilenet.Convolution(inner, after, 3, 2)))
            outputs.append(after)
        per_cell = [3, *[6] * (len(outputs) - 1)]
        self.places = nn.ModuleList(nn.Conv2d(c, n * 4, 1) for c, n in zip(outputs, per_cell, strict=True))
        self.kinds = nn.ModuleList(nn.Conv2d(c, n * classes, 1) for c, n in zip(outputs, per_cell, strict=True))
        for kind in self.kinds:
            nn.init.constant_(kind.bias, -math.log(99))  # a score of 0.01: most boxes show nothing
        strides = [2 * math.prod(stride for _, stride in mobilenet.LAYERS[: last - 1]) for last in taken]
        cells = [math.ceil(side / stride) for stride in strides]
        for _ in range(extras):
            cells.append(math.ceil(cells[-1] / 2))
        self.register_buffer("priors", _mobilenet_priors(cells, *scales), persistent=False)

    def forward(self, images: Tensor) -> Candidates:
        offsets, logits = self.raw(images)
        scores = logits[..., 1:].sigmoid()
        return best(around_centres(offsets, self.priors, _VARIANCES).clamp(0, 1), scores, self.candidates, 1)

    def raw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (n, priors, 4) and logits (n, priors, classes), to train on."""
        x = images.permute(0, 3, 1, 2).float() * (2 / 255) - 1
        maps = []
        for layers in (*self.trunk, *self.extras):
            x = layers(x)
            maps.append(x)
        offsets = [rows(head(features), 4) for head, features in zip(self.places, maps, strict=True)]
        logits = [rows(head(features), self.classes) for head, features in zip(self.kinds, maps, strict=True)]
        return torch.cat(offsets, dim=1), torch.cat(logits, dim=1)


class SsdResNet34(nn.Module):
    """ResNet-34 up to its third stage, which keeps an eighth of the resolution; heads of stride 3.

    At 1200 pixels: 50, 25, 13, 7, 3 and 3 cells a side, 15130 priors.  (n, 3, 1200, 1200), standardised, to candidates
    whose boxes are fractions of the picture; labels 1..80, from a softmax with a background class.
    """

    SIDE, CELLS = 1200, (50, 25, 13, 7, 3, 3)
    _PER_CELL = (4, 6, 6, 6, 4, 4)
    _CHANNELS = (256, 512, 512, 256, 256, 256)
    priors: Tensor

    def __init__(self, classes: int = 81, candidates: int = 1000) -> None:
        super().__init__()
        self.classes, self.candidates = classes, candidates
        stages: list[nn.Module] = [
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        ]
        before = 64
        for depth, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 1)):
            for at in range(depth):
                stages.append(Block(before, width, 1 if at else stride))
                before = width
        self.trunk = nn.Sequential(*stages)
        inner, strides, paddings = (256, 256, 128, 128, 128), (2, 2, 2, 2, 1), (1, 1, 1, 0, 0)
        self.additional_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 1), nn.ReLU(), nn.Conv2d(b, c, 3, stride, padding), nn.ReLU())
            for a, b, c, stride, padding in zip(
                self._CHANNELS[:-1], inner, self._CHANNELS[1:], strides, paddings, strict=True
            )
        )
        heads = list(zip(self._CHANNELS, self._PER_CELL, strict=True))
        self.loc = nn.ModuleList(nn.Conv2d(c, n * 4, 3, stride=3, padding=1) for c, n in heads)
        self.conf = nn.ModuleList(nn.Conv2d(c, n * classes, 3, stride=3, padding=1) for c, n in heads)
        self.register_buffer("priors", _resnet34_priors(self.SIDE, self.CELLS), persistent=False)

    def forward(self, images: Tensor) -> Candidates:
        maps = [self.trunk(images)]
        for block in self.additional_blocks:
            maps.append(block(maps[-1]))
        # The prior's number within a cell comes before the cell: the order of the published weights.
        offsets, logits = (
            torch.cat([_columns(head(one), width) for head, one in zip(heads, maps, strict=True)], dim=2)
            for heads, width in ((self.loc, 4), (self.conf, self.classes))
        )
        scores = logits.softmax(dim=1)[:, 1:].transpose(1, 2)
        boxes = around_centres(offsets.transpose(1, 2), self.priors, _VARIANCES)
        return best(boxes, scores, self.candidates, 1)


def _columns(raw: Tensor, width: int) -> Tensor:
    """(n, width * priors in a cell, h, w) to (n, width, priors in a cell * h * w)."""
    return raw.flatten(2).reshape(raw.shape[0], width, -1)


def _mobilenet_priors(cells: Sequence[int], smallest: float, largest: float) -> Tensor:
    """Centre x, y, width and height of each prior, cell by cell, as fractions.  ``cells``: of each map, a side.

    Scales rise evenly from ``smallest`` to ``largest``; the first map has three special priors.
    """
    steps = len(cells) - 1
    scales = [smallest + (largest - smallest) * at / steps for at in range(len(cells))] + [1.0]
    priors = []
    for at, count in enumerate(cells):
        if at == 0:
            shapes = [(smallest / 2, 1.0), (smallest, 2.0), (smallest, 0.5)]
        else:
            shapes = [(scales[at], ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3)]
            shapes.append((math.sqrt(scales[at] * scales[at + 1]), 1.0))
        sizes = [(scale * math.sqrt(ratio), scale / math.sqrt(ratio)) for scale, ratio in shapes]
        for row in range(count):
            for column in range(count):
                priors += [((column + 0.5) / count, (row + 0.5) / count, *size) for size in sizes]
    return torch.tensor(priors)


def _resnet34_priors(side: int, cells: Sequence[int]) -> Tensor:
    """Centre x, y, width and height of each prior, as fractions cut to 0..1; within a map ordered by shape first."""
    scales = [int(scale * side / 300) / side for scale in (21, 45, 99, 153, 207, 261, 315)]
    ratios: tuple[Sequence[int], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    priors = []
    for at, count in enumerate(cells):
        step = int(side / count)
        sizes = [(scales[at], scales[at]), (math.sqrt(scales[at] * scales[at + 1]),) * 2]
        for ratio in ratios[at]:
            wide, narrow = scales[at] * math.sqrt(ratio), scales[at] / math.sqrt(ratio)
            sizes += [(wide, narrow), (narrow, wide)]
        places = [(number + 0.5) * step / side for number in range(count)]
        priors += [(x, y, *size) for size in sizes for y in places for x in places]
    return torch.tensor(priors).clamp(0, 1)
