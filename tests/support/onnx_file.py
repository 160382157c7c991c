"""ONNX files without the package onnx: the sum of float inputs of shape (N, 2).

Source of the field numbers: onnx.proto's ModelProto, GraphProto, NodeProto, ValueInfoProto and TypeProto.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drumfire.sut.kserve.messages.protobuf import bytes_field, number_field, text_field

_FLOAT = 1
_IR_VERSION, _OPSET = 8, 18


def write_sum(path: Path, inputs: Sequence[str], output: str = "sum") -> Path:
    """The file, with these inputs."""
    node = b"".join(text_field(1, name) for name in inputs) + text_field(2, output) + text_field(4, "Sum")
    graph = (
        bytes_field(1, node)
        + text_field(2, "graph")
        + b"".join(bytes_field(11, _tensor(name)) for name in inputs)
        + bytes_field(12, _tensor(output))
    )
    opset = number_field(2, _OPSET)
    path.write_bytes(number_field(1, _IR_VERSION) + bytes_field(7, graph) + bytes_field(8, opset))
    return path


def _tensor(name: str) -> bytes:
    shape = bytes_field(1, text_field(2, "N")) + bytes_field(1, number_field(1, 2))
    return text_field(1, name) + bytes_field(2, bytes_field(1, number_field(1, _FLOAT) + bytes_field(2, shape)))
