"""A server that costs next to nothing: KServe v2 over gRPC that repeats its answer to many equal requests at once.

``python -m`` starts it: it serves ``identity`` on loopback until its input ends.  It prints its address and, at its
end, its count of answers and its CPU time, each as a line of JSON.  It reads and answers the first request like any
server; later requests with the same frames get the same answer, as rows of an array, in some tenths of a microsecond
each.  So the generators are the limit, not the server that shares their cores.

Serves only Drumfire's own client, with a single input, and treats windows as unlimited.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import hpack
import numpy as np

from drumfire.bench.peers import stub
from drumfire.sut.kserve.grpc.framing import PREFIX_BYTES, Status, framed
from drumfire.sut.kserve.http2.frames import (
    ACK,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    F_DATA,
    F_HEADERS,
    F_PING,
    F_SETTINGS,
    FRAME,
    LARGEST_WINDOW,
    PREFACE,
    S_HEADER_TABLE_SIZE,
    S_MAX_STREAMS,
    S_WINDOW,
    credit,
    frame,
    settings,
)
from drumfire.sut.kserve.http2.header_block import header_block
from drumfire.sut.kserve.messages import operations
from drumfire.sut.kserve.messages.grpc_server import GrpcInference
from drumfire.sut.kserve.messages.inference import AnswerOutput, InferAnswer

_MOST = 4096
"""Requests answered at once."""
_HEADERS = header_block(((":status", "200"), ("content-type", "application/grpc")))
_TENSORS = {"name": "", "datatype": "FP32", "shape": [-1]}
_METADATA = {
    "name": "identity",
    "versions": ["1"],
    "platform": "stub",
    "inputs": [_TENSORS | {"name": "INPUT0"}],
    "outputs": [_TENSORS | {"name": "OUTPUT0"}],
}
_ANSWERS: dict[str, tuple[operations.Operation, dict[str, Any]]] = {
    one.method: (one, answer)
    for one, answer in (
        (operations.SERVER_METADATA, {"name": "stub", "version": "1", "extensions": []}),
        (operations.MODEL_METADATA, _METADATA),
        (operations.MODEL_READY, {"ready": True}),
    )
}


class _Known:
    """The frames of a request and its answer, except the stream's number."""

    def __init__(self, request: bytes, split: int, answer: bytes, streams: list[int]) -> None:
        """``split``: where the request's second frame begins.  ``streams``: where the answer's frames begin."""
        self.size = len(request)
        self._heads = [(slice(at, at + 5), np.frombuffer(request, np.uint8, 5, at)) for at in (0, split)]
        self._again = slice(split + 5, split + 9)
        self._answers = np.tile(np.frombuffer(answer, np.uint8), (_MOST, 1))
        self._streams = [slice(at + 5, at + 9) for at in streams]

    def answers(self, data: bytes, at: int) -> tuple[int, bytes]:
        """The number of equal requests from ``at`` on, and the answers to them."""
        count = min((len(data) - at) // self.size, _MOST)
        rows = np.frombuffer(data, np.uint8, count * self.size, at).reshape(count, self.size)
        streams = rows[:, 5:9]
        alike = (streams == rows[:, self._again]).all(axis=1)
        for place, head in self._heads:
            alike &= (rows[:, place] == head).all(axis=1)
        if not alike.all():
            count = int(alike.argmin())
        answers = self._answers[:count]
        for place in self._streams:
            answers[:, place] = streams[:count]
        return count, answers.tobytes()


class Connection(asyncio.Protocol):
    """The connection of a client."""

    answered = 0

    def __init__(self) -> None:
        self._rest = b""
        self._decoder = hpack.Decoder()
        self._inference = GrpcInference()
        self._methods: dict[int, str] = {}
        """By stream: the methods of requests whose body has not come yet."""
        self._known: _Known | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        ours = {S_HEADER_TABLE_SIZE: 0, S_MAX_STREAMS: LARGEST_WINDOW, S_WINDOW: LARGEST_WINDOW}
        self._transport.write(settings(ours) + credit(0, LARGEST_WINDOW - DEFAULT_WINDOW))
        self._take = self._greet

    def data_received(self, data: bytes) -> None:
        self._take(self._rest + data if self._rest else data)

    def _greet(self, data: bytes) -> None:
        self._rest = data
        if len(data) >= len(PREFACE):
            self._take = self._frames
            self._take(data[len(PREFACE) :])

    def _frames(self, data: bytes) -> None:
        at, known, out = 0, self._known, []
        opened, begun = 0, 0  # the last stream whose headers came, and where they began
        while at + 9 <= len(data):
            if known is not None and at + known.size <= len(data):
                count, answers = known.answers(data, at)
                if count:
                    Connection.answered += count
                    out.append(answers)
                    at += count * known.size
                    continue
            high, low, kind, flags, stream = FRAME.unpack_from(data, at)
            end = at + 9 + (high << 8 | low)
            if end > len(data):
                break
            payload = data[at + 9 : end]
            if kind == F_SETTINGS and not flags & ACK:
                out.append(frame(F_SETTINGS, ACK, 0))
            elif kind == F_PING and not flags & ACK:
                out.append(frame(F_PING, ACK, 0, payload))
            elif kind == F_HEADERS:
                fields: dict[Any, Any] = dict(self._decoder.decode(payload))
                self._methods[stream] = fields[":path"].rpartition("/")[2]
                opened, begun = stream, at
            elif kind == F_DATA and flags & END_STREAM:
                method = self._methods.pop(stream)
                pieces = self._answer(method, payload[PREFIX_BYTES:], stream)
                out += pieces
                if method == operations.MODEL_INFER.method:
                    Connection.answered += 1
                    if opened == stream:  # both of its frames are here
                        places = [0, len(pieces[0]), len(pieces[0]) + len(pieces[1])]
                        self._known = known = _Known(data[begun:end], at - begun, b"".join(pieces), places)
            at = end
        self._rest = data[at:]
        if out:
            self._transport.write(b"".join(out))

    def _answer(self, method: str, message: bytes, stream: int) -> list[bytes]:
        """Three frames: the headers, the message, the trailers."""
        status, answer = Status.OK, b""
        if method == operations.MODEL_INFER.method:
            request = self._inference.parse_request(message)
            (tensor,) = request.inputs
            assert isinstance(tensor.data, bytes | memoryview)
            output = AnswerOutput("OUTPUT0", tensor.datatype, tensor.shape, tensor.data)
            answer = self._inference.build_answer(InferAnswer(request.model, "1", request.id, [output]))
        elif method in _ANSWERS:
            operation, fields = _ANSWERS[method]
            answer = operation.to_message(fields)
        else:
            status = Status.UNIMPLEMENTED
        trailers = header_block((("grpc-status", str(int(status))),))
        return [
            frame(F_HEADERS, END_HEADERS, stream, _HEADERS),
            frame(F_DATA, 0, stream, framed(answer)) if status == Status.OK else b"",
            frame(F_HEADERS, END_HEADERS | END_STREAM, stream, trailers),
        ]


if __name__ == "__main__":
    stub.serve(Connection)
