"""Samples in perf_analyzer's JSON: read and packed as the model's tensors, or refused in one line."""

from __future__ import annotations

import json

from drumfire.loadgen.errors import UserError
from drumfire.sut.data.json_file import JsonFile
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec, check_size
from tests.fuzz.harness import check_line, file

_INTERFACE = ModelInterface(
    "model",
    "",
    "",
    (
        TensorSpec("IDS", "INT64", (-1,)),
        TensorSpec("X", "FP32", (2, 2)),
        TensorSpec("H", "BF16", (2,)),
        TensorSpec("TEXT", "BYTES", (1,)),
        TensorSpec("ON", "BOOL", (1,)),
    ),
    (TensorSpec("Y", "FP32", (2,)),),
    0,
)
_ENTRY = {"IDS": [1, 2], "X": [[1.5, 2], [3, 4]], "H": [0.5, 1e3], "TEXT": ["a é"], "ON": [True]}
SEEDS = [
    json.dumps({"data": [_ENTRY]}).encode(),
    json.dumps({"data": [_ENTRY, _ENTRY], "validation_data": [{"Y": [1, 2]}, {}]}).encode(),
    json.dumps(
        {"data": [_ENTRY | {"IDS": {"content": [1, 2, 3], "shape": [3]}, "H": {"b64": "AAAAAA=="}, "model": "m"}]}
    ).encode(),
    b"\xef\xbb\xbf" + json.dumps({"data": [_ENTRY | {"IDS": {"b64": "AQAAAAAAAAA=", "shape": [1]}}]}).encode(),
]
TOKENS = [b"NaN", b"1e400", b"null", b'"b64"', b'"shape"', b"[[]]", b"9223372036854775808", b"\\ud800"]

_FILE = file("data.json")


def read(data: bytes) -> None:
    _FILE.write_bytes(data)
    try:
        found = JsonFile(_FILE, _INTERFACE)
    except UserError as error:
        check_line(error)
        return
    for index in range(found.total_count):
        for spec, tensor in zip(_INTERFACE.inputs, found.sample(index), strict=True):
            assert spec.fits(tensor.shape)
            check_size(spec.datatype, tensor.shape, bytes(tensor.data))
        found.expected(index)
