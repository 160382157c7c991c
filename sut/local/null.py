"""The null system answers every row in the call that issues it, which measures the load generator itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.settings import Mode
from drumfire.sut.data.library import ArrayLibrary

_ANSWER = np.zeros((1, 1), np.float32)


def null_library(count: int = 1024) -> ArrayLibrary:
    """A library of ``count`` zeros, for a system that does not read its samples."""
    return ArrayLibrary("null", lambda indices: np.zeros((len(indices), 1), np.float32), count, count)


@dataclass(frozen=True)
class NullOptions:
    """The null system has no options."""


class NullSystem:
    """A system under test without a model; it answers every sample with the label 0."""

    name = "null"
    columns: Mapping[str, npt.DTypeLike] = {}

    def __init__(self, mode: Mode) -> None:
        self._answers_matter = mode != Mode.PerformanceOnly

    async def open(self, answers: Answers) -> None:
        self._complete = answers.complete
        if not self._answers_matter:
            # Nobody reads the answers, so issuing rows completes them: the same call, with no frame between.
            self.issue = answers.complete  # type: ignore[method-assign]

    def issue(self, first: int, last: int) -> None:
        self._complete(first, last, self.answer(first, last))

    def answer(self, first: int, last: int) -> Responses | None:
        return np.broadcast_to(_ANSWER, (last - first, 1)) if self._answers_matter else None

    def flush(self) -> None:
        pass

    async def close(self) -> None:
        pass
