"""What a network takes and gives, read from an ONNX graph or from a program exported by PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.sut.local.backends import BackendError, first_line
from drumfire.sut.models.tensors import Input, Tensors
from drumfire.sut.models.vocabulary import Step, looked_up


class Taken(NamedTuple):
    """An input as a file describes it."""

    name: str
    sizes: tuple[int | str, ...]
    """Batch included; a text for an open size: its name, or "" if it has none."""
    dtype: np.dtype[Any]
    is_bfloat16: bool = False
    optional: bool = False


def taken(
    name: str, sizes: Iterable[object], dtype: npt.DTypeLike, *, is_bfloat16: bool = False, optional: bool = False
) -> Taken:
    """``sizes``: integers, and the names of open sizes as texts; anything else is an open size without a name."""
    kinds = (size if isinstance(size, int | str) else "" for size in sizes)
    return Taken(name, tuple("" if size == "?" else size for size in kinds), np.dtype(dtype), is_bfloat16, optional)


def as_inputs(takes: Sequence[Taken]) -> tuple[tuple[Input, ...], str]:
    """The inputs, and the name of their batch.

    The batch is the first size of an input where that is open, and in other inputs the size of the same name, wherever
    it stands.  An input that has no such size is the same for all samples.  Where no first size is open, all inputs
    have the same one as a fixed batch, or there is none and every input is one sample.  Raises ``BackendError``.
    """
    if not takes:
        raise BackendError("the model has no input, so it cannot be fed with samples")
    needed = [one for one in takes if not one.optional]
    firsts = [one.sizes[0] for one in needed if one.sizes]
    is_open = any(isinstance(first, str) for first in firsts)
    batch = next((first for first in firsts if isinstance(first, str) and first), "")
    fixed = firsts[0] if not is_open and len(firsts) == len(needed) and len(set(firsts)) == 1 else None
    inputs = []
    for one in takes:
        if is_open:
            named = one.sizes.index(batch) if batch and batch in one.sizes else None
            axis = 0 if one.sizes and isinstance(one.sizes[0], str) else named
        else:
            axis = 0 if fixed is not None and one.sizes[:1] == (fixed,) else None
        inputs.append(_input(one, axis, int(fixed) if axis == 0 and fixed is not None else None))
    if all(one.batch_axis is None for one in inputs):
        inputs = [one._replace(batch_size=1) for one in inputs]
    return tuple(inputs), batch


def _input(one: Taken, axis: int | None, batch_size: int | None) -> Input:
    sizes = [size for place, size in enumerate(one.sizes) if place != axis]
    dims = tuple(size if isinstance(size, str) else "" for size in sizes)
    return Input(
        one.name,
        tuple(size if isinstance(size, int) else None for size in sizes),
        one.dtype,
        batch_size,
        dims if any(dims) else (),
        axis,
        one.is_bfloat16,
        one.optional,
    )


def fixed(tensors: Tensors, model: Path, backend: str) -> Tensors:
    """The same tensors, for a backend whose samples must be numbers in fixed sizes.  Raises ``BackendError``."""
    for one in tensors.inputs:
        if one.is_bfloat16 or one.dtype.hasobject:
            kind = "bfloat16" if one.is_bfloat16 else "text"
            raise BackendError(
                f"the model's input {one.name!r} is {kind}, which {backend} does not take: run it on "
                f"onnxruntime or {'pytorch' if one.is_bfloat16 else 'tf'}"
            )
        if None in one.sample_shape:
            size = f"--dim {next(iter(one.open_dims))}=N" if one.open_dims else f"--shape {one.name}=..."
            raise BackendError(
                f"{backend} compiles a model for fixed sizes, and {model} takes {tensors}: choose one with {size}"
            )
    return tensors


def shape_of(sizes: Iterable[object] | None) -> tuple[int | None, ...] | None:
    """An output's shape from what a file says: None for a size that it leaves open, and for a shape that it does not
    say."""
    return None if sizes is None else tuple(size if type(size) is int and size >= 0 else None for size in sizes)


def numbered(count: int) -> tuple[str, ...]:
    """Names for outputs that have none."""
    return tuple(f"OUTPUT__{position}" for position in range(count))


def of_graph(graph: Any) -> Tensors:
    """The tensors of an ``onnx.GraphProto``.  Raises ``BackendError``."""
    from onnx import TensorProto
    from onnx.helper import tensor_dtype_to_np_dtype

    constants = {constant.name for constant in graph.initializer}
    takes = []
    for value in graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        is_bfloat16 = kind.elem_type == TensorProto.BFLOAT16
        dtype = np.dtype(np.uint16) if is_bfloat16 else tensor_dtype_to_np_dtype(kind.elem_type)
        sizes = [
            size.dim_param if size.WhichOneof("value") != "dim_value" else size.dim_value for size in kind.shape.dim
        ]
        takes.append(taken(value.name, sizes, dtype, is_bfloat16=is_bfloat16))
    inputs, batch = as_inputs(takes)
    shapes = (
        shape_of(size.dim_value if size.WhichOneof("value") == "dim_value" else None for size in kind.shape.dim)
        if (kind := output.type.tensor_type).HasField("shape")
        else None
        for output in graph.output
    )
    return Tensors(inputs, tuple(output.name for output in graph.output), batch, output_shapes=tuple(shapes))


_SAME_VALUES = ("to", "_to_copy", "clone", "view", "reshape", "clamp", "squeeze", "unsqueeze", "slice")
"""Operations of ATen whose result has values of their first argument."""


def _looked_up(program: Any, names: Sequence[str]) -> dict[str, int]:
    """For each input of these names that is looked up in a table, the table's rows."""
    steps, tables = [], {}
    for node in program.graph.nodes:
        shape: Sequence[Any] = getattr(node.meta.get("val"), "shape", ())
        if node.op == "placeholder" and len(shape) and isinstance(shape[0], int):
            tables[node.name] = shape[0]
        operation = str(node.target).split(".")
        arguments = [getattr(one, "name", "") for one in node.args]
        if operation[0] == "aten" and operation[1] in ("embedding", *_SAME_VALUES):
            steps.append(Step("Gather" if operation[1] == "embedding" else "Identity", arguments, [node.name]))
    return looked_up(names, steps, tables)


