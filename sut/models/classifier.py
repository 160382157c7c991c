"""Image classification: what its models share, which is the payload of an answer and the judging by top-1.

Knows labels and logits; must not know where the images come from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.answers import Responses
from drumfire.loadgen.system import IndexArray
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.models.model import Accuracy, Form

Float32Array = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.int64]

PERFORMANCE_COUNT = 500
"""Samples in memory unless asked otherwise, where the data set has as many."""


class LabelJudge(ABC):
    """The judging side of a model whose answers are labels."""

    name: str
    quality_target: float
    task = "image classification"
    input_dtype: np.dtype[Any] = np.dtype(np.float32)
    metric: ClassVar[str] = "top-1"

    @abstractmethod
    def labels(self) -> LabelArray:
        """The class of every image, shape (n,)."""

    def logged(self, indices: IndexArray, responses: Responses) -> Responses:
        """See ``Model.logged``: one float32 a sample, as it is."""
        return responses

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        """See ``Model.accuracy``: top-1, over the samples that were answered."""
        answered = np.asarray(indices)
        labels = self.labels()
        if answered.size and not 0 <= answered.min() <= answered.max() < labels.size:
            raise ValueError(f"an answer to a sample outside {self.name}'s 0..{labels.size - 1}")
        given = _answered_labels(responses)
        if given.size != answered.size:
            raise ValueError(f"{given.size} responses for {answered.size} samples")
        samples, first = np.unique(answered, return_index=True)  # of repeats, the index of the first
        good = int(np.count_nonzero(given[first] == labels[samples]))
        total = samples.size
        return Accuracy(self.metric, good / total if total else 0.0, good, total, self.quality_target)


class Classifier(LabelJudge):
    """A ``Model`` that brings its own weights and labelled images and gives one logit a class."""

    description: str
    licence: str
    extra: str | None
    target_latency_ms: int | None
    input_shape: tuple[int, ...]
    total_count: int
    reservations: Sequence[str] = ()

    @abstractmethod
    def own_weights(self, cache: Path, form: Form) -> Path:
        """The file that comes with the model, or is made in ``cache``."""

    @abstractmethod
    def inputs(self, indices: IndexArray) -> Float32Array:
        """The preprocessed images of these dataset indices: a new array of shape (n, *input_shape)."""

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        """See ``Model.weights``."""
        return given or self.own_weights(cache, form)

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> ArrayLibrary:
        """See ``Model.library``.  ``performance_count`` is cut to the samples there are; None means at most 500."""
        if dataset_path is not None:
            raise ValueError(f"{self.name} carries its own data: leave --dataset-path {dataset_path} out")
        total = self.total_count if count is None else count
        if not 1 <= total <= self.total_count:
            raise ValueError(f"{self.name} has {self.total_count} samples: a count of {total} can not be had")
        if performance_count is not None and performance_count < 1:
            raise ValueError(f"performance count {performance_count}: at least one sample must be in memory")
        self.labels()  # a missing extra is to show here rather than in the run
        return ArrayLibrary(self.name, self.inputs, total, min(total, performance_count or PERFORMANCE_COUNT))

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> Float32Array:
        """The class with the highest logit, from ``outputs[0]`` of shape (n, classes): float32 of shape (n, 1).

        One float32 a sample is the payload that MLPerf's reference harness logs for classification.
        """
        labels: Float32Array = outputs[0].argmax(axis=1).astype(np.float32)
        return labels[:, None]


def _answered_labels(responses: Responses) -> Float32Array:
    """The one float32 of each response, shape (n,)."""
    if isinstance(responses, np.ndarray):
        if responses.dtype != np.float32 or responses.size != len(responses):
            raise ValueError(f"a response is one float32, not {responses.shape[1:]} of {responses.dtype}")
        return responses.reshape(-1)
    for position, response in enumerate(responses):
        if len(response) != 4:
            raise ValueError(f"response {position} has {len(response)} bytes: a label is one float32, 4 bytes")
    return np.frombuffer(b"".join(responses), "<f4")
