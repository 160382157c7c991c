"""Batches for backends that take only certain sizes: each is padded to the next such size.

The padding's outputs are cut off again, so that outputs have one row for each sample of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import Batch
from drumfire.sut.local.responses import check_outputs
from drumfire.sut.models.tensors import Tensors

Array = npt.NDArray[Any]
RunSized = Callable[[Batch], Sequence[Array]]
"""Takes a batch of one certain size; returns the outputs, with as many rows."""


def ladder(largest: int, *, fine: bool) -> tuple[int, ...]:
    """Batch sizes up to ``largest``: powers of two, and with ``fine`` also their multiples by 1.5.

    So a batch is padded to less than twice its size, or to less than 1.5 times with ``fine``.
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
    """The smallest of the ascending ``sizes`` that holds ``count`` samples.  Raises ``ValueError`` if all are less."""
    for size in sizes:
        if size >= count:
            return size
    raise ValueError(f"a batch of {count} samples: the model is loaded for {sizes[-1]} at most")


def count_of(batch: Batch) -> int:
    """The number of samples."""
    return len(next(iter(batch.values())))


def description(sizes: Sequence[int]) -> str:
    """Part of a backend's description, which results record."""
    return f"batches filled up to {', '.join(map(str, sizes))}"


class Buckets:
    """Runs batches of any size up to the largest on functions that take one batch size each."""

    def __init__(self, runs: Mapping[int, RunSized], outputs: Sequence[str] = ()) -> None:
        """``outputs``: their names, for messages."""
        self.sizes = tuple(sorted(runs))
        self._runs, self._names = runs, outputs
        self._filled: dict[int, Batch] = {}

    def run(self, batch: Batch) -> list[Array]:
        """Outputs of shape (n, ...) for inputs of shape (n, ...).  Raises ``ValueError`` for too large a batch,
        and ``OutputError``."""
        count = count_of(batch)
        size = fitting(self.sizes, count)
        if count < size:
            # Rows do not influence each other, so the padding may be rows of an earlier batch.
            filled = self._filled.get(size)
            if filled is None:
                filled = {name: np.zeros((size, *one.shape[1:]), one.dtype) for name, one in batch.items()}
                self._filled[size] = filled
            for name, samples in batch.items():
                filled[name][:count] = samples
            batch = filled
        try:
            outputs = self._runs[size](batch)
        except BaseException:
            # A row that the model refuses must fill up no other batch.
            self._filled.pop(size, None)
            raise
        check_outputs(outputs, self._names, size)
        return [output[:count] for output in outputs]


class PaddedModel(Buckets):
    """A ``Backend`` over functions that take one batch size each."""

    def __init__(self, runs: Mapping[int, RunSized], tensors: Tensors, computes: str) -> None:
        super().__init__(runs, tensors.outputs)
        self.tensors = tensors
        self.description = f"{computes}, {description(self.sizes)}"

    def close(self) -> None:
        self._runs = {}
