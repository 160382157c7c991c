"""The inputs and outputs of a model on the wire: names, datatypes and shapes.

Reads names from ONNX files or uses those of this project's exports, and runs the loaded model to find the rest.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.messages.protobuf import Schema, decode
from drumfire.sut.kserve.messages.tensors import DATATYPES, Shape, TensorSpec
from drumfire.sut.local.backends import Backend, BackendError, first_line
from drumfire.sut.models.detector import OUTPUTS as DETECTOR_OUTPUTS
from drumfire.sut.models.detector import DetectionJudge
from drumfire.sut.models.model import Form, Model

_NAMED: Schema = {1: ("name", str)}
_ONNX: Schema = {
    7: ("graph", {5: ("initializer", [{8: ("name", str)}]), 11: ("input", [_NAMED]), 12: ("output", [_NAMED])})
}
"""Source: onnx.proto's ModelProto, GraphProto, TensorProto and ValueInfoProto."""
_OPEN_SIZE = 8
"""The size to try a model with where it accepts any."""
_BY_DTYPE = {dtype: name for name, dtype in DATATYPES.items() if name != "BF16"}


class Names(NamedTuple):
    input: str
    outputs: Sequence[str]


class Signature(NamedTuple):
    """The tensors of one sample, without the batch."""

    input: TensorSpec
    outputs: tuple[TensorSpec, ...]


def signature(backend: Backend, weights: Path, model: Model | None) -> Signature:
    """The signature of a loaded model; ``model`` is the named model, or None for a bare file.  Raises
    ``BackendError``."""
    names = _names(weights, model)
    dtype = np.dtype(backend.sample_dtype)
    taken = tuple(-1 if size is None else size for size in backend.sample_shape)
    outputs = probe(backend, [1] if backend.fixed_batch_size else [1, 2])
    if len(names.outputs) != len(outputs):
        names = names._replace(outputs=[f"OUTPUT__{position}" for position in range(len(outputs))])
    return Signature(
        TensorSpec(names.input, datatype(dtype), taken if model is None else model.input_shape),
        tuple(
            TensorSpec(name, datatype(kind), shape) for name, (kind, shape) in zip(names.outputs, outputs, strict=True)
        ),
    )


def probe(backend: Backend, sizes: Sequence[int]) -> list[tuple[np.dtype[Any], Shape]]:
    """The outputs' types and shapes without the batch; -1 for a size that varies.  Raises ``BackendError``.

    ``sizes``: the batch sizes to run.
    """
    found: list[list[npt.NDArray[Any]]] = []
    for open_size in (_OPEN_SIZE, _OPEN_SIZE * 2) if None in backend.sample_shape else (_OPEN_SIZE,):
        shape = [open_size if size is None else size for size in backend.sample_shape]
        for rows in sizes:
            rows = backend.fixed_batch_size or rows
            try:
                outputs = list(backend.run(np.zeros((rows, *shape), backend.sample_dtype)))
            except Exception as error:  # whatever a framework may raise
                raise BackendError(
                    f"the model cannot run on zeros of shape {[rows, *shape]}: {first_line(error)}"
                ) from None
            for output in outputs:
                if output.ndim == 0 or len(output) != rows:
                    raise BackendError(
                        f"the model returned an output of shape {list(output.shape)} for {rows} samples: its first "
                        "size must be the batch"
                    )
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


def _names(weights: Path, model: Model | None) -> Names:
    if weights.suffix == Form.ONNX.value:
        names = onnx_names(weights)
        if names is not None:
            return names
    if model is None:
        return Names("INPUT__0", ())
    return Names("input", DETECTOR_OUTPUTS if isinstance(model, DetectionJudge) else ("logits",))


def onnx_names(path: Path) -> Names | None:
    """The names in an ONNX file, read without its weights; None unless it is such a file and has one input."""
    try:
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            graph = decode(view, _ONNX)["graph"]
    except (OSError, ValueError, BufferError, ProtocolError):
        return None
    if graph is None:
        return None
    weights = {one["name"] for one in graph["initializer"]}
    inputs = [one["name"] for one in graph["input"] if one["name"] not in weights]
    return Names(inputs[0], [one["name"] for one in graph["output"]]) if len(inputs) == 1 else None
