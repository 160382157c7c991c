"""A bare model file with any network, run on random samples of the shape that the network takes.

Judged where the user has labels, by a metric; otherwise only its speed is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.responses import Responses
from drumfire.loadgen.system import Batch, IndexArray, SampleLibrary
from drumfire.sut.data import DataError
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.local.backends import Backend, BackendError
from drumfire.sut.models.metrics import Metric
from drumfire.sut.models.model import Accuracy, Form
from drumfire.sut.models.tensors import Tensors

_SAMPLES = 128
_SEED = 1


class FileModel:
    """A model named by its path.  Its tensors are known once a backend has loaded it: see ``tensors_from``."""

    task = "any"
    description = "a model file, fed with random samples"
    licence = "the file's own"
    extra: str | None = None
    quality_target = 0.0
    target_latency_ms: int | None = None
    total_count = _SAMPLES
    reservations: Sequence[str] = ("a bare model file on random samples: speed only",)

    def __init__(self, path: Path, *, judge: Metric | None = None) -> None:
        """``judge``: None without labels."""
        self.path, self.judge = path, judge
        self.name = path.stem
        self.tensors = Tensors()

    def tensors_from(self, backend: Backend) -> None:
        """Take names, shapes and types from the loaded model.  Raises ``BackendError`` if it leaves a size open."""
        if backend.tensors.has_open_sizes:
            raise BackendError(f"{self.path} leaves sizes other than the batch's open: export it with fixed ones")
        self.tensors = backend.tensors
        if self.judge is not None:
            self.judge.of_outputs(backend.tensors.outputs, backend.tensors.bfloat16_outputs)

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        return given or self.path

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> SampleLibrary:
        """Random samples, the same in every run: normal values for floats, 0 to 127 for integers."""
        if dataset_path is not None:
            raise DataError("a bare model file runs on random samples: leave --dataset-path out")
        total = min(count or _SAMPLES, _SAMPLES)
        generator = np.random.default_rng(_SEED)
        samples = {}
        for name, zeros in self.tensors.zeros(total).items():
            floating = np.issubdtype(zeros.dtype, np.floating)
            drawn = generator.standard_normal(zeros.shape) if floating else generator.integers(0, 128, zeros.shape)
            samples[name] = drawn.astype(zeros.dtype)

        def read(indices: IndexArray) -> Batch:
            return {name: array[indices] for name, array in samples.items()}

        return ArrayLibrary(self.name, read, total, min(performance_count or total, total))

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> Responses:
        """What the metric makes of the outputs; without one, the first output's values."""
        return outputs[0] if self.judge is None else self.judge.respond(outputs)

    def logged(self, indices: IndexArray, responses: Responses) -> Responses:
        return responses if self.judge is None else self.judge.logged(indices, responses)

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        if self.judge is None:
            raise ValueError("a bare model file has no labels, so its accuracy is unknown")
        return self.judge.accuracy(indices, responses)
