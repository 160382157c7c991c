"""What a network takes and gives, read from an ONNX graph or from a program exported by PyTorch.

Models of several inputs are refused here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.sut.local.backends import BackendError, first_line
from drumfire.sut.models.tensors import Input, Tensors

_MOST_INPUTS = 1


class InputCountError(BackendError, ValueError):
    """A model that has no input, or too many."""


def check_inputs(names: Sequence[str]) -> None:
    """Check that a model with these inputs can be loaded.  Raises ``InputCountError``."""
    if not names:
        raise InputCountError("the model has no input, so it cannot be fed with samples")
    if len(names) > _MOST_INPUTS:
        raise InputCountError(
            f"the model has {len(names)} inputs ({', '.join(names)}), and only models of one can be loaded: measure it "
            "on a Triton server ('drumfire run triton'), or call it from a coroutine (drumfire.CoroutineSystem)"
        )


def fixed(tensors: Tensors, model: Path | str = "the model") -> Tensors:
    """The same tensors, all of whose samples must have fixed sizes.  Raises ``BackendError``."""
    if tensors.has_open_sizes:
        raise BackendError(f"{model} leaves sizes other than the batch's open: export it with fixed ones")
    return tensors


def as_input(name: str, sizes: Iterable[object], dtype: npt.DTypeLike) -> Input:
    """An input of this shape, batch included; a size that is no integer is open.  Raises ``BackendError``."""
    shape = [size if isinstance(size, int) else None for size in sizes]
    if not shape:
        raise BackendError(f"the model's input {name!r} is a single number: export it with a batch as its first size")
    return Input(name, tuple(shape[1:]), np.dtype(dtype), shape[0])


def numbered(count: int) -> tuple[str, ...]:
    """Names for outputs that have none."""
    return tuple(f"OUTPUT__{position}" for position in range(count))


def of_graph(graph: Any) -> Tensors:
    """The tensors of an ``onnx.GraphProto``.  Raises ``BackendError``."""
    from onnx.helper import tensor_dtype_to_np_dtype

    constants = {constant.name for constant in graph.initializer}
    takes = [value for value in graph.input if value.name not in constants]
    check_inputs([value.name for value in takes])
    inputs = []
    for value in takes:
        kind = value.type.tensor_type
        sizes = [size.dim_value or None for size in kind.shape.dim]
        inputs.append(as_input(value.name, sizes, tensor_dtype_to_np_dtype(kind.elem_type)))
    return Tensors(tuple(inputs), tuple(output.name for output in graph.output))


def of_program(model: Path) -> tuple[Any, Tensors]:
    """The ``torch.export.ExportedProgram`` in a file, and its tensors.  Raises ``BackendError``."""
    import torch

    try:
        program = torch.export.load(model)
    except Exception as error:  # torch raises many kinds
        raise BackendError(f"torch cannot load {model} as an exported program: {first_line(error)}") from None
    names = program.graph_signature.user_inputs
    check_inputs(names)
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [
        as_input(name, values[name].shape, torch.empty(0, dtype=values[name].dtype).numpy().dtype) for name in names
    ]
    outputs = numbered(len(program.graph_signature.user_outputs))
    returned = program.call_spec.out_spec
    if returned is not None and returned.type is dict and len(returned.context) == len(outputs):
        outputs = tuple(map(str, returned.context))
    return program, Tensors(tuple(inputs), outputs)
