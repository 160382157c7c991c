"""Image classification: what its models share, the payload of an answer and the top-1 accuracy.

Does not depend on where the images come from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.responses import Responses, table_of
from drumfire.loadgen.system import IndexArray
from drumfire.sut.data import DataError
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.models.model import Accuracy, Form, bundled_count, first_answers
from drumfire.sut.models.tensors import Tensors

Float32Array = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.int64]
_FLOAT32 = np.dtype(np.float32)

PERFORMANCE_COUNT = 500
"""Samples in memory unless the caller sets another number, or all of a smaller data set."""


class LabelJudge(ABC):
    """Judges the answers of a model that answers with labels."""

    name: str
    quality_target: float
    task = "image classification"
    metric: ClassVar[str] = "top-1"

    @abstractmethod
    def labels(self) -> LabelArray:
        """The class of every image, shape (n,)."""

    def logged(self, indices: IndexArray, responses: Responses) -> Responses:
        """See ``Model.logged``: one float32 a sample, unchanged."""
        return responses

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        """See ``Model.accuracy``: top-1, over the samples that were answered."""
        labels = self.labels()
        samples, first = first_answers(self.name, labels.size, indices, responses)
        good = int(np.count_nonzero(table_of(indices, responses, 1, "a label")[first, 0] == labels[samples]))
        total = samples.size
        return Accuracy(self.metric, good / total if total else 0.0, good, total, self.quality_target)


class Classifier(LabelJudge):
    """A ``Model`` with its own weights and labelled images, whose network gives one logit a class."""

    description: str
    licence: str
    extra: str | None
    target_latency_ms: int | None
    tensors: Tensors
    """Of one input."""
    total_count: int
    reservations: Sequence[str] = ()

    @abstractmethod
    def own_weights(self, cache: Path, form: Form) -> Path:
        """The model's own file, bundled or made in ``cache``."""

    @abstractmethod
    def inputs(self, indices: IndexArray) -> Float32Array:
        """The preprocessed images of these dataset indices: a new array of shape (n, *sample_shape)."""

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        """See ``Model.weights``."""
        return given or self.own_weights(cache, form)

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> ArrayLibrary:
        """See ``Model.library``.  ``performance_count`` is cut to the samples available; None means at most 500."""
        total = bundled_count(self.name, self.total_count, dataset_path, count)
        if performance_count is not None and performance_count < 1:
            raise DataError(f"performance count {performance_count}: at least one sample must be in memory")
        self.labels()  # a missing extra raises here rather than in the run
        return ArrayLibrary(self.name, self.inputs, total, min(total, performance_count or PERFORMANCE_COUNT))

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> Float32Array:
        """The class with the highest logit, from ``outputs[0]`` of shape (n, classes): float32 of shape (n, 1).

        One float32 a sample is the payload that MLPerf's reference harness logs for classification.
        """
        labels: Float32Array = outputs[0].argmax(1, keepdims=True).astype(_FLOAT32)
        return labels
