"""Sample libraries with named arrays: one that keeps loaded samples in blocks, and one over a library of the user's.

Loads samples and returns them as batches.  Does not depend on what they show.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import Batch, IndexArray, SampleLibrary

Array: TypeAlias = npt.NDArray[Any]
Arrangement = Callable[[Batch], Batch]
"""Renames the arrays of a batch, or lays them out anew."""

INPUT = "input"
"""The name of a bare array."""


class NotLoadedError(LookupError):
    """A batch needs a sample that is not loaded."""


class ArrayLibrary:
    """A ``SampleLibrary`` of one or several named arrays; all samples of an array have the same shape.

    The loaded samples of each array lie in one block, in load order.  A second load replaces the first.  ``batch``
    takes a few microseconds: it returns views of the blocks if the samples lie there in the wanted order, and otherwise
    gathered copies.
    """

    def __init__(
        self, name: str, read: Callable[[IndexArray], Batch | Array], total_count: int, performance_count: int
    ) -> None:
        """``read`` returns the samples of n dataset indices, in their order: an array of shape (n, *sample_shape), or
        several of them by the names of the model's inputs.
        """
        self.name = name
        self.total_count = total_count
        self.performance_count = performance_count
        self._read: Callable[[IndexArray], Batch] = lambda indices: named(read(indices))
        self._position = np.full(total_count, -1, np.int32)  # dataset index -> row of the blocks; -1: not loaded
        self._position_of = self._position.data  # the same, which reads one number faster
        self._blocks: list[tuple[str, Array]]
        self._order: npt.NDArray[np.int64]  # row of the blocks -> dataset index; -1: unloaded
        self._forget()

    def arrange(self, arrangement: Arrangement) -> None:
        """From the next load on, pass what is read through ``arrangement``."""
        read = self._read
        self._read = lambda indices: arrangement(read(indices))

    def load(self, indices: IndexArray) -> None:
        """Read these samples into the blocks.

        Raises ``IndexError`` for an index that the data set does not have, ``ValueError`` if another number of samples
        is read.  Keeps repeated samples: a set padded with its first samples then has views also for batches across its
        end.
        """
        if indices.size and not 0 <= indices.min() <= indices.max() < self.total_count:
            raise IndexError(f"{self.name} has the samples 0..{self.total_count - 1}")
        self._forget()
        blocks = [(name, np.ascontiguousarray(array)) for name, array in self._read(indices).items()]
        for name, block in blocks:
            if len(block) != indices.size:
                raise ValueError(f"{self.name}: {len(block)} samples of {name!r} were read for {indices.size} indices")
        self._blocks = blocks
        self._order = indices.astype(np.int64)
        rows = np.arange(indices.size, dtype=np.int32)
        self._position[indices[::-1]] = rows[::-1]  # backwards, so that the first copy of a sample wins

    def unload(self, indices: IndexArray) -> None:
        """Unload these samples; the blocks are freed with the last of them."""
        self._position[indices] = -1
        self._order[np.isin(self._order, indices)] = -1
        if (self._order < 0).all():
            self._forget()

    def batch(self, indices: IndexArray) -> Batch:
        """Loaded samples, read-only for callers: arrays of shape (n, *sample_shape).  Raises ``NotLoadedError``."""
        first, count = int(indices[0]), len(indices)
        batch: Batch = {}  # filled in loops: a comprehension would be a call
        start = self._position_of[first] if 0 <= first < self.total_count else -1
        if start >= 0:
            here = self._order[start : start + count]
            # Bytes compare faster than arrays.
            if count == 1 or here.tobytes() == indices.astype(np.int64).tobytes():
                for name, block in self._blocks:
                    batch[name] = block[start : start + count]
                return batch
        positions = self._positions(indices)
        for name, block in self._blocks:
            batch[name] = block.take(positions, axis=0)
        return batch

    def _positions(self, indices: IndexArray) -> npt.NDArray[np.int32]:
        if indices.min() >= 0 and indices.max() < self.total_count:
            positions = self._position[indices]
            if positions.min() >= 0:
                return positions
        missing = next(i for i in indices.tolist() if not 0 <= i < self.total_count or self._position[i] < 0)
        raise NotLoadedError(f"{self.name}: sample {missing} is not loaded")

    def _forget(self) -> None:
        self._blocks = []
        self._order = np.empty(0, np.int64)
        self._position.fill(-1)


class NamedLibrary:
    """A ``SampleLibrary`` over another, whose batches may be bare arrays: those here are always by name."""

    def __init__(self, library: SampleLibrary, arrangement: Arrangement | None = None) -> None:
        """Each batch passes through ``arrangement``."""
        self.name = library.name
        self.total_count, self.performance_count = library.total_count, library.performance_count
        self.load, self.unload = library.load, library.unload
        self._batch, self._arrangement = library.batch, arrangement

    def batch(self, indices: IndexArray) -> Batch:
        """See ``SampleLibrary.batch``."""
        batch = named(self._batch(indices))
        return batch if self._arrangement is None else self._arrangement(batch)


def with_names(library: SampleLibrary, arrangement: Arrangement | None = None) -> ArrayLibrary | NamedLibrary:
    """A library whose batches are by name and pass through ``arrangement``: the library itself where possible."""
    if isinstance(library, ArrayLibrary):
        if arrangement is not None:
            library.arrange(arrangement)
        return library
    if isinstance(library, NamedLibrary) and arrangement is None:
        return library
    return NamedLibrary(library, arrangement)


def named(samples: Batch | Array) -> Batch:
    """Samples by name; a bare array is called ``INPUT``."""
    return samples if isinstance(samples, dict) else {INPUT: samples}


def paired(wanted: Collection[str], have: Collection[str]) -> dict[str, str] | None:
    """For each wanted name the one in the data: the same, or the only one where each side has one.

    None if there is no such pairing.
    """
    if len(wanted) == len(have) == 1:
        return dict(zip(wanted, have, strict=True))
    return {name: name for name in wanted} if set(wanted) == set(have) else None
