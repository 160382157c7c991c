"""The inputs and outputs of a model on the wire: names, datatypes and shapes.

The names are those of a bare file or of a named model, and the loaded model is run to find the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.sut.kserve.messages.tensors import DATATYPES, Shape, TensorSpec
from drumfire.sut.local.backends import Backend, BackendError, first_line
from drumfire.sut.local.backends.interface import numbered
from drumfire.sut.local.responses import check_outputs
from drumfire.sut.models.tensors import Tensors

_OPEN_SIZE = 8
"""The size to try a model with where it accepts any."""
_BY_DTYPE = {dtype: name for name, dtype in DATATYPES.items() if name != "BF16"}


class Signature(NamedTuple):
    """The tensors of one sample, without the batch."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def signature(backend: Backend, tensors: Tensors) -> Signature:
    """The signature of a loaded model with these tensors on the wire.  Raises ``BackendError``.

    The outputs are numbered if ``tensors`` does not have as many names.
    """
    outputs = probe(backend, [1] if backend.tensors.batch_size else [1, 2])
    names = tensors.outputs if len(tensors.outputs) == len(outputs) else numbered(len(outputs))
    return Signature(
        tuple(
            TensorSpec(one.name, datatype(one.dtype), tuple(-1 if size is None else size for size in one.sample_shape))
            for one in tensors.inputs
        ),
        tuple(TensorSpec(name, datatype(kind), shape) for name, (kind, shape) in zip(names, outputs, strict=True)),
    )


def probe(backend: Backend, sizes: Sequence[int]) -> list[tuple[np.dtype[Any], Shape]]:
    """The outputs' types and shapes without the batch; -1 for a size that varies.

    Raises ``BackendError``, and ``OutputError`` for an output without a row for each sample.

    ``sizes``: the batch sizes to run.
    """
    tensors = backend.tensors
    found: list[list[npt.NDArray[Any]]] = []
    for open_size in (_OPEN_SIZE, _OPEN_SIZE * 2) if tensors.has_open_sizes else (_OPEN_SIZE,):
        for rows in sizes:
            rows = tensors.batch_size or rows
            batch = tensors.zeros(rows, open_size)
            try:
                outputs = list(backend.run(batch))
            except Exception as error:  # whatever a framework may raise
                shapes = ", ".join(str(list(array.shape)) for array in batch.values())
                raise BackendError(f"the model cannot run on zeros of shape {shapes}: {first_line(error)}") from None
            check_outputs(outputs, tensors.outputs, rows)
            found.append(outputs)
    return [_together(list(one)) for one in zip(*found, strict=True)]


def datatype(dtype: npt.DTypeLike) -> str:
    """The protocol's name of a type.  Raises ``BackendError`` if it has no name for it."""
    name = _BY_DTYPE.get(np.dtype(dtype).newbyteorder("<"))
    if name is None:
        raise BackendError(f"the model has a tensor of {np.dtype(dtype)}, which cannot be served")
    return name


def _together(arrays: Sequence[npt.NDArray[Any]]) -> tuple[np.dtype[Any], Shape]:
    """The type and shape of one output, from several batches."""
    shapes = [array.shape[1:] for array in arrays]
    if len({len(shape) for shape in shapes}) != 1:
        raise BackendError("the model returns outputs with varying numbers of dimensions, which cannot be served")
    return arrays[0].dtype, tuple(sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True))
