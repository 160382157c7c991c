"""What a network takes: its single input, read from an ONNX graph or from a program exported by PyTorch.

Models of several inputs are refused here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from drumfire.sut.local.backends import Backend, BackendError, first_line

T = TypeVar("T")

_MOST_CHANNELS = 4
"""A sample of three dimensions whose first is at most this is an image, and that dimension holds its channels."""


class InputCountError(BackendError, ValueError):
    """A model that has no input, or several."""


class Input(NamedTuple):
    """The input of a network."""

    name: str
    dtype: npt.DTypeLike
    batch_size: int | None
    """None for any."""
    sample_shape: tuple[int | None, ...]
    """Without the batch; None where the network takes any size."""

    @property
    def is_image(self) -> bool:
        """Whether a sample is (channels, height, width)."""
        shape = self.sample_shape
        return len(shape) == 3 and shape[0] is not None and shape[0] <= _MOST_CHANNELS

    @property
    def channels_last(self) -> tuple[int | None, ...]:
        """The sample's shape, an image's as (height, width, channels)."""
        return (*self.sample_shape[1:], self.sample_shape[0]) if self.is_image else self.sample_shape


def only(inputs: Sequence[T]) -> T:
    """The single input.  Raises ``InputCountError``."""
    if len(inputs) != 1:
        raise InputCountError(f"the model has {len(inputs)} inputs; models of one input can be run")
    return inputs[0]


def fixed(shape: Sequence[int | None], model: Path | str = "the model") -> tuple[int, ...]:
    """The sample's shape, all of whose sizes must be fixed.  Raises ``BackendError``."""
    sizes = tuple(size for size in shape if size is not None)
    if len(sizes) != len(shape):
        raise BackendError(f"{model} leaves sizes other than the batch's open: export it with fixed ones")
    return sizes


def takes_channels_last(backend: Backend, shape: Sequence[int], dtype: npt.DTypeLike) -> bool | None:
    """Whether the backend takes these samples channels last rather than as they are; None if it takes neither."""

    def fits(sizes: Sequence[int]) -> bool:
        takes = backend.sample_shape
        return len(takes) == len(sizes) and all(one in (None, size) for one, size in zip(takes, sizes, strict=True))

    if np.dtype(backend.sample_dtype) == dtype:
        if fits(shape):
            return False
        if len(shape) == 3 and fits((*shape[1:], shape[0])):
            return True
    return None


def of_graph(graph: Any) -> Input:
    """The input of an ``onnx.GraphProto``.  Raises ``InputCountError``."""
    from onnx.helper import tensor_dtype_to_np_dtype

    constants = {constant.name for constant in graph.initializer}
    found = only([value for value in graph.input if value.name not in constants])
    kind = found.type.tensor_type
    batch, *sample = (size.dim_value or None for size in kind.shape.dim)
    return Input(found.name, np.dtype(tensor_dtype_to_np_dtype(kind.elem_type)), batch, tuple(sample))


def of_program(model: Path) -> tuple[Any, Input]:
    """The ``torch.export.ExportedProgram`` in a file, and its input.  Raises ``BackendError``."""
    import torch

    try:
        program = torch.export.load(model)
    except Exception as error:  # torch raises many kinds
        raise BackendError(f"torch cannot load {model} as an exported program: {first_line(error)}") from None
    names = program.graph_signature.user_inputs
    node = only([node for node in program.graph.nodes if node.op == "placeholder" and node.name in names])
    tensor = node.meta["val"]
    batch, *sample = (size if isinstance(size, int) else None for size in tensor.shape)
    return program, Input(node.name, torch.empty(0, dtype=tensor.dtype).numpy().dtype, batch, tuple(sample))
