"""What a model is to the benchmark: weights, data, and how its answers are judged.

Knows arrays and the sample library protocol; must not know a framework, a backend or any one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.answers import Responses
from drumfire.loadgen.system import IndexArray, SampleLibrary


class UnknownModel(ValueError):
    """No model has this name."""


class MissingExtra(ImportError):
    """A package of an optional extra is not installed."""


class WeightsError(ValueError):
    """Weights that can not be used.  The text is one line and names the mend."""


class Form(Enum):
    """In what form a backend takes a network; each backend's module says which (``FORM``).  The value is the suffix."""

    ONNX = ".onnx"
    TORCH = ".pt2"
    """What ``torch.export.save`` writes, for any number of samples: see ``torch_export``."""
    TFLITE = ".tflite"
    """See ``tflite_export``."""


@dataclass(frozen=True)
class Accuracy:
    """How good the answers of a run were."""

    metric: str
    value: float
    """A fraction, 0 to 1; 0 when nothing was answered."""
    good: int | None
    """Samples answered right; None where the metric counts none, as mAP."""
    total: int
    """Samples answered, each counted once."""
    target: float
    """The fraction that the model must reach."""
    table: tuple[str, ...] = ()
    """The evaluator's own lines, where it has some."""

    @property
    def reached(self) -> bool:
        return self.value >= self.target

    @property
    def lines(self) -> list[str]:
        """As the reference's scripts print it; the last line is the score, which checkers of submissions look for."""
        percent = f"{self.value:.3%}"
        score = f"{self.metric}={percent}"
        if self.good is not None:
            score = f"accuracy={percent}, good={self.good}, total={self.total}"
        return [*self.table, score]


class Model(Protocol):
    """A model and the data set that it is judged on."""

    name: str
    task: str
    description: str
    licence: str
    """Of the weights and of the data."""
    extra: str | None
    """The pip extra that must be installed for it."""
    input_shape: tuple[int, ...]
    """Of one sample, without the batch."""
    input_dtype: np.dtype[Any]
    quality_target: float
    """A fraction, 0 to 1, of ``Accuracy.metric``."""
    target_latency_ms: int | None
    """The bound of a Server run; None where MLPerf's configuration has it."""
    total_count: int
    """Samples in the whole data set."""

    @property
    def reservations(self) -> Sequence[str]:
        """What a result must say beside its figures, such as that the weights are random numbers.

        Of the weights and the data that ``weights`` and ``library`` gave last.
        """

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        """The file to run, in the form that the backend takes, made in the folder ``cache`` on first use.

        The user's ``given`` file is returned as it is, whatever its form (the backend says what it can not take),
        unless it is a state dict, which is exported.  Raises ``MissingExtra``, and ``WeightsError`` for a file that
        does not fit and for a form that the model can not be had in.
        """

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> SampleLibrary:
        """The data set, preprocessed: its first ``count`` samples (None: all), in memory at most ``performance_count``.

        ``dataset_path`` is where the data lies, None for data that comes with the model.  Raises ``MissingExtra``, and
        ``ValueError`` for a count or a path that can not be.
        """

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> Responses:
        """The answers to one batch, one item a sample, from what the network gave, in the order of its outputs."""

    def logged(self, indices: IndexArray, responses: Responses) -> Responses:
        """The responses in the form of MLPerf's accuracy logs; ``responses[i]`` is for dataset index ``indices[i]``."""

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        """Judge ``responses[i]``, given for dataset index ``indices[i]``; the first answer to a sample counts.

        Raises ``ValueError`` for an index outside the data set or a response that is not such as ``respond`` makes.
        """


@runtime_checkable
class Calibrated(Protocol):
    """A model that has samples beside those that it is judged on."""

    def calibration(self, count: int) -> npt.NDArray[Any]:
        """Up to ``count`` of them, shape (n, *input_shape)."""
