"""The benchmark's model: torchvision's Mask R-CNN with ResNet-50 and FPN, as the reference builds and starts it.

The backbone strides in its 1x1 convolutions and its norms are frozen, as the given ImageNet weights want it.  Images
come as RGB in 0..1; the weights' BGR in 0..255 is met by turning the first convolution and by the normalisation.
"""

from __future__ import annotations

import importlib
import io
import pickle
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drumfire.training.faults import InputError, one_line
from drumfire.training.vision import BackboneWithFPN, FrozenBatchNorm2d, MaskRCNN, resnet_fpn_backbone

CLASSES = 80
IMAGE_SIZES = (800, 1333)
"""The short side, and the most of the long side, in pixels."""
WEIGHTS = "R-50.pkl"
_BGR_MEAN = (102.9801, 115.9465, 122.7717)

_kaiming_uniform = partial(nn.init.kaiming_uniform_, a=1)
_kaiming_normal = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
_normal = partial(nn.init.normal_, std=0.01)
_narrow_normal = partial(nn.init.normal_, std=0.001)

_STARTS: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = (
    {f"FPN_inner_block{n}": (f"backbone.fpn.inner_blocks.{n - 1}.0", _kaiming_uniform) for n in range(1, 5)}
    | {f"FPN_layer_block{n}": (f"backbone.fpn.layer_blocks.{n - 1}.0", _kaiming_uniform) for n in range(1, 5)}
    | {
        "RPNHead_conv": ("rpn.head.conv.0.0", _normal),
        "RPNHead_cls": ("rpn.head.cls_logits", _normal),
        "RPNHead_bbox": ("rpn.head.bbox_pred", _normal),
        "ROI_BOX_FEATURE_EXTRACTOR_fc6": ("roi_heads.box_head.fc6", _kaiming_uniform),
        "ROI_BOX_FEATURE_EXTRACTOR_fc7": ("roi_heads.box_head.fc7", _kaiming_uniform),
        "ROI_BOX_PREDICTOR_cls": ("roi_heads.box_predictor.cls_score", _normal),
        "ROI_BOX_PREDICTOR_bbox": ("roi_heads.box_predictor.bbox_pred", _narrow_normal),
    }
    | {f"ROI_MASK_FEATURE_EXTRACTOR_fcn{n}": (f"roi_heads.mask_head.{n - 1}.0", _kaiming_normal) for n in range(1, 5)}
    | {
        "ROI_MASK_PREDICTOR_fcn5": ("roi_heads.mask_predictor.conv5_mask", _kaiming_normal),
        "ROI_MASK_PREDICTOR_fcn_logits": ("roi_heads.mask_predictor.mask_fcn_logits", _kaiming_normal),
    }
)
"""Where each tensor that the rules name is, and how it starts; its bias starts at 0."""


def build(candidates_per_image: int, weights: Path | None, initialised: Callable[[str], None]) -> MaskRCNN:
    """The model at its start.  ``weights`` None: a random backbone, good for trying the machine, not for the target.

    ``initialised`` is told each tensor that the rules name.
    """
    norm = partial(FrozenBatchNorm2d, eps=0.0)  # the given weights have their statistics folded in
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=norm, trainable_layers=3)
    _stride_in_first_convolution(backbone)
    model = MaskRCNN(
        backbone,
        num_classes=CLASSES + 1,
        min_size=IMAGE_SIZES[0],
        max_size=IMAGE_SIZES[1],
        image_mean=[mean / 255 for mean in reversed(_BGR_MEAN)],
        image_std=[1 / 255] * 3,
        rpn_post_nms_top_n_train=candidates_per_image,
    )
    if weights is None:
        _tame(backbone)
    else:
        _load_backbone(backbone, weights)
    for name, (path, start) in _STARTS.items():
        module = model.get_submodule(path)
        with torch.no_grad():
            start(module.get_parameter("weight"))
            module.get_parameter("bias").zero_()
        initialised(name)
    return model


def _stride_in_first_convolution(backbone: BackboneWithFPN) -> None:
    for layer in (backbone.body.layer2, backbone.body.layer3, backbone.body.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)


def _tame(backbone: BackboneWithFPN) -> None:
    """Frozen norms do not normalise: without weights made for them 16 blocks would double the features 16 times."""
    for name, module in backbone.body.named_modules():
        if name == "bn1":
            module.weight.fill_(1 / 255)
        elif name.endswith("bn3"):
            module.weight.fill_(0.25)


def _load_backbone(backbone: BackboneWithFPN, file: Path) -> None:
    try:
        blobs = _NumpyUnpickler(io.BytesIO(file.read_bytes()), encoding="latin1").load()
        blobs = blobs.get("blobs", blobs)
        state = {
            _torch_name(name): torch.from_numpy(np.asarray(blob)) for name, blob in blobs.items() if _is_kept(name)
        }
        state["conv1.weight"] = state["conv1.weight"][:, [2, 1, 0]]
        for name, value in backbone.body.state_dict().items():
            if name.endswith("running_mean"):
                state[name] = torch.zeros_like(value)
            elif name.endswith("running_var"):
                state[name] = torch.ones_like(value)
        backbone.body.load_state_dict(state)
    except FileNotFoundError:
        raise InputError(
            f"there are no backbone weights {file}: python -m drumfire.training.prepare coco fetches them, "
            "and --from-scratch does without (it does not reach the target)"
        ) from None
    except (OSError, RuntimeError, KeyError, AttributeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{file} does not hold the weights of ResNet-50 as Detectron stores them: {one_line(error)}"
        ) from None


def _is_kept(name: str) -> bool:
    """Not the classifier, and not the optimizer's state that Detectron may have stored beside the weights."""
    return not name.startswith(("fc1000", "pred")) and not name.endswith("_momentum") and "_" in name and name != "lr"


_PARTS = {"branch2a": ("conv1", "bn1"), "branch2b": ("conv2", "bn2"), "branch2c": ("conv3", "bn3")}
_PARTS["branch1"] = ("downsample.0", "downsample.1")
_KINDS = {"w": (0, "weight"), "bn_s": (1, "weight"), "bn_b": (1, "bias")}


def _torch_name(name: str) -> str:
    """Detectron's name of a tensor to torchvision's: res3_0_branch2a_bn_s is layer2.0.bn1.weight."""
    if found := re.fullmatch(r"(?:res_)?conv1_(w|bn_s|bn_b)", name):
        at, kind = _KINDS[found[1]]
        return f"{('conv1', 'bn1')[at]}.{kind}"
    if found := re.fullmatch(r"res([2-5])_(\d+)_(branch\w+?)_(w|bn_s|bn_b)", name):
        at, kind = _KINDS[found[4]]
        return f"layer{int(found[1]) - 1}.{found[2]}.{_PARTS[found[3]][at]}.{kind}"
    raise KeyError(name)


class _NumpyUnpickler(pickle.Unpickler):
    """Reads arrays and plain values, and runs nothing else that a file may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module.endswith("multiarray") and name in ("_reconstruct", "scalar"):
            return getattr(importlib.import_module("numpy._core.multiarray"), name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
