"""KServe v2 over gRPC: inference requests and replies as bytes, and unary calls on one HTTP/2 connection.

Knows the messages ModelInferRequest and ModelInferResponse and gRPC's framing, status and metadata; must not know
sockets.  Sources: KServe's open_inference_grpc.proto; "gRPC over HTTP2" of the gRPC documentation.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

from drumfire.sut.kserve.errors import ProtocolError, one_line
from drumfire.sut.kserve.grpc.framing import PREFIX_BYTES, SERVICE, Status, framed
from drumfire.sut.kserve.http2 import client
from drumfire.sut.kserve.messages.exchange import (
    MAX_MESSAGE_BYTES,
    Buffer,
    Failure,
    Found,
    Outputs,
    Part,
    Region,
    Reply,
    check_contents,
    check_outputs,
    contents,
    form,
)
from drumfire.sut.kserve.messages.protobuf import (
    bytes_field,
    bytes_head,
    decode,
    fields,
    number_field,
    numbers_field,
    text_field,
)
from drumfire.sut.kserve.messages.tensors import ModelInterface

__all__ = ["Answer", "Calls", "GrpcChannel", "GrpcMessages", "Status", "framed"]

_SMALL = 1024
"""Pieces of a message below are copied."""
_MOST_LEARNT = 64
_LARGEST_KNOWN = 4096
"""Replies up to here are found whole; larger ones seldom come in one read."""

_PARAMETERS = {1: ("key", str), 2: ("value", {3: ("string_param", str)})}
_OUTPUT = {1: ("name", str), 2: ("datatype", str), 3: ("shape", [int]), 4: ("parameters", [_PARAMETERS])}
_REGION_PARAMETER = "shared_memory_region"


class GrpcMessages:
    """``Messages`` of one model over gRPC; ``SharedMessages`` where all outputs are ``shared``."""

    def __init__(self, interface: ModelInterface, *, batch_size: int | None = None, shared: bool = False) -> None:
        """``batch_size``: the most samples that a request holds, None is not known; ``shared``: outputs lie in shared
        memory."""
        self.wanted = False
        self._batch_size = batch_size
        self._shared, self._look = shared, form if shared else contents
        self._interface = interface
        self._heads: dict[tuple[object, ...], bytes] = {}
        self._layouts: dict[int, tuple[list[tuple[int, int, bytes]], list[Found]]] = {}
        """By a reply's length: the bytes that are the same in each (first, last, bytes), and its outputs."""

    def request(self, parts: Sequence[Part], regions: Sequence[Region] = ()) -> bytes:
        key = (*(part if isinstance(part.data, Region) else part.shape for part in parts), *regions)
        head = self._heads.get(key)
        if head is None:
            head = self._head(parts, regions)
            if len(self._heads) < 1 << 16:
                self._heads[key] = head
        pieces: list[Buffer] = [head]
        for part in parts:
            if not isinstance(part.data, Region):
                pieces += (bytes_head(7, len(part.data)), part.data)
        size = sum(map(len, pieces))
        return b"".join((b"\0", size.to_bytes(4, "big"), *pieces))

    def _head(self, parts: Sequence[Part], regions: Sequence[Region]) -> bytes:
        """All of a request but the raw contents."""
        return self.input_side(parts) + self.output_side(regions)

    def input_side(self, parts: Sequence[Part]) -> bytes:
        model = self._interface
        pieces = [text_field(1, model.name)]
        if model.version:
            pieces.append(text_field(2, model.version))
        for spec, part in zip(model.inputs, parts, strict=True):
            tensor = text_field(1, spec.name) + text_field(2, spec.datatype) + numbers_field(3, part.shape)
            if isinstance(part.data, Region):
                tensor += _region_parameters(4, part.data)
            pieces.append(bytes_field(5, tensor))
        return b"".join(pieces)

    def output_side(self, regions: Sequence[Region]) -> bytes:
        pieces = []
        for position, spec in enumerate(self._interface.outputs):
            output = text_field(1, spec.name)
            if regions:
                output += _region_parameters(2, regions[position])
            pieces.append(bytes_field(6, output))
        return b"".join(pieces)

    def joined(self, input_side: bytes, output_side: bytes) -> bytes:
        return framed(input_side + output_side)

    def read(self, message: Buffer) -> Outputs | None:
        """A reply, its prefix of 5 bytes included.  Raises ``ProtocolError`` for one that is not as it must be."""
        known = self._layouts.get(len(message))
        if known is not None:
            for first, last, literal in known[0]:
                if message[first:last] != literal:
                    break
            else:
                return [self._look(message, output) for output in known[1]] if self.wanted else None
        found = self._parse(message)
        return [self._look(message, output) for output in found] if self.wanted else None

    def pattern(self, size: int) -> re.Pattern[bytes] | None:
        """What every reply of ``size`` bytes like one before matches; None where there was none."""
        known = self._layouts.get(size)
        if known is None:
            return None
        parts: list[bytes] = []
        at = 0
        for first, last, literal in known[0]:
            parts += (rb".{%d}" % (first - at), re.escape(literal))
            at = last
        return re.compile(b"".join((*parts, rb".{%d}" % (size - at))), re.DOTALL)

    def _parse(self, message: Buffer) -> list[Found]:
        """The outputs of a reply; its layout is kept, so that the next one like it need not be parsed."""
        if len(message) < PREFIX_BYTES:
            raise ProtocolError("a reply without a whole message")
        if message[0]:
            raise ProtocolError("a compressed reply although none was asked for")
        described, raw, typed = [], [], False
        for field in fields(memoryview(message)[PREFIX_BYTES:]):
            if field.number == 5 and not isinstance(field.value, int):
                described.append(decode(field.value, _OUTPUT))
                typed = typed or any(inner.number == 5 and inner.value for inner in fields(field.value))
            elif field.number == 6 and not isinstance(field.value, int):
                first = field.first + PREFIX_BYTES
                raw.append((first, first + len(field.value)))
        shared = [self._shared or any(p["key"] == _REGION_PARAMETER for p in one["parameters"]) for one in described]
        if self._shared and (typed or any(last > first for first, last in raw)):
            raise ProtocolError("the reply holds outputs that shared memory was named for: does the server know it?")
        if typed:
            raise ProtocolError("the reply's tensors are typed fields: a server that gives raw contents is needed")
        # Servers may give an empty raw entry for an output that lies in shared memory, or none.
        if len(raw) == len(described) - sum(shared):
            spans = iter(raw)
            raw = [(-1, -1) if is_shared else next(spans) for is_shared in shared]
        elif len(raw) == len(described):
            raw = [(-1, -1) if is_shared else span for span, is_shared in zip(raw, shared, strict=True)]
        else:
            raise ProtocolError(f"a reply of {len(described)} outputs with the contents of {len(raw)}")
        found = check_outputs(
            self._interface,
            [
                Found(one["name"], one["datatype"], tuple(one["shape"]), *span)
                for one, span in zip(described, raw, strict=True)
            ],
            self._batch_size,
        )
        for output in found:  # before it is taken for an example
            check_contents(message, output)
        if all(output.datatype != "BYTES" for output in found) and len(self._layouts) < 256:
            self._layouts[len(message)] = (_literals(message, [o for o in found if o.first >= 0]), found)
        return found


