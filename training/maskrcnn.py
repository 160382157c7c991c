"""MLPerf's maskrcnn: torchvision's Mask R-CNN with ResNet-50 and FPN, built and initialised as in the reference.

The backbone strides in its 1x1 convolutions and its norms are frozen, because the ImageNet weights were trained that
way.  Those weights expect BGR in 0..255 and images come as RGB in 0..1: reversing the first convolution's input
channels and the normalisation make up for it.
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
from mlperf_logging.mllog import constants
from torch import Tensor, nn

from drumfire.training import hyperparameters
from drumfire.training.faults import InputError, one_line
from drumfire.training.hyperparameters import Hyperparameters
from drumfire.training.task import Quality, Task
from drumfire.training.vision import BackboneWithFPN, FrozenBatchNorm2d, MaskRCNN, resnet_fpn_backbone

CLASSES = 80
IMAGE_SIZES = (800, 1333)
"""The short side, and the limit of the long side, in pixels."""
WEIGHTS = "R-50.pkl"
_BGR_MEAN = (102.9801, 115.9465, 122.7717)
"""Mean of ImageNet's pixels in 0..255, from Detectron."""

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
"""By the rules' name of a tensor: its module in torchvision's model, and how its weight starts.  Biases start at 0."""


def build(candidates_per_image: int, weights: Path | None, initialised: Callable[[str], None]) -> MaskRCNN:
    """The model before the first step.  Without ``weights`` its backbone is random and does not reach the target.

    Calls ``initialised`` with each tensor that the rules name.  ``InputError`` if the file of weights is not usable.
    """
    norm = partial(FrozenBatchNorm2d, eps=0.0)  # the ImageNet weights contain the statistics already
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
        _damp_norms(backbone)
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


def logged_hyperparameters(used: Hyperparameters, image_sizes: tuple[int, int]) -> dict[str, Any]:
    """By log key.  ``image_sizes``: the short side, and the limit of the long side, in pixels."""
    return {
        constants.OPT_NAME: constants.SGD,
        constants.OPT_BASE_LR: used.base_learning_rate,
        constants.OPT_LR_WARMUP_STEPS: used.warmup_steps,
        constants.OPT_LR_WARMUP_FACTOR: used.warmup_factor,
        constants.OPT_LR_DECAY_FACTOR: hyperparameters.DECAY_FACTOR,
        constants.OPT_LR_DECAY_STEPS: list(used.decay_steps),
        "opt_momentum": hyperparameters.MOMENTUM,
        "opt_weight_decay": hyperparameters.WEIGHT_DECAY,
        constants.NUM_IMAGE_CANDIDATES: used.image_candidates,
        constants.MIN_IMAGE_SIZE: image_sizes[0],
        constants.MAX_IMAGE_SIZE: image_sizes[1],
    }


TASK = Task(
    name="maskrcnn",
    benchmark="maskrcnn",
    rulesets=("3.1.0", "2.1.0"),  # later ones have no files for maskrcnn
    closed=True,
    data="coco",
    weights=WEIGHTS,
    classes=CLASSES,
    metric="mAP",
    qualities=(Quality("box", 0.377, "BBOX"), Quality("mask", 0.339, "SEGM")),
    batch_size=8,
    epochs=20,
    hyperparameters=hyperparameters.of_batch,
    logged_hyperparameters=partial(logged_hyperparameters, image_sizes=IMAGE_SIZES),
    build=build,
)


def _damp_norms(backbone: BackboneWithFPN) -> None:
    """Scale the norms of a random backbone: frozen norms do not normalise, so each of 16 blocks would double them."""
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
            f"the backbone's weights {file} are missing: python -m drumfire.training.prepare coco fetches them, "
            "and --from-scratch trains without them (but does not reach the target)"
        ) from None
    except Exception as error:  # what a damaged pickle raises can be nearly anything
        raise InputError(
            f"{file} does not hold the weights of ResNet-50 as Detectron stores them: {one_line(error)[:200]}"
        ) from None


def _is_kept(name: str) -> bool:
    """False for the classifier, and for the optimizer's state that Detectron may have stored beside the weights."""
    return not name.startswith(("fc1000", "pred")) and not name.endswith("_momentum") and "_" in name and name != "lr"


_PARTS = {"branch2a": ("conv1", "bn1"), "branch2b": ("conv2", "bn2"), "branch2c": ("conv3", "bn3")}
_PARTS["branch1"] = ("downsample.0", "downsample.1")
_KINDS = {"w": (0, "weight"), "bn_s": (1, "weight"), "bn_b": (1, "bias")}


def _torch_name(name: str) -> str:
    """torchvision's name of Detectron's tensor: layer2.0.bn1.weight for res3_0_branch2a_bn_s.  Raises ``KeyError``."""
    if match := re.fullmatch(r"(?:res_)?conv1_(w|bn_s|bn_b)", name):
        at, kind = _KINDS[match[1]]
        return f"{('conv1', 'bn1')[at]}.{kind}"
    if match := re.fullmatch(r"res([2-5])_(\d+)_(branch\w+?)_(w|bn_s|bn_b)", name):
        at, kind = _KINDS[match[4]]
        return f"layer{int(match[1]) - 1}.{match[2]}.{_PARTS[match[3]][at]}.{kind}"
    raise KeyError(name)


class _NumpyUnpickler(pickle.Unpickler):
    """Reads arrays and plain values only: a pickle can name any function, and loading would call it."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module.endswith("multiarray") and name in ("_reconstruct", "scalar"):
            return getattr(importlib.import_module("numpy._core.multiarray"), name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
