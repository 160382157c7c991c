"""ONNX files without the package onnx: the sum of float inputs of shape (N, 2), or what comes in.

Source of the field numbers: onnx.proto's ModelProto, GraphProto, NodeProto, ValueInfoProto and TypeProto.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from drumfire.sut.kserve.messages.protobuf import bytes_field, number_field, text_field

_FLOAT = 1
_IR_VERSION, _OPSET = 8, 18


def write_sum(path: Path, inputs: Sequence[str], output: str = "sum") -> Path:
    """The file, with these inputs."""
    return _write(path, "Sum", inputs, output, _tensor)


def write_identity(path: Path, kind: int, sizes: Sequence[str | int] | None) -> Path:
    """The file, with an input x of this type of TensorProto's; ``sizes``: None for any number of them."""
    return _write(path, "Identity", ["x"], "y", lambda name: _tensor(name, kind, sizes))


def _write(path: Path, operator: str, inputs: Sequence[str], output: str, tensor: Callable[[str], bytes]) -> Path:
    node = b"".join(text_field(1, name) for name in inputs) + text_field(2, output) + text_field(4, operator)
    graph = (
        bytes_field(1, node)
        + text_field(2, "graph")
        + b"".join(bytes_field(11, tensor(name)) for name in inputs)
        + bytes_field(12, tensor(output))
    )
    opset = number_field(2, _OPSET)
    path.write_bytes(number_field(1, _IR_VERSION) + bytes_field(7, graph) + bytes_field(8, opset))
    return path


def _tensor(name: str, kind: int = _FLOAT, sizes: Sequence[str | int] | None = ("N", 2)) -> bytes:
    shape = b""
    if sizes is not None:
        fields = (text_field(2, size) if isinstance(size, str) else number_field(1, size) for size in sizes)
        shape = bytes_field(2, b"".join(bytes_field(1, field) for field in fields))
    return text_field(1, name) + bytes_field(2, bytes_field(1, number_field(1, kind) + shape))
