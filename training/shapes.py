"""The small benchmark: maskrcnn with a model of 0.76 M parameters that learns circles, boxes and triangles in a minute.

torchvision's Mask R-CNN around a backbone of four stages.  Its norms are group norms, which do not depend on how a
batch is divided over ranks.  ``drumfire.training.pictures`` draws its data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from drumfire.training import maskrcnn
from drumfire.training.hyperparameters import Hyperparameters
from drumfire.training.vision import (
    AnchorGenerator,
    FastRCNNPredictor,
    FeaturePyramidNetwork,
    MaskRCNN,
    MaskRCNNHeads,
    MaskRCNNPredictor,
    MultiScaleRoIAlign,
    TwoMLPHead,
)

CLASSES = 3
IMAGE_SIZES = (96, 96)
_STAGES = (16, 32, 64, 128)
_FEATURES = 48
_HIDDEN = 128
_RATE, _IMAGES = 0.02, 8
"""The learning rate of a batch of 8 images."""
_CANDIDATES = 100
"""Region proposals per image."""


def hyperparameters(global_batch_size: int, images_per_rank: int) -> Hyperparameters:
    """Values with which the data set converges: the rate scales with the batch and does not decay within a run."""
    rate = _RATE * global_batch_size / _IMAGES
    return Hyperparameters(
        global_batch_size=global_batch_size,
        base_learning_rate=rate,
        warmup_steps=100,
        warmup_factor=rate / 100,
        decay_steps=(100_000, 200_000),
        image_candidates=_CANDIDATES * images_per_rank,
    )


def build(candidates_per_image: int, weights: Path | None, initialised: Callable[[str], None]) -> MaskRCNN:
    """The model with random weights.  Ignores ``weights`` and ``initialised``: the rules do not name its tensors."""
    levels = ["0", "1", "2"]
    return MaskRCNN(
        _Backbone(),
        min_size=IMAGE_SIZES[0],
        max_size=IMAGE_SIZES[1],
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3),
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=candidates_per_image,
        rpn_post_nms_top_n_test=candidates_per_image,
        rpn_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(_FEATURES * 7 * 7, _HIDDEN),
        box_predictor=FastRCNNPredictor(_HIDDEN, CLASSES + 1),
        box_batch_size_per_image=32,
        mask_roi_pool=MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(_FEATURES, (_FEATURES, _FEATURES), dilation=1),
        mask_predictor=MaskRCNNPredictor(_FEATURES, _FEATURES, CLASSES + 1),
    )


TASK = replace(
    maskrcnn.TASK,
    name="shapes",
    closed=False,
    data="shapes",
    weights=None,
    classes=CLASSES,
    hyperparameters=hyperparameters,
    logged_hyperparameters=partial(maskrcnn.logged_hyperparameters, image_sizes=IMAGE_SIZES),
    build=build,
)


class _Backbone(nn.Module):
    """Features of 48 channels at strides 4, 8 and 16."""

    out_channels = _FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        before = 3
        for channels in _STAGES:
            self.stages.append(
                nn.Sequential(_convolution(before, channels, stride=2), _convolution(channels, channels, stride=1))
            )
            before = channels
        self.fpn = FeaturePyramidNetwork(list(_STAGES[1:]), _FEATURES)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = {}
        features = images
        for number, stage in enumerate(self.stages):
            features = stage(features)
            if number:
                levels[str(number - 1)] = features
        pyramid: dict[str, Tensor] = self.fpn(levels)
        return pyramid


def _convolution(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.GroupNorm(8, after), nn.ReLU(inplace=True)
    )
