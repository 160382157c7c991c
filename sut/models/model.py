"""What a model is to the benchmark: weights, data, and how its answers are judged.

Does not depend on a framework, a backend or any particular model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.system import Batch, IndexArray, SampleLibrary
from drumfire.sut.data import DataError
from drumfire.sut.data.options import InputOptions
from drumfire.sut.models.tensors import Tensors


class UnknownModel(UserError, ValueError):
    """No model has this name."""


class MissingExtra(UserError, ImportError):
    """A package of an optional extra is not installed."""


class WeightsError(UserError, ValueError):
    """Weights that cannot be used.  The text is one line and names the fix."""


class Form(Enum):
    """The form of a model file; ``FORM`` of a backend's module is the form that it takes.  The value is the suffix."""

    ONNX = ".onnx"
    TORCH = ".pt2"
    """Written by ``torch.export.save``, for any batch size: see ``torch_export``."""
    TFLITE = ".tflite"
    """See ``tflite_export``."""


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of the answers of a run."""

    metric: str
    value: float
    """A fraction, 0 to 1; 0 if no sample was answered."""
    good: int | None
    """Samples answered correctly; None for metrics that do not count them, such as mAP."""
    total: int
    """Samples answered, each counted once."""
    target: float | None
    """The fraction that the model must reach; None: there is none, and so no verdict."""
    table: tuple[str, ...] = ()
    """The lines that the evaluator prints, if any."""

    @property
    def reached(self) -> bool | None:
        """None without a target."""
        return None if self.target is None else self.value >= self.target

    @property
    def lines(self) -> list[str]:
        """The lines that the reference's scripts print; submission checkers read the score from the last."""
        percent = f"{self.value:.3%}"
        score = f"{self.metric}={percent}"
        if self.good is not None:
            score = f"accuracy={percent}, good={self.good}, total={self.total}"
        return [*self.table, score]


class Judge(Protocol):
    """Makes the answers of a network's outputs, and judges them: a ``Model``, or a user's labels with a metric."""

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> Responses: ...
    def logged(self, indices: IndexArray, responses: Responses) -> Responses: ...
    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy: ...


class Model(Protocol):
    """A model and the data set that it is judged on."""

    name: str
    task: str
    description: str
    licence: str
    """The licences of the weights and of the data."""
    extra: str | None
    """The pip extra that the model needs."""
    quality_target: float
    """A fraction, 0 to 1, of ``Accuracy.metric``."""
    target_latency_ms: int | None
    """The bound of a Server run; None where MLPerf's configuration has it."""
    total_count: int
    """Samples in the whole data set."""

    @property
    def tensors(self) -> Tensors:
        """The names, shapes and types of the data's samples; our own exports take these, and give these outputs."""

    @property
    def reservations(self) -> Sequence[str]:
        """What a result must say beside its figures, such as that the weights are random numbers.

        Refers to the last results of ``weights`` and ``library``.
        """

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        """The file to run, in the form that the backend takes, made in the folder ``cache`` on first use.

        The user's file ``given`` is returned unchanged, whatever its form (the backend refuses what it cannot take),
        unless it is a state dict, which is exported.  Raises ``MissingExtra``, and ``WeightsError`` for a file that
        does not fit or a form that cannot be made.
        """

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> SampleLibrary:
        """The data set, preprocessed: its first ``count`` samples (None: all), at most ``performance_count`` in memory.

        ``dataset_path`` is the folder of the data, None for data that comes with the model.  Raises ``MissingExtra``,
        and ``ValueError`` for an impossible count or path.
        """

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> Responses:
        """The answers to one batch, one item a sample, from the network's outputs in their order."""

    def logged(self, indices: IndexArray, responses: Responses) -> Responses:
        """The responses in the form of MLPerf's accuracy logs; ``responses[i]`` is for dataset index ``indices[i]``."""

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        """Judge ``responses[i]``, the answer to dataset index ``indices[i]``; the first answer to a sample counts.

        Raises ``ValueError`` for an index outside the data set or a response that ``respond`` cannot have made.
        """


@runtime_checkable
class Calibrated(Protocol):
    """A model that has further samples, on which it is not judged."""

    def calibration(self, count: int) -> Batch | npt.NDArray[Any]:
        """Up to ``count`` of these samples, as ``SampleLibrary.batch`` returns them."""


@runtime_checkable
class Refused(Protocol):
    """A model that not every backend runs."""

    refused_by: Sequence[str]
    """The backends that cannot run it on its own weights."""


@runtime_checkable
class FollowsFile(Protocol):
    """A model whose samples have the sizes that the loaded file takes, or, of those, that the user says."""

    def for_file(self, file: Tensors, options: InputOptions) -> Model:
        """The same model with samples for a file of these tensors.  Raises ``InputError`` for sizes it cannot have."""


def missing_extra(what: str, package: str | None, extra: str | None) -> MissingExtra:
    """The error for a missing package: names the pip extra that installs it, usually ``extra``."""
    if package and package.startswith("tensorflow"):
        extra = "tflite-export"
    command = installation.command(extra or "vision")
    return MissingExtra(f"{what} needs {package or 'a package'}, which is not installed: {command}")


def no_such_form(name: str, form: Form) -> WeightsError:
    """The error for a model that comes in one form only, and is not exported in others."""
    return WeightsError(f"{name} has no {form.value} file: run it on a backend that takes ONNX, or give --weights")


def bundled_count(name: str, available: int, dataset_path: Path | None, count: int | None) -> int:
    """How many samples a library over bundled data has: ``count``, or all.  Raises ``ValueError``, see ``library``."""
    if dataset_path is not None:
        raise DataError(f"{name} has its own data: leave --dataset-path {dataset_path} out")
    total = available if count is None else count
    if not 1 <= total <= available:
        raise DataError(f"{name} has {available} samples: the count must be 1 to {available}, not {total}")
    return total


def first_answers(
    name: str, available: int, indices: IndexArray, responses: Responses
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """The dataset indices that were answered, ascending, and the position of the first answer to each.

    Raises ``ValueError``, see ``Model.accuracy``.
    """
    answered = np.asarray(indices).astype(np.int64)
    if len(responses) != answered.size:
        raise ValueError(f"{len(responses)} responses for {answered.size} samples")
    if answered.size and not 0 <= answered.min() <= answered.max() < available:
        raise ValueError(f"an answer to a sample outside {name}'s 0..{available - 1}")
    return np.unique(answered, return_index=True)  # of repeats, the index of the first
