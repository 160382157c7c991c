"""Classification: whether the right class has one of the highest scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.responses import Responses, table_of
from drumfire.loadgen.system import IndexArray
from drumfire.loadgen.wording import counted
from drumfire.sut.data import DataError
from drumfire.sut.local.responses import OutputError
from drumfire.sut.models.metrics.labels import class_numbers, read_labels
from drumfire.sut.models.metrics.metric import Metric, Outputs
from drumfire.sut.models.model import Accuracy, first_answers


class Top1(Metric):
    """Whether the right class has the highest score.  An answer is that class, as float32, which MLPerf logs."""

    name, written = "top-1", "top1"
    most: ClassVar = 1
    """Classes in an answer, those of the highest scores."""

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """The class of each sample, shape (n,)."""
        return class_numbers(read_labels(self._file), self._file)

    @property
    def count(self) -> int:
        return self.labels.size

    def answers(self, outputs: Outputs) -> npt.NDArray[np.float32]:
        """Of shape (n, most): -1 where a score is not a number."""
        scores, most = outputs[0], self.most
        classes = self._classes(scores.shape[1:], str(scores.dtype), is_number=scores.dtype.kind in "fiu")
        scores = scores.reshape(-1, classes)
        if most == 1:
            best = scores.argmax(axis=1)[:, None]
        else:
            best = np.argpartition(scores, classes - most, axis=1)[:, -most:]
            order = np.argsort(np.take_along_axis(scores, best, 1), axis=1)[:, ::-1]
            best = np.take_along_axis(best, order, 1)
        answer: npt.NDArray[np.float32] = best.astype(np.float32)
        if scores.dtype.kind == "f":
            answer[np.isnan(np.take_along_axis(scores, best, 1))] = -1
        return answer

    def _classes(self, sizes: Sequence[int], what: str, *, is_number: bool = True) -> int:
        """How many an output of these sizes has scores of.  Raises ``OutputError``."""
        classes = math.prod(sizes)
        if not is_number or not sizes or max(sizes) != classes or classes <= self.most:
            advice = "--metric exact compares values as they are" if classes == 1 else "name another output, or metric"
            raise OutputError(
                f"the model's output is {what} of shape {list(sizes)} for a sample: --metric {self.written} takes the "
                f"scores of more than {counted(self.most, 'class')} ({advice})"
            )
        return classes

    def _check_labels(self, shape: tuple[int, ...]) -> None:
        classes = self._classes(shape, "a tensor")
        beyond = np.flatnonzero(self.labels >= classes)
        if beyond.size:
            raise DataError(
                f"{self._file}: label {beyond[0] + 1} is {self.labels[beyond[0]]}, and the model has "
                f"{counted(classes, 'class')}, 0 to {classes - 1}"
            )

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        samples, first = first_answers("the data", self.count, indices, responses)
        classes = table_of(indices, responses, self.most, f"a {self.name} answer")[first]
        good = int((classes == self.labels[samples][:, None]).any(axis=1).sum())
        return self._scored(good, good / samples.size if samples.size else 0.0, samples.size)


class Top5(Top1):
    """Whether the right class is among the five of the highest scores.  An answer is these, best first."""

    name, written = "top-5", "top5"
    most = 5