def _literals(message: Buffer, outputs: Sequence[Found]) -> list[tuple[int, int, bytes]]:
    """Everything of a message but its outputs' contents: first, last, bytes."""
    literals, at = [], 0
    for first, last in [*sorted((output.first, output.last) for output in outputs), (len(message), -1)]:
        if first > at:
            literals.append((at, first, bytes(message[at:first])))
        at = last
    return literals


def _region_parameters(number: int, region: Region) -> bytes:
    """Where a tensor lies, as entries of the map ``number``."""
    values = {
        _REGION_PARAMETER: text_field(3, region.name),
        "shared_memory_byte_size": number_field(2, region.size),
        "shared_memory_offset": number_field(2, region.offset),
    }
    return b"".join(bytes_field(number, text_field(1, key) + bytes_field(2, value)) for key, value in values.items())


class _Head(NamedTuple):
    """What the headers or trailers of a reply tell."""

    failure: Failure | None
    status: int | None
    """gRPC's status; None before the trailers."""


def _read_headers(headers: client.Headers) -> _Head:
    fields = dict(headers)
    status = fields.get("grpc-status")
    if status is not None:
        if not status.isascii() or not status.isdigit() or len(status) > 9:
            return _Head(Failure("a reply whose grpc-status is no number"), None)
        code = int(status)
        if code == 0:
            return _Head(None, 0)
        text = one_line(urllib.parse.unquote(fields.get("grpc-message", ""), errors="replace"))
        name = Status(code).name if code in Status._value2member_map_ else f"status {code}"
        return _Head(Failure(f"{name}: {text}"), code)
    http_status = fields.get(":status")
    if http_status is None:
        return _Head(Failure("a reply without grpc-status"), None)
    if http_status[:1] == "1":  # no reply yet
        return _Head(None, None)
    if http_status != "200":
        return _Head(Failure(f"HTTP status {one_line(http_status)} where gRPC answers with 200"), None)
    if not fields.get("content-type", "").startswith("application/grpc"):
        return _Head(Failure(f"a reply of type {fields.get('content-type')!r}: is this a gRPC port?"), None)
    encoding = fields.get("grpc-encoding", "identity")
    if encoding != "identity":
        return _Head(Failure(f"a reply in {one_line(encoding)} although no compression was asked for"), None)
    return _Head(None, None)


