"""A backend whose file has the batch elsewhere than first, or nowhere: above this, it is first in every tensor.

Finds out by running zeros what a file does not say of its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import Batch
from drumfire.sut.local.backends import Backend, BackendError, HasLanes, first_line
from drumfire.sut.models.tensors import Tensors

Array = npt.NDArray[Any]


class Arranged:
    """Takes and gives the batch first; a tensor without a batch is that of the first sample, or the only one's."""

    def __init__(self, backend: Backend, tensors: Tensors) -> None:
        """``tensors``: the backend's, with what it does not know of itself."""
        self.description = backend.description
        self.tensors = tensors
        self._backend = backend
        self._axes = {one.name: one.batch_axis for one in tensors.inputs}
        self._outputs = tensors.output_axes or (0,) * len(tensors.outputs)
        if isinstance(backend, HasLanes):
            self.room, self.beside = backend.room, [Arranged(lane, tensors) for lane in backend.beside]

    def run(self, batch: Batch) -> Sequence[Array]:
        outputs = self._backend.run(_given(batch, self._axes))
        return [
            output[None] if axis is None else output if axis == 0 else np.moveaxis(output, axis, 0)
            for output, axis in zip(outputs, self._outputs, strict=True)
        ]

    def close(self) -> None:
        self._backend.close()


def _given(batch: Batch, axes: Mapping[str, int | None]) -> Batch:
    """The batch as the file has it: ``axes`` are its places in the inputs, by their names."""
    given: Batch = {}
    for name, samples in batch.items():
        axis = axes[name]
        if axis is None:
            given[name] = np.asarray(samples[0])
        else:
            given[name] = samples if axis == 0 else np.ascontiguousarray(np.moveaxis(samples, 0, axis))
    return given


def arranged(backend: Backend, tensors: Tensors | None = None) -> Backend:
    """The backend itself, if the batch is first in all that it takes and gives, and of any size that it says.

    ``tensors``: more about the same inputs and outputs than the backend knows.
    """
    shown = tensors or backend.tensors
    first = all(one.batch_axis == 0 for one in shown.inputs) and not any(axis != 0 for axis in shown.output_axes)
    same_size = shown.batch_size == backend.tensors.batch_size
    return backend if first and same_size else Arranged(backend, shown)


def with_outputs(backend: Backend, tensors: Tensors) -> Tensors:
    """These tensors, whose sizes are known, with the place of the batch in each output, and the sizes that are so.

    Where an output has no batch, or two samples cannot be run together, the batch size is 1.  Raises ``BackendError``
    if zeros cannot be run.
    """
    rows = tensors.batch_size or 1
    one = _shapes(backend, tensors, rows)
    tensors = replace(tensors, output_shapes=_true(tensors.output_shapes, one))
    if not tensors.has_batch:
        return replace(tensors, output_axes=(None,) * len(one))
    if tensors.batch_size is None:
        try:
            two = _shapes(backend, tensors, rows := 2)
        except BackendError:  # the model has its batch of one inside, as that of a reshape
            return _single(tensors, [0 if shape[:1] == (1,) else None for shape in one])
        axes = [_axis(before, after) for before, after in zip(one, two, strict=True)]
        if None in axes:
            return _single(tensors, axes)
    else:
        axes = [shape.index(rows) if rows in shape else None for shape in one]
    return replace(tensors, output_axes=tuple(axes))


def _single(tensors: Tensors, axes: Sequence[int | None]) -> Tensors:
    inputs = tuple(one._replace(batch_size=1) for one in tensors.inputs)
    return replace(tensors, inputs=inputs, output_axes=tuple(axes))


def _axis(one: tuple[int, ...], two: tuple[int, ...]) -> int | None:
    """Where an output has the batch, from its shapes for one sample and for two."""
    if len(one) != len(two):
        return None
    changed = [axis for axis, sizes in enumerate(zip(one, two, strict=True)) if sizes == (1, 2)]
    return changed[0] if changed else None


def _true(said: Sequence[tuple[int | None, ...] | None], found: Sequence[tuple[int, ...]]) -> Any:
    """What a file says of the outputs' shapes, without what is not so: the sizes in a file may be wrong."""
    return tuple(
        None
        if shape is None or len(shape) != len(sizes)
        else tuple(size if size == own else None for size, own in zip(shape, sizes, strict=True))
        for shape, sizes in zip(said, found, strict=False)
    )


def _shapes(backend: Backend, tensors: Tensors, rows: int) -> list[tuple[int, ...]]:
    """The shapes of the outputs as the file gives them, for so many samples of zeros."""
    batch = tensors.zeros(rows)
    try:
        outputs = backend.run(_given(batch, {one.name: one.batch_axis for one in tensors.inputs}))
    except Exception as error:  # whatever a framework may raise
        shapes = ", ".join(str(list(array.shape)) for array in batch.values())
        raise BackendError(f"the model cannot run on zeros of shape {shapes}: {first_line(error)}") from None
    return [np.shape(output) for output in outputs]