def of_program(model: Path) -> tuple[Any, Tensors]:
    """The ``torch.export.ExportedProgram`` in a file, and its tensors.  Raises ``BackendError``."""
    import torch

    try:
        program = torch.export.load(model)
    except Exception as error:  # torch raises many kinds
        raise BackendError(f"torch cannot load {model} as an exported program: {first_line(error)}") from None
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    takes = []
    for name in signature.user_inputs:
        value = values.get(name)
        if not isinstance(value, torch.Tensor):
            raise BackendError(f"the program's input {name} is no tensor: export it with tensors only")
        is_bfloat16 = value.dtype == torch.bfloat16
        dtype = np.dtype(np.uint16) if is_bfloat16 else torch.empty(0, dtype=value.dtype).numpy().dtype
        sizes = [size if isinstance(size, int) else str(size) for size in value.shape]
        takes.append(taken(name, sizes, dtype, is_bfloat16=is_bfloat16))
    inputs, batch = as_inputs(takes)
    rows = _looked_up(program, [one.name for one in inputs if one.dtype.kind in "iu"])
    inputs = tuple(one._replace(rows=rows.get(one.name)) for one in inputs)
    given = [values.get(name) for name in signature.user_outputs]
    outputs = numbered(len(given))
    returned = program.call_spec.out_spec
    if returned is not None and returned.type is dict and len(returned.context) == len(outputs):
        outputs = tuple(map(str, returned.context))
    bfloat16 = (name for name, one in zip(outputs, given, strict=True) if getattr(one, "dtype", None) == torch.bfloat16)
    shapes = tuple(shape_of(getattr(one, "shape", None)) for one in given)
    return program, Tensors(inputs, outputs, batch, bfloat16_outputs=frozenset(bfloat16), output_shapes=shapes)


def keywords(program: Any) -> Sequence[str]:
    """The arguments that an exported program takes by name: its last inputs.  It refuses them by position."""
    names: Sequence[str] = program.call_spec.in_spec.child(1).context
    return names
