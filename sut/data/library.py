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

_NOWHERE = np.iinfo(np.int64).max
"""No row of the blocks: for samples that are not loaded."""
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
        self._read: Callable[[IndexArray], dict[str, Any]] = lambda indices: named(read(indices))
        self._position = np.full(total_count, _NOWHERE)  # dataset index -> row of the blocks
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
        self._hold(self._read(indices), indices)
        self._keep_order(indices.astype(np.int64))
        rows = np.arange(indices.size)
        self._position[indices[::-1]] = rows[::-1]  # backwards, so that the first copy of a sample wins

    def unload(self, indices: IndexArray) -> None:
        """Unload these samples; the blocks are freed with the last of them."""
        self._position[indices] = _NOWHERE
        self._order[np.isin(self._order, indices)] = -1
        if (self._order < 0).all():
            self._forget()

    def batch(self, indices: IndexArray, room: Batch | None = None) -> Batch:
        """Loaded samples, read-only for callers: arrays of shape (n, *sample_shape).  Raises ``NotLoadedError``.

        ``room``: arrays of the same shapes, which hold the samples in the end where these must be gathered.
        """
        first, count = int(indices[0]), len(indices)
        batch: Batch = {}  # filled in loops: a comprehension would be a call
        start = self._position_of[first] if 0 <= first < self.total_count else _NOWHERE
        end = start + count
        # The last sample shows most orders to be others.  Of the rest, bytes compare faster than arrays.
        if end <= self._order.size and (
            count == 1
            or (
                self._order_at[end - 1] == int(indices[-1])
                and self._order[start:end].tobytes() == indices.astype(np.int64).tobytes()
            )
        ):
            for name, block in self._blocks:
                batch[name] = block[start:end]
            return batch
        # A negative index would count from the end.
        if not self._blocks or (indices.dtype.kind != "u" and indices.min() < 0):
            raise self._not_loaded(indices)
        try:
            positions = self._position.take(indices)
            if room and positions.max() == _NOWHERE:
                raise IndexError
            for name, block in self._blocks:
                own = room.get(name) if room else None
                if own is not None and own.dtype is block.dtype:  # types of numbers are single objects
                    # In the mode that refuses indices, numpy would gather elsewhere first.
                    batch[name] = block.take(positions, 0, own, "clip")
                else:
                    batch[name] = block.take(positions, axis=0)
        except IndexError:
            raise self._not_loaded(indices) from None
        return batch

    def _hold(self, samples: dict[str, Any], indices: IndexArray) -> None:
        """Keep what was read for these indices."""
        blocks = [(name, np.ascontiguousarray(array)) for name, array in samples.items()]
        for name, block in blocks:
            if len(block) != indices.size:
                raise ValueError(f"{self.name}: {len(block)} samples of {name!r} were read for {indices.size} indices")
        self._blocks = blocks

    def _not_loaded(self, indices: IndexArray) -> NotLoadedError:
        loaded = np.flatnonzero(self._position != _NOWHERE)
        missing = next((i for i in indices.tolist() if i not in loaded), "")
        return NotLoadedError(f"{self.name}: sample {missing} is not loaded")

    def _keep_order(self, order: npt.NDArray[np.int64]) -> None:
        self._order, self._order_at = order, order.data  # the same, which reads one number faster

    def _forget(self) -> None:
        self._blocks = []
        self._keep_order(np.empty(0, np.int64))
        self._position.fill(_NOWHERE)


class NamedLibrary:
    """A ``SampleLibrary`` over another, whose batches may be bare arrays: those here are always by name."""

    def __init__(self, library: SampleLibrary, arrangement: Arrangement | None = None) -> None:
        """Each batch passes through ``arrangement``."""
        self.name = library.name
        self.total_count, self.performance_count = library.total_count, library.performance_count
        self.load, self.unload = library.load, library.unload
        self._batch, self._arrangement = library.batch, arrangement

    def batch(self, indices: IndexArray, room: Batch | None = None) -> Batch:
        """See ``SampleLibrary.batch``; it does not use ``room``."""
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