class Answer(NamedTuple):
    """What came of a call: the message with its prefix, or why there is none."""

    ticket: int
    message: Buffer | None
    failure: Failure | None
    status: int | None
    """gRPC's status; None where the call ended without one."""


class _Gathered:
    """A message that does not come whole in one frame."""

    def __init__(self) -> None:
        self.pieces: list[Buffer | bytearray] = []
        self.size = 0

    def add(self, piece: Buffer, most_bytes: int) -> None:
        last = self.pieces[-1] if self.pieces else None
        if len(piece) >= _SMALL:
            self.pieces.append(piece)
        elif isinstance(last, bytearray):  # apart, small pieces would take many times their bytes
            last += piece
        else:
            self.pieces.append(bytearray(piece))
        self.size += len(piece)
        declared = self.size
        if len(self.pieces[0]) >= PREFIX_BYTES:
            declared = max(declared, int.from_bytes(self.pieces[0][1:PREFIX_BYTES], "big"))
        if declared > most_bytes + PREFIX_BYTES:
            raise ProtocolError(
                f"a reply of {declared} bytes where at most {most_bytes} are taken: raise --max-message-size"
            )


class _UnaryCalls:
    """Unary calls on one connection.  ``metadata`` goes with each call; at most ``limit`` are under way."""

    def __init__(
        self,
        authority: str,
        *,
        tls: bool = False,
        metadata: Sequence[tuple[str, str]] = (),
        limit: int = 1 << 30,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self.draining = False
        self._limit = limit
        self._connection = client.ClientConnection(_read_headers)
        self.out = self._connection.out
        self._authority, self._scheme = authority, "https" if tls else "http"
        self._metadata = tuple((name.lower(), value) for name, value in metadata)
        self._max_message_bytes = max_message_bytes
        self._tickets: dict[int, int] = {}
        """By stream, the calls under way; the rest is what has come of their replies."""
        self._messages: dict[int, Buffer] = {}
        self._gathered: dict[int, _Gathered] = {}
        self._failures: dict[int, Failure] = {}
        self._good_head = self._good_trailers = _Head(None, None)
        """Of the last reply in which all was well."""

    @property
    def free(self) -> int:
        """How many more calls may be begun now; none before the server has told its settings."""
        connection = self._connection
        if connection.next_stream > client.LARGEST_STREAM:
            self.draining = True
        if self.draining or not connection.settled or connection.stalled:
            return 0
        streams_left = (client.LARGEST_STREAM - connection.next_stream) // 2 + 1
        return max(min(min(self._limit, connection.max_streams) - len(self._tickets), streams_left), 0)

    def headers(self, method: str) -> client.Headers:
        """The header fields of calls to a method of the service."""
        return (
            (":method", "POST"),
            (":scheme", self._scheme),
            (":path", SERVICE + method),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-accept-encoding", "identity"),
            *self._metadata,
        )

    @property
    def under_way(self) -> int:
        return len(self._tickets)

    @property
    def oldest(self) -> int | None:
        return next(iter(self._tickets.values()), None)

    def cancel(self, ticket: int) -> bool:
        """Give a call up; the connection goes on without it."""
        for stream, known in self._tickets.items():
            if known == ticket:
                self._forget(stream)
                self._connection.cancel(stream)
                break
        return True

    def close(self) -> None:
        """Tell the server that we go."""
        self._connection.close()

    def _lost(self, reason: str) -> list[Answer]:
        """The connection has ended: so have all calls under way."""
        self.draining = True
        answers = [Answer(ticket, None, Failure(reason), None) for ticket in self._tickets.values()]
        for stream in list(self._tickets):
            self._forget(stream)
        return answers

    def _take(self, event: client.Event, answers: list[Answer]) -> None:
        """One event; ``answers`` gets the call that ends with it."""
        kind, stream, value, ended = event
        messages, ticket = self._messages, self._tickets.get(stream)
        if kind is client.GOAWAY:
            self._go_away(stream, str(value), answers)
        elif ticket is None:
            if stream >= self._connection.next_stream or not stream & 1:
                raise ProtocolError(f"a frame on stream {stream}, which was never opened")
        elif kind is client.DATA:
            assert isinstance(value, bytes | memoryview)
            if not ended and stream not in messages and stream not in self._gathered and self._is_whole(value):
                messages[stream] = value
            else:
                if stream not in self._failures:  # what comes with those is no message
                    self._gather(stream, value)
                if ended:
                    self._end(stream, ticket, _Head(Failure("a reply without trailers"), None), answers)
        elif kind is client.HEADERS:
            assert isinstance(value, _Head)
            if not ended:
                if value.failure is not None:
                    self._failures[stream] = value.failure
                else:
                    self._good_head = value
            elif value.status == 0 and stream in messages and stream not in self._failures:
                del self._tickets[stream]
                self._good_trailers = value
                answers.append(Answer(ticket, messages.pop(stream), None, 0))
            else:
                self._end(stream, ticket, value, answers)
        else:
            assert isinstance(value, int)
            self._forget(stream)
            failure = Failure(
                f"the server reset the call: {client.code_name(value)}", value == client.Code.REFUSED_STREAM
            )
            answers.append(Answer(ticket, None, failure, None))

    def _take_back(self, tickets: Iterable[int]) -> None:
        """Calls that ended with what was read before it broke the protocol: they are lost with the others."""
        for place, ticket in enumerate(tickets):
            self._tickets[-1 - place] = ticket

    def _is_whole(self, message: Buffer) -> bool:
        size = len(message) - PREFIX_BYTES
        # A compressed one is told by the byte before the length, and so is none.
        return 0 <= size <= self._max_message_bytes and int.from_bytes(message[:PREFIX_BYTES], "big") == size

    def _gather(self, stream: int, piece: Buffer) -> None:
        gathered = self._gathered.setdefault(stream, _Gathered())
        if stream in self._messages:  # it was whole, and yet there is more
            gathered.add(self._messages.pop(stream), self._max_message_bytes)
        gathered.add(piece, self._max_message_bytes)

    def _end(self, stream: int, ticket: int, trailers: _Head, answers: list[Answer]) -> None:
        """A call that ended in another way than with status 0 after a message in one frame."""
        message = self._messages.get(stream, b"")
        if stream in self._gathered:
            message = b"".join(self._gathered[stream].pieces)
        # What gRPC says comes first, then what was wrong first.
        failure = (trailers.failure if trailers.status else None) or self._failures.get(stream) or trailers.failure
        if failure is None and trailers.status is None:
            failure = Failure("a reply without grpc-status")
        if failure is None and not self._is_whole(message):
            is_compressed = message[:1] == b"\1"
            failure = Failure(
                "a compressed reply although none was asked for" if is_compressed else "a reply without a whole message"
            )
        self._forget(stream)
        answers.append(Answer(ticket, message if failure is None else None, failure, trailers.status))

    def _go_away(self, last: int, reason: str, answers: list[Answer]) -> None:
        """The server takes no more streams; those above ``last`` it has not seen."""
        self.draining = True
        for stream in [stream for stream in self._tickets if stream > last]:
            failure = Failure(f"the server closes the connection: {reason}", unseen=True)
            answers.append(Answer(self._tickets[stream], None, failure, None))
            self._forget(stream)
            self._connection.cancel(stream)

    def _forget(self, stream: int) -> None:
        del self._tickets[stream]
        for held in (self._messages, self._gathered, self._failures):
            held.pop(stream, None)


class Calls(_UnaryCalls):
    """Calls to any method, one answer each."""

    def call(self, ticket: int, headers: client.Headers, message: Buffer) -> None:
        """Begin a call; ``message`` is framed.  The caller has seen that there is one ``free``."""
        self._tickets[self._connection.request(headers, message)] = ticket

    def receive(self, data: bytes) -> list[Answer]:
        """The calls that ended with what was read.  Raises ``ProtocolError``."""
        answers: list[Answer] = []
        try:
            for event in self._connection.receive(data):
                self._take(event, answers)
        except ProtocolError:
            self._take_back(answer.ticket for answer in answers)
            raise
        return answers

    def eof(self) -> list[Answer]:
        """The server has said its last: see ``lost``, which comes next."""
        self.draining = True
        return []

    def lost(self, reason: str) -> list[Answer]:
        return self._lost(reason)


class GrpcChannel(_UnaryCalls):
    """A ``Channel`` of ModelInfer calls.  ``deadline_s`` is told to the server with each call."""

    def __init__(
        self,
        messages: GrpcMessages,
        authority: str,
        *,
        tls: bool = False,
        metadata: Sequence[tuple[str, str]] = (),
        limit: int = 1 << 30,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        deadline_s: float | None = None,
    ) -> None:
        super().__init__(authority, tls=tls, metadata=metadata, limit=limit, max_message_bytes=max_message_bytes)
        self._reader = messages
        self._learnt: dict[tuple[int, int, int], tuple[_Head, int, _Head]] = {}
        self._infer = self.headers("ModelInfer")
        if deadline_s is not None:
            self._infer += (("grpc-timeout", f"{min(max(round(deadline_s * 1e3), 1), 99_999_999)}m"),)

    def send(self, ticket: int, request: bytes) -> None:
        self._tickets[self._connection.request(self._infer, request)] = ticket

    def receive(self, data: bytes) -> list[tuple[int, Reply]]:
        replies: list[tuple[int, Reply]] = []
        pop, wanted = self._tickets.pop, self._reader.wanted
        try:
            for event in self._connection.receive(data):
                if event[0] is client.REPLY:
                    stream = event[1]
                    ticket = pop(stream, None)
                    if ticket is not None:
                        # That it is as it must be was seen already; a stream that was given up is none of ours.
                        replies.append((ticket, self._read(cast(bytes, event[2])) if wanted else None))
                    elif stream >= self._connection.next_stream or not stream & 1:
                        raise ProtocolError(f"a reply on stream {stream}, which was never opened")
                    continue
                answers: list[Answer] = []
                self._take(event, answers)
                for ticket, message, failure, _ in answers:
                    replies.append((ticket, failure if message is None else self._read(message)))
                    if message is not None and len(message) <= _LARGEST_KNOWN:
                        self._learn(message)
        except ProtocolError:
            self._take_back(ticket for ticket, _ in replies)
            raise
        return replies

    def eof(self) -> list[tuple[int, Reply]]:
        self.draining = True
        return []

    def lost(self, reason: str) -> list[tuple[int, Reply]]:
        return [(answer.ticket, answer.failure) for answer in self._lost(reason)]

    def _read(self, message: Buffer) -> Reply:
        try:
            return self._reader.read(message)
        except ProtocolError as error:  # the reply is wrong, the connection is not
            return Failure(str(error))

    def _learn(self, message: Buffer) -> None:
        """Let the connection find the next reply of this form at once."""
        form = (self._good_head, len(message), self._good_trailers)
        key = (id(form[0]), form[1], id(form[2]))
        if key in self._learnt or len(self._learnt) == _MOST_LEARNT:
            return
        self._learnt[key] = form  # kept, so that no other gets its identity
        pattern = self._reader.pattern(len(message))
        if pattern is not None:
            self._connection.know(self._good_head, pattern, len(message), self._good_trailers)
