"""What the load generator needs of a system under test and of a sample library: two protocols.

Independent of models, frameworks and servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.record import Column
from drumfire.loadgen.responses import Responses

IndexArray: TypeAlias = npt.NDArray[np.integer[Any]]
"""Sample indices into a library, shape (n,), any integer dtype."""
Batch: TypeAlias = dict[str, npt.NDArray[Any]]
"""Samples by the name of a model's input: arrays of shape (n, *sample_shape), all with the same n."""


@runtime_checkable
class SampleLibrary(Protocol):
    """The query sample library (QSL): a data set, with some of its samples in memory at a time."""

    name: str
    total_count: int
    """Samples in the data set: dataset indices are 0 .. total_count-1."""
    performance_count: int
    """Samples that are guaranteed to fit in memory together."""

    def load(self, indices: IndexArray) -> None:
        """Load these samples into memory, untimed.  ``indices`` may contain an index more than once."""

    def unload(self, indices: IndexArray) -> None:
        """Release what ``load`` loaded."""

    def batch(self, indices: IndexArray) -> Batch | npt.NDArray[Any]:
        """Loaded samples: for each input an array of shape (len(indices), *sample_shape), no copy if consecutive.

        A library of one input may return the bare array.  Called on the hot path, from any thread.
        """


Answer: TypeAlias = Callable[[int, int], Responses | int | None]
"""Computes and returns the responses to rows [first, last).  May return None instead where nobody reads them, or the
moment of completion (ns of the monotonic clock) if it was before the return.  An exception fails the rows."""


@runtime_checkable
class SystemUnderTest(Protocol):
    """The system to measure.  It takes rows of the run's table, and answers by row number."""

    name: str
    columns: Mapping[str, npt.DTypeLike]
    """Further columns that this system fills for each row (``Answers.columns`` has them): name to dtype.

    A ``Flat`` in the place of the dtype declares several values a row, which ``Answers.flat_columns`` takes.
    """

    @property
    def answer(self) -> Answer | None:
        """For closed loops, after ``open``: a function that answers in the caller's thread; None if there is none.

        The loop calls it instead of ``issue``, which saves a query the cost of a thread and of a notification.
        """

    async def open(self, answers: Answers) -> None:
        """Get ready, untimed.  Until ``close``, the system reads sample indices from ``answers`` and answers there."""

    def issue(self, first: int, last: int) -> None:
        """Take rows [first, last).  Called on the event loop, in row order, each row once.  Must return at once.

        The system answers later (or here, if that takes no time), from any thread, through ``Answers.complete`` or
        ``Answers.fail``.
        """

    def flush(self) -> None:
        """No more rows follow in this phase, so do not wait for fuller batches."""

    async def close(self) -> None:
        """Release everything.  Also called when the run failed or was interrupted."""


@runtime_checkable
class SelfMeasured(Protocol):
    """What a system under test may have too, to measure itself during the run."""

    async def begin_measuring(self) -> None:
        """The run begins: what came before, such as a warm-up, does not count.  Called once, between two rows."""


@runtime_checkable
class InProcesses(Protocol):
    """What a system under test has too that computes in processes of its own."""

    @property
    def pids(self) -> Sequence[int]:
        """Of the processes that live."""

    def report(self, columns: Mapping[str, Column] | None = None) -> list[dict[str, Any]]:
        """Each process with what it took in the last run, and did, if ``columns`` are issued rows; JSON-ready."""


def processes_of(system: SystemUnderTest, columns: Mapping[str, Column] | None = None) -> list[dict[str, Any]]:
    """See ``InProcesses.report``; none of a system that computes in this process."""
    return system.report(columns) if isinstance(system, InProcesses) else []
