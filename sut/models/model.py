"""What a model is to the benchmark: weights, data, and how its answers are judged.

Knows arrays and the sample library protocol; must not know a framework, a backend or any one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from loadgen.system import IndexArray, Responses, SampleLibrary


class UnknownModel(ValueError):
    """No model has this name."""


class MissingExtra(ImportError):
    """A package of an optional extra is not installed."""


@dataclass(frozen=True)
class Accuracy:
    """How good the answers of a run were."""

    metric: str
    value: float
    """A fraction, 0 to 1; 0 when nothing was answered."""
    good: int
    """Samples answered right."""
    total: int
    """Samples answered, each counted once."""
    target: float
    """The fraction that the model must reach."""

    @property
    def reached(self) -> bool:
        return self.value >= self.target


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
    total_count: int
    """Samples in the whole data set."""

    def weights(self, cache: Path) -> Path:
        """The ONNX file to run; made in the folder ``cache`` on first use.  Raises ``MissingExtra``."""

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> SampleLibrary:
        """The data set, preprocessed: its first ``count`` samples (None: all), in memory at most ``performance_count``.

        ``dataset_path`` is where the data lies, None for data that comes with the model.  Raises ``MissingExtra``, and
        ``ValueError`` for a count or a path that can not be.
        """

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> Responses:
        """The answers to one batch, one item a sample, from what the network gave, in the order of its outputs."""

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        """Judge ``responses[i]``, given for dataset index ``indices[i]``; the first answer to a sample counts.

        Raises ``ValueError`` for an index outside the data set or a response that is not such as ``respond`` makes.
        """
