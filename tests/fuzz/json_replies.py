"""Replies over HTTP as a client reads them: inference with binary tensors, and the answers of all operations up to what
is made of them: a model's interface, its statistics."""

from __future__ import annotations

import json
from typing import Any

from drumfire.sut.kserve.errors import ProtocolError, ServerError
from drumfire.sut.kserve.http1.connection import Response
from drumfire.sut.kserve.http1.head import parse_response_head
from drumfire.sut.kserve.messages.http_client import HttpMessages, error_text
from drumfire.sut.kserve.messages.operations import MODEL_CONFIG, MODEL_METADATA, OPERATIONS, Operation
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec
from drumfire.sut.remote.endpoint import Endpoint
from drumfire.sut.remote.http.post import JsonValue
from drumfire.sut.remote.kserve.discovery import describe
from drumfire.sut.remote.kserve.statistics import Snapshot
from tests.fuzz.harness import check_line

_SEPARATOR = b"\n--\n"
"""Between the JSON and the tensors; or between a model's metadata and its configuration."""
_TENSOR = TensorSpec("y", "FP32", (2,))
_WORDS = TensorSpec("w", "BYTES", (-1,))
_INTERFACES = [
    ModelInterface("m", "", "", outputs, outputs, 8) for outputs in ((_TENSOR,), (_WORDS,), (_TENSOR, _WORDS))
]


def _output(**members: object) -> dict[str, object]:
    return {"name": "y", "datatype": "FP32", "shape": [1, 2], **members}


def _body(tensors: bytes, **document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + _SEPARATOR + tensors


_BINARY = {"parameters": {"binary_data_size": 8}}
_BYTES = _output(name="w", datatype="BYTES", parameters={"binary_data_size": 10})
_SPECS = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
_DURATION = {"count": 3, "ns": 1000}
SEEDS = [
    _body(bytes(8), model_name="m", outputs=[_output(**_BINARY)]),
    _body(b"", outputs=[_output(data=[[1, 2.5]])]),
    _body(b"\2\0\0\0ab\0\0\0\0", outputs=[_BYTES]),
    _body(bytes(8) + b"\2\0\0\0ab\0\0\0\0", outputs=[_output(**_BINARY), _BYTES]),
    _body(b"", outputs=[_output(parameters={"shared_memory_region": "r"})]),
    _body(b"", error="no such model"),
    _body(
        json.dumps({"max_batch_size": 8, "dynamic_batching": {}}).encode(),
        name="m",
        inputs=_SPECS,
        outputs=_SPECS,
        platform="p",
    ),
    _body(
        b"",
        model_stats=[
            {
                "name": "m",
                "version": "1",
                "inference_count": 3,
                "execution_count": 2,
                "inference_stats": dict.fromkeys(("success", "fail", "queue", "compute_infer"), _DURATION),
                "batch_stats": [{"batch_size": 2, "compute_infer": _DURATION}],
            }
        ],
    ),
]
TOKENS = [
    b'"data":[1],',
    b'"binary_data_size":0',
    b'"shape":[0,9]',
    b"18446744073709551616",
    b"1.5",
    _SEPARATOR,
    b"Infinity",
    b"1e400",
    b"9" * 400,
    b"[" * 3000,
]
_RIGHT = json.loads(SEEDS[6].partition(_SEPARATOR)[0])
_EXPECTED = [
    JsonValue.parse(text) for text in ("outputs[0].shape[1]=2", "error", "outputs=[]", 'model_stats[0].version="1"')
]


def read(data: bytes) -> None:
    text, _, tensors = data.partition(_SEPARATOR)
    head = parse_response_head(b"HTTP/1.1 400 Bad\r\nContent-Length: 1\r\n\r\n")
    assert error_text(Response(400, head, data)).isprintable()
    for operation in OPERATIONS:
        _answer(operation, text)
    for answer in (_answer(MODEL_METADATA, text), _answer(MODEL_CONFIG, tensors)):
        if answer is not None:
            _read_answer(answer)
    for interface in _INTERFACES:
        reader = HttpMessages(interface)
        reader.wanted = True
        first, second = (_reply(reader, text, tensors) for _ in range(2))
        assert first == second, f"{first!r:.300}\nand the second time {second!r:.300}"


def _answer(operation: Operation, body: bytes) -> dict[str, Any] | None:
    try:
        return operation.from_body(body)
    except ValueError:
        return None


class _Client:
    """Gives the metadata and the configuration of a model."""

    endpoint = Endpoint("http", "host", 1)

    def __init__(self, metadata: dict[str, Any], configuration: dict[str, Any]) -> None:
        self._answers = {"ModelMetadata": metadata, "ModelConfig": configuration}

    async def ask(self, operation: Operation, **_: str) -> dict[str, Any]:
        return self._answers.get(operation.method, {})


def _read_answer(answer: dict[str, Any]) -> None:
    for client in (_Client(answer, {}), _Client(_RIGHT, answer)):
        work = describe(client, "m")  # type: ignore[arg-type]
        try:
            work.send(None)  # nothing waits
        except StopIteration:
            pass
        except ServerError as error:
            check_line(error)
    try:
        snapshot = Snapshot.of(answer, "m")
        assert snapshot.plus(snapshot).since(snapshot) == snapshot
        snapshot.mean_ns(), snapshot.mean_batch_size
    except ServerError:
        pass
    for value in _EXPECTED:
        value.fault(answer)


def _reply(reader: HttpMessages, text: bytes, tensors: bytes) -> list[Any] | None:
    try:
        return [
            (one.shape, one.tobytes() if one.dtype != object else one.tolist())
            for one in reader.read(text + tensors, len(text)) or ()
        ]
    except ProtocolError:
        return None
