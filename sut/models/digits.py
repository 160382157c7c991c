"""Handwritten digits, 8x8: a real model and a real data set, small enough to come with the package.

``weights.train_digits`` made the files in ``data``; their origins and licences are in ``data/LICENCES.md``.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from drumfire.loadgen.system import IndexArray
from drumfire.sut.models.classifier import Classifier, Float32Array, LabelArray
from drumfire.sut.models.model import Form
from drumfire.sut.models.tensors import Tensors
from drumfire.sut.models.weights import bundle

if TYPE_CHECKING:
    from torch import nn

DATA = bundle.DATA / "digits.npz"
WEIGHTS = bundle.DATA / "digits.onnx"
SHAPE = (1, 8, 8)


class Images(NamedTuple):
    """Images as float32 of 0..1, shape (n, 1, 8, 8), with their classes, shape (n,)."""

    inputs: Float32Array
    """The 500 held-out images, which the benchmark runs on."""
    labels: LabelArray
    train_inputs: Float32Array
    """The other 1297, which the network was trained on."""
    train_labels: LabelArray


def read() -> Images:
    with np.load(DATA) as file:
        images, labels, held_out = file["images"], file["labels"].astype(np.int64), file["held_out"]
    inputs = images.reshape(-1, *SHAPE) / np.float32(16)  # a pixel is the number of inked points of 4x4
    return Images(inputs[held_out], labels[held_out], np.delete(inputs, held_out, 0), np.delete(labels, held_out))


class Digits(Classifier):
    """A small MobileNet-style network; dataset index i is the i-th held-out image."""

    name = "digits"
    description = "handwritten digits, 8x8 pixels, 10 classes: 500 images that the network has not seen"
    licence = "weights Apache-2.0; data CC BY 4.0 (UCI, Alpaydin & Kaynak 1998)"
    extra: str | None = None
    tensors = Tensors.of_one(SHAPE)
    quality_target = 0.98
    target_latency_ms: int | None = 50
    total_count = 500

    @cached_property
    def _data(self) -> Images:
        return read()

    def own_weights(self, cache: Path, form: Form) -> Path:
        """The file in the package; forms other than ONNX are made from it."""
        return bundle.in_form(WEIGHTS, form, cache, self.new_network, self.tensors)

    def new_network(self) -> nn.Module:
        from drumfire.sut.models.networks import digits

        return digits.network()

    def inputs(self, indices: IndexArray) -> Float32Array:
        return self._data.inputs[indices]

    def labels(self) -> LabelArray:
        return self._data.labels

    def calibration(self, count: int) -> Float32Array:
        """See ``Calibrated``: images that the network was trained on."""
        return self._data.train_inputs[:count]
