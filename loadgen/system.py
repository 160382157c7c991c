"""What the load generator needs of a system under test and of a sample library: two protocols.

Independent of models, frameworks and servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.answers import Answers, Responses

IndexArray: TypeAlias = npt.NDArray[np.integer[Any]]
"""Sample indices into a library, shape (n,), any integer dtype."""


@runtime_checkable
class SampleLibrary(Protocol):
    """The query sample library (QSL): the data set, of which some samples are in memory at a time."""

    name: str
    total_count: int
    """Samples in the data set: dataset indices are 0 .. total_count-1."""
    performance_count: int
    """Samples that are sure to fit in memory together."""

    def load(self, indices: IndexArray) -> None:
        """Bring these samples into memory, untimed.  ``indices`` may hold an index more than once."""

    def unload(self, indices: IndexArray) -> None:
        """Let go of what ``load`` brought in."""

    def batch(self, indices: IndexArray) -> npt.NDArray[Any]:
        """Loaded samples as one array of shape (len(indices), *sample_shape), zero-copy where they lie in a row.

        Called on the hot path, from any thread.
        """


Answer: TypeAlias = Callable[[int, int], Responses | int | None]
"""Computes the answers to rows [first, last) and returns them; None for a system whose answers nobody will look at, or
when they were there where that was before the call returned (ns of the monotonic clock).  Raising fails the rows."""


@runtime_checkable
class SystemUnderTest(Protocol):
    """What is measured.  It is asked for rows of the run's table and answers by rows."""

    name: str
    columns: Mapping[str, npt.DTypeLike]
    """Further columns that this system fills for each row, by name (``Answers.columns`` holds them)."""

    @property
    def answer(self) -> Answer | None:
        """For closed loops, after ``open``: how to be answered in the caller's thread; None where that can not be.

        It is then called in place of ``issue``, and a query pays neither for a thread nor for telling that it is done.
        """

    async def open(self, answers: Answers) -> None:
        """Get ready, untimed.  ``answers`` stays valid until ``close``: samples are read from it, answers go to it."""

    def issue(self, first: int, last: int) -> None:
        """Take rows [first, last).  Called on the event loop, in row order, each row once.

        It returns at once.  The answers are given later (or here, where they cost no time) and from any thread,
        through ``Answers.complete`` or ``Answers.fail``.
        """

    def flush(self) -> None:
        """No more rows come in this phase: hold none back for a fuller batch."""

    async def close(self) -> None:
        """Release everything.  Also called when the run failed or was interrupted."""
