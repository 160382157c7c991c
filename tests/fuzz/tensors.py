"""Tensors: any datatype, shape and contents, as bytes and as JSON.

The first byte chooses the datatype; the lengths of a shape follow up to a zero, then the contents.
"""

from __future__ import annotations

import contextlib
import json
import struct

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.messages.protobuf import bytes_field
from drumfire.sut.kserve.messages.tensors import (
    DATATYPES,
    TensorError,
    as_array,
    check_tensor,
    from_json_values,
    pack_bytes,
    to_json_values,
    unpack_bytes,
)
from drumfire.sut.kserve.messages.typed_contents import typed_contents

_KINDS = [*DATATYPES, "BYTES", "FP99"]


def _seed(datatype: str, shape: list[int], contents: bytes) -> bytes:
    return bytes((_KINDS.index(datatype),)) + json.dumps(shape).encode() + b"\0" + contents


SEEDS = [
    _seed("FP32", [1, 2], struct.pack("<2f", 1.5, -2)),
    _seed("FP16", [2], b"\0\x7c\0\x7e"),
    _seed("BOOL", [3], b"\0\1\2"),
    _seed("UINT64", [1], b"\xff" * 8),
    _seed("BYTES", [2], struct.pack("<I2sI", 2, b"ab", 0)),
    _seed("BF16", [1, 1], b"\0\0"),
    _seed("INT8", [0, 5], b""),
    _seed("FP32", [2], b"[[1, 2.5]]"),
    _seed("BYTES", [2], b'["a", ["b"]]'),
    _seed("INT32", [3], bytes_field(2, b"\1\2\3")),
    _seed("FP64", [1], bytes_field(7, bytes(8))),
]
TOKENS = [
    b"[0,1152921504606846976]",
    b"0,",
    b"\0",
    b"Infinity",
    b"[[[]]]",
    b"18446744073709551616",
    b"1e400",
    b"65536.0",
]


def read(data: bytes) -> None:
    described, _, contents = data[1:].partition(b"\0")
    datatype = _KINDS[data[0] % len(_KINDS)] if data else "FP32"
    try:
        shape = json.loads(described)
    except (ValueError, RecursionError):
        shape = [1]
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        shape = [len(contents)]
    with contextlib.suppress(TensorError):
        check_tensor("input", datatype, shape, contents)
        array = as_array(datatype, shape, contents)
        assert array.shape == tuple(shape)
        if datatype == "BYTES":
            assert pack_bytes(unpack_bytes(contents)) == contents
        values = to_json_values(datatype, shape, contents)
        again = from_json_values(list(values) if isinstance(values, list) else values.tolist(), datatype)
        assert datatype == "BOOL" or again == contents or array.dtype.kind == "f", (
            f"{contents!r} came back as {again!r}"
        )
    with contextlib.suppress(TensorError, ValueError, RecursionError):
        values = json.loads(contents)
        _from_json(values, datatype)
    with contextlib.suppress(TensorError, ProtocolError):
        typed_contents("input", datatype, shape, contents, 1000)


def _from_json(values: object, datatype: str) -> None:
    try:
        from_json_values(values, datatype)
    except TensorError:
        return
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} of {values!r:.100}") from error
