"""The ids that a network looks up in a table, such as the words of a text: how many rows the table has.

Reads ONNX files without the onnx package; a program of PyTorch's says it itself (``Input.rows``).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.messages.protobuf import decode
from drumfire.sut.models.model import Form
from drumfire.sut.models.tensors import Tensors

_TENSOR = {1: ("dims", [int]), 8: ("name", str)}
_ATTRIBUTE = {1: ("name", str), 3: ("i", int), 5: ("t", _TENSOR)}
_NODE = {1: ("inputs", [str]), 2: ("outputs", [str]), 4: ("op", str), 5: ("attributes", [_ATTRIBUTE])}
_MODEL = {7: ("graph", {1: ("nodes", [_NODE]), 5: ("tables", [_TENSOR])})}
_SAME_VALUES = {"Cast", "Clip", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice"}
"""Operators whose first output has values of their first input."""


class Step(NamedTuple):
    """An operation of a network."""

    op: str
    inputs: list[str]
    outputs: list[str]
    axis: int = 0


def of(path: Path, tensors: Tensors) -> dict[str, int]:
    """How many rows the smallest table has that each integer input is looked up in; others are left out.

    Of a file that says nothing about it, or that cannot be read, none.
    """
    names = {one.name for one in tensors.inputs if one.dtype.kind in "iu"}
    known = {one.name: one.rows for one in tensors.inputs if one.rows is not None}
    if known or path.suffix != Form.ONNX.value or not names or not path.is_file():
        return known
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        graph = decode(content, _MODEL)["graph"]
    except (OSError, ValueError, ProtocolError):
        return {}
    return {} if graph is None else looked_up(names, *_read(graph))


def looked_up(names: Iterable[str], steps: Iterable[Step], tables: Mapping[str, int]) -> dict[str, int]:
    """By input, the rows of the smallest table that it is looked up in.

    ``steps``: in the order in which they are computed.  ``tables``: the rows of those that are constant.
    """
    source, tables = {name: name for name in names}, dict(tables)
    found: dict[str, int] = {}
    for step in steps:
        if step.op == "Gather" and len(step.inputs) > 1 and step.axis == 0:
            table, ids = step.inputs[:2]
            if ids in source and table in tables:
                name = source[ids]
                found[name] = min(found.get(name, tables[table]), tables[table])
        if step.inputs and step.inputs[0] in source and step.op in _SAME_VALUES:
            source[step.outputs[0]] = source[step.inputs[0]]
        elif step.inputs and step.inputs[0] in tables and step.op in ("Cast", "Identity", "DequantizeLinear"):
            tables[step.outputs[0]] = tables[step.inputs[0]]
    return found


def _read(graph: Mapping[str, Any]) -> tuple[list[Step], dict[str, int]]:
    tables = {one["name"]: one["dims"][0] for one in graph["tables"] if one["dims"]}
    steps = []
    for node in graph["nodes"]:
        attributes = {one["name"]: one for one in node["attributes"]}
        steps.append(Step(node["op"], node["inputs"], node["outputs"], attributes.get("axis", {"i": 0})["i"]))
        value = attributes.get("value", {"t": None})["t"]
        if node["op"] == "Constant" and value and value["dims"]:
            tables[node["outputs"][0]] = value["dims"][0]
    return steps, tables
