"""Batches for backends that take only certain sizes: filled up to the next such size, the answers cut off again.

What fills a batch up is never seen outside: outputs have a row for each sample that was given, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def ladder(largest: int, *, fine: bool) -> tuple[int, ...]:
    """Batch sizes up to ``largest``: powers of two, and where ``fine`` also those times 1.5.

    A batch is filled up to less than twice its samples, or less than 1.5 times where fine.
    """
    sizes = {largest}
    size = 1
    while size < largest:
        sizes.add(size)
        if fine and size > 1 and size * 3 // 2 < largest:
            sizes.add(size * 3 // 2)
        size *= 2
    return tuple(sorted(sizes))


def fitting(sizes: Sequence[int], count: int) -> int:
    """The smallest of the ascending ``sizes`` that holds ``count`` samples.  ``ValueError`` where none does."""
    for size in sizes:
        if size >= count:
            return size
    raise ValueError(f"a batch of {count} samples: the model is loaded for {sizes[-1]} at most")


def told(sizes: Sequence[int]) -> str:
    """For a backend's description."""
    return f"batches filled up to {', '.join(map(str, sizes))}"


class Buckets:
    """Runs a batch of any size up to the largest on functions that take one size each."""

    def __init__(self, runs: Mapping[int, Callable[[Array], Sequence[Array]]]) -> None:
        self.sizes = tuple(sorted(runs))
        self._runs = runs
        self._filled: dict[int, Array] = {}

    def run(self, batch: Array) -> list[Array]:
        """Outputs of shape (n, ...) for a batch of shape (n, ...).  Raises ``ValueError`` for too large a batch."""
        count = len(batch)
        size = fitting(self.sizes, count)
        if count < size:
            # Rows are computed by themselves, so what is left of the batch before serves as well as anything else.
            filled = self._filled.get(size)
            if filled is None:
                filled = self._filled[size] = np.zeros((size, *batch.shape[1:]), batch.dtype)
            filled[:count] = batch
            batch = filled
        outputs = self._runs[size](batch)
        for output in outputs:
            if output.ndim == 0 or len(output) != size:
                raise ValueError(f"the model gives an output of shape {list(output.shape)} for {size} samples")
        return [output[:count] for output in outputs]
