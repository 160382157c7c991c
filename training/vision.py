"""The parts of torchvision that training uses.  Import them only from here: its operators must be loaded before it."""

from __future__ import annotations

import drumfire.training.operators  # noqa: F401

# isort: split
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign

__all__ = [
    "AnchorGenerator",
    "BackboneWithFPN",
    "FastRCNNPredictor",
    "FeaturePyramidNetwork",
    "FrozenBatchNorm2d",
    "MaskRCNN",
    "MaskRCNNHeads",
    "MaskRCNNPredictor",
    "MultiScaleRoIAlign",
    "TwoMLPHead",
    "resnet_fpn_backbone",
]
