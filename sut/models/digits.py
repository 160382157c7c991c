"""Handwritten digits, 8x8: a real model and a real data set that are small enough to come with the package.

Knows the two files in ``data``; ``train_digits`` made them.  Their origins and licences are in ``data/LICENCES.md``.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from drumfire.loadgen.system import IndexArray
from drumfire.sut.models.classifier import Classifier, Float32Array, LabelArray
from drumfire.sut.models.model import Form
from drumfire.sut.models.weights import bundle

DATA = Path(__file__).parent / "data" / "digits.npz"
WEIGHTS = DATA.with_suffix(".onnx")
SHAPE = (1, 8, 8)


class Data(NamedTuple):
    """Images as float32 of 0..1, shape (n, 1, 8, 8), with their classes, shape (n,)."""

    inputs: Float32Array
    """The 500 held-out images: what the benchmark shows."""
    labels: LabelArray
    train_inputs: Float32Array
    """The other 1297, which the network was trained on."""
    train_labels: LabelArray


def read() -> Data:
    with np.load(DATA) as file:
        images, labels, held_out = file["images"], file["labels"].astype(np.int64), file["held_out"]
    inputs = images.reshape(-1, *SHAPE) / np.float32(16)  # a pixel counts the inked ones of 4x4
    return Data(inputs[held_out], labels[held_out], np.delete(inputs, held_out, 0), np.delete(labels, held_out))


class Digits(Classifier):
    """A small MobileNet-style network; dataset index i is the i-th held-out image."""

    name = "digits"
    description = "handwritten digits, 8x8 pixels, 10 classes: 500 images that the network has not seen"
    licence = "weights Apache-2.0; data CC BY 4.0 (UCI, Alpaydin & Kaynak 1998)"
    extra: str | None = None
    input_shape: tuple[int, ...] = SHAPE
    quality_target = 0.98
    target_latency_ms: int | None = 50
    total_count = 500

    @cached_property
    def _data(self) -> Data:
        return read()

    def own_weights(self, cache: Path, form: Form) -> Path:
        """The file in the package; other forms than ONNX are made of it."""
        from drumfire.sut.models.weights.train_digits import network

        return bundle.in_form(WEIGHTS, form, cache, network, self.input_shape)

    def inputs(self, indices: IndexArray) -> Float32Array:
        return self._data.inputs[indices]

    def labels(self) -> LabelArray:
        return self._data.labels

    def calibration(self, count: int) -> Float32Array:
        """See ``Calibrated``: images that the network was trained on."""
        return self._data.train_inputs[:count]
