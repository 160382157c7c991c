"""Messages of protobuf: of every operation in both directions, requests of inference, and their replies.

What a reader has learnt from earlier messages must change nothing.
"""

from __future__ import annotations

import struct

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.grpc.framing import framed
from drumfire.sut.kserve.messages.grpc_client import GrpcMessages
from drumfire.sut.kserve.messages.grpc_server import GrpcInference
from drumfire.sut.kserve.messages.inference import InferRequest
from drumfire.sut.kserve.messages.operations import MODEL_CONFIG, MODEL_METADATA, MODEL_STATISTICS, OPERATIONS
from drumfire.sut.kserve.messages.protobuf import bytes_field, number_field, numbers_field, text_field
from drumfire.sut.kserve.messages.tensors import TensorError
from tests.fuzz.http2_client import INTERFACE, REPLY

_PARAMETER = bytes_field(4, text_field(1, "binary") + bytes_field(2, number_field(1, 1)))
_INPUT = text_field(1, "x") + text_field(2, "FP32") + numbers_field(3, [1, 2])
_REGION = bytes_field(4, text_field(1, "shared_memory_region") + bytes_field(2, text_field(3, "r"))) + bytes_field(
    4, text_field(1, "shared_memory_byte_size") + bytes_field(2, number_field(2, 8))
)
REQUEST = text_field(1, "m") + text_field(3, "id") + bytes_field(5, _INPUT) + bytes_field(7, bytes(8))
SEEDS = [
    REQUEST,
    text_field(1, "m") + _PARAMETER + bytes_field(5, _INPUT + bytes_field(5, bytes_field(6, bytes(8)))),
    text_field(1, "m")
    + bytes_field(5, _INPUT + _REGION)
    + bytes_field(6, text_field(1, "y") + _REGION.replace(b"\x22", b"\x12")),
    text_field(1, "m")
    + bytes_field(5, text_field(1, "x") + text_field(2, "BYTES") + numbers_field(3, [2]))
    + bytes_field(7, struct.pack("<I2sI", 2, b"ab", 0)),
    REPLY,
    MODEL_METADATA.to_message(
        {"name": "m", "versions": ["1"], "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "outputs": []}
    ),
    MODEL_CONFIG.to_message(
        {"name": "m", "max_batch_size": 8, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}]}
    ),
    MODEL_STATISTICS.to_message(
        {"model_stats": [{"name": "m", "inference_count": 3, "inference_stats": {"queue": {"count": 1, "ns": 2}}}]}
    ),
    text_field(1, "region") + text_field(2, "/key") + number_field(3, 0) + number_field(4, 4096),
]
TOKENS = [
    b"\x0a\x80\x80\x80\x80\x08",
    b"\x3a\x08",
    _PARAMETER,
    _REGION,
    numbers_field(3, [-1]),
    bytes_field(5, _INPUT),
    b"\x0b",
    b"\x0d\0\0\0\0",
]


def read(data: bytes) -> None:
    for operation in OPERATIONS:
        for reader in (operation.arguments, operation.from_message):
            try:
                reader(data)
            except ProtocolError:
                continue
    _read_request(data)
    _read_reply(data)


def _read_request(data: bytes) -> None:
    fresh, taught = GrpcInference(), GrpcInference()
    taught.parse_request(REQUEST)
    seen = [_request(reader, data) for reader in (fresh, fresh, taught)]
    assert seen[0] == seen[1] == seen[2], f"{seen!r:.600}"


def _request(reader: GrpcInference, data: bytes) -> InferRequest | None:
    try:
        return reader.parse_request(data)
    except (ProtocolError, TensorError):
        return None


def _read_reply(data: bytes) -> None:
    fresh, taught = GrpcMessages(INTERFACE), GrpcMessages(INTERFACE)
    fresh.wanted = taught.wanted = True
    taught.read(framed(REPLY))
    seen = [_reply(reader, framed(data)) for reader in (fresh, fresh, taught)]
    assert seen[0] == seen[1] == seen[2], f"{seen!r:.600}"


def _reply(reader: GrpcMessages, message: bytes) -> list[bytes] | None:
    try:
        return [one.tobytes() for one in reader.read(message) or ()]
    except ProtocolError:
        return None
