"""Requests over HTTP as a server reads them: inference with binary tensors, and the bodies of all operations."""

from __future__ import annotations

import contextlib
import json

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.http1.head import parse_request_head
from drumfire.sut.kserve.messages.http_server import HttpInference
from drumfire.sut.kserve.messages.inference import InferRequest
from drumfire.sut.kserve.messages.operations import OPERATIONS, NoRoute, route
from drumfire.sut.kserve.messages.tensors import TensorError

_PATH = "/v2/models/m/infer"
_SEPARATOR = b"\n--\n"
"""Between the JSON and the tensors."""


def _input(**members: object) -> dict[str, object]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], **members}


def _body(tensors: bytes, **document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + _SEPARATOR + tensors


_BINARY = {"parameters": {"binary_data_size": 8}}
_GOOD = _body(
    bytes(8), id="7", inputs=[_input(**_BINARY)], outputs=[{"name": "y", "parameters": {"binary_data": True}}]
)
SEEDS = [
    _GOOD,
    _body(bytes(8), inputs=[_input(**_BINARY)], id="7"),
    _body(b"", inputs=[_input(data=[[1, 2.5]])], parameters={"binary_data_output": True}),
    _body(b"", inputs=[_input(datatype="BYTES", data=["a", "\u00fc"])]),
    _body(b"\2\0\0\0ab\0\0\0\0", inputs=[_input(datatype="BYTES", parameters={"binary_data_size": 10})]),
    _body(
        b"",
        inputs=[
            _input(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 0})
        ],
    ),
    json.dumps({"key": "/k", "offset": 0, "byte_size": 64, "raw_handle": {"b64": "QUJD"}, "device_id": 0}).encode(),
    b'{"ready":true}' + _SEPARATOR + b"/v2/models/stats/versions/1/ready?x=%2f",
]
TOKENS = [
    b'{"id":"',
    b'"id":"8",',
    b'"data":[1],',
    b'"binary_data_size":0',
    b'"shape":[]',
    b"18446744073709551616",
    b"1.5",
    _SEPARATOR,
    b"%2F",
    b"\\u0000",
]


def read(data: bytes) -> None:
    text, _, tensors = data.partition(_SEPARATOR)
    for operation in OPERATIONS:
        try:
            operation.arguments_over_http({}, text)
        except ProtocolError:
            continue
    with contextlib.suppress(NoRoute):
        route("POST", tensors.decode("latin-1"))
    fresh, taught = HttpInference(), HttpInference()
    good_text, _, good_tensors = _GOOD.partition(_SEPARATOR)
    assert _request(taught, good_text, good_tensors) is not None
    seen = [_request(reader, text, tensors) for reader in (fresh, fresh, taught)]
    assert seen[0] == seen[1] == seen[2], f"{seen!r:.600}"


def _request(reader: HttpInference, text: bytes, tensors: bytes) -> InferRequest | None:
    raw = b"POST %b HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: %d\r\n\r\n" % (_PATH.encode(), len(text))
    try:
        return reader.parse_request(parse_request_head(raw), text + tensors, _PATH)
    except TensorError:
        return None
