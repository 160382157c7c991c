"""A sample library over arrays: the loaded samples lie in one block, in load order.

Loads samples and returns them as batches.  Does not depend on what they show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import IndexArray

Samples = npt.NDArray[Any]


class NotLoadedError(LookupError):
    """A batch needs a sample that is not loaded."""


class ArrayLibrary:
    """A ``SampleLibrary`` whose samples all have the same shape.

    A second load replaces the first.  ``batch`` takes a few microseconds: it returns a view of the block if the samples
    lie there in the wanted order, and otherwise a gathered copy.
    """

    def __init__(
        self, name: str, read: Callable[[IndexArray], Samples], total_count: int, performance_count: int
    ) -> None:
        """``read`` returns the samples of n dataset indices, in their order: an array of shape (n, *sample_shape)."""
        self.name = name
        self.total_count = total_count
        self.performance_count = performance_count
        self._read = read
        self._position = np.full(total_count, -1, np.int32)  # dataset index -> row of the block; -1: not loaded
        self._block: Samples
        self._order: npt.NDArray[np.int64]  # row of the block -> dataset index; -1: unloaded
        self._forget()

    def lay_channels_last(self) -> None:
        """From the next load on, store samples of shape (channels, height, width) as (height, width, channels)."""
        read = self._read
        self._read = lambda indices: np.moveaxis(read(indices), 1, -1)

    def load(self, indices: IndexArray) -> None:
        """Read these samples into the block.  Raises ``IndexError`` for an index that the data set does not have.

        Keeps repeated samples: a set padded with its first samples then has views also for batches across its end.
        """
        if indices.size and not 0 <= indices.min() <= indices.max() < self.total_count:
            raise IndexError(f"{self.name} has the samples 0..{self.total_count - 1}")
        self._forget()
        self._block = np.ascontiguousarray(self._read(indices))
        self._order = indices.astype(np.int64)
        rows = np.arange(indices.size, dtype=np.int32)
        self._position[indices[::-1]] = rows[::-1]  # backwards, so that the first copy of a sample wins

    def unload(self, indices: IndexArray) -> None:
        """Unload these samples; the block is freed with the last of them."""
        self._position[indices] = -1
        self._order[np.isin(self._order, indices)] = -1
        if (self._order < 0).all():
            self._forget()

    def batch(self, indices: IndexArray) -> Samples:
        """Loaded samples of shape (n, *sample_shape), read-only for callers.  Raises ``NotLoadedError``."""
        first, count = int(indices[0]), len(indices)
        # A memoryview reads one number faster than numpy does, and bytes compare faster than arrays.
        start = self._position.data[first] if 0 <= first < self.total_count else -1
        if start >= 0:
            here = self._order[start : start + count]
            if count == 1 or here.tobytes() == indices.astype(np.int64).tobytes():
                return self._block[start : start + count]
        return self._gathered(indices)

    def _gathered(self, indices: IndexArray) -> Samples:
        if indices.min() >= 0 and indices.max() < self.total_count:
            positions = self._position[indices]
            if positions.min() >= 0:
                return self._block.take(positions, axis=0)
        missing = next(i for i in indices.tolist() if not 0 <= i < self.total_count or self._position[i] < 0)
        raise NotLoadedError(f"{self.name}: sample {missing} is not loaded")

    def _forget(self) -> None:
        self._block = np.empty(0)
        self._order = np.empty(0, np.int64)
        self._position.fill(-1)
