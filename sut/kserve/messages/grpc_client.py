"""KServe v2 over gRPC, client side: ModelInferRequest out, ModelInferResponse in, and the channel that carries them.

Handles these two messages.  Does not depend on sockets.  Source: KServe's open_inference_grpc.proto.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from drumfire.sut.kserve.errors import ProtocolError, one_line
from drumfire.sut.kserve.grpc.client import CallResult, ReplyHead, UnaryCalls
from drumfire.sut.kserve.grpc.framing import PREFIX_BYTES, framed
from drumfire.sut.kserve.http2.frames import REPLY
from drumfire.sut.kserve.messages.exchange import (
    MAX_MESSAGE_BYTES,
    NOT_SENT,
    REGION_NAME,
    REGION_OFFSET,
    REGION_SIZE,
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
    placeholder,
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
from drumfire.sut.kserve.messages.tensors import ModelInterface, Shape, TensorError
from drumfire.sut.kserve.messages.typed_contents import contents_field, elements_of, typed_contents

_MOST_LEARNT = 64
_LARGEST_KNOWN = 4096
"""Bytes up to which replies are matched whole; larger ones rarely arrive in one read."""

_PARAMETERS = {1: ("key", str), 2: ("value", {3: ("string_param", str)})}
_OUTPUT = {1: ("name", str), 2: ("datatype", str), 3: ("shape", [int]), 4: ("parameters", [_PARAMETERS])}


class GrpcMessages:
    """``Messages`` of one model over gRPC; with ``shared``, also ``SharedMessages``."""

    joint = b""

    def __init__(
        self,
        interface: ModelInterface,
        *,
        batch_size: int | None = None,
        shared: bool = False,
        values: bool = False,
    ) -> None:
        """``batch_size``: the most samples that a request holds, None if unknown; ``shared``: all outputs lie in
        shared memory; ``values``: inputs are lists of typed numbers, and ``request`` takes what ``encoded`` gives,
        joined by ``joint``."""
        self.wanted = False
        self._values = values
        self.got_values = False
        """Whether a reply has held values."""
        self._batch_size = batch_size
        self._shared, self._look = shared, placeholder if shared else contents
        self._interface = interface
        self._heads: dict[tuple[object, ...], bytes] = {}
        self._layouts: dict[int, tuple[list[tuple[int, int, bytes]], list[Found]]] = {}
        """By a reply's length: the bytes that all such replies share (first, last, bytes), and the outputs."""

    def encoded(self, datatype: str, shape: Shape, data: Buffer) -> Buffer:
        """A sample's tensor as ``request`` takes it.  Raises ``TensorError`` for a datatype without typed numbers."""
        return elements_of(datatype, shape, data) if self._values else data

    def request(self, parts: Sequence[Part], regions: Sequence[Region] = ()) -> bytes:
        if self._values:
            return self.joined(self.input_side(parts), self.output_side(()))
        sides = (part if isinstance(part.data, Region) or part == NOT_SENT else part.shape for part in parts)
        key = (*sides, *regions)
        head = self._heads.get(key)
        if head is None:
            head = self.input_side(parts) + self.output_side(regions)
            if len(self._heads) < 1 << 16:
                self._heads[key] = head
        pieces: list[Buffer] = [head]
        for part in parts:
            if not isinstance(part.data, Region) and part != NOT_SENT:
                pieces += (bytes_head(7, len(part.data)), part.data)
        size = sum(map(len, pieces))
        return b"".join((b"\0", size.to_bytes(4, "big"), *pieces))

    def input_side(self, parts: Sequence[Part]) -> bytes:
        model = self._interface
        pieces = [text_field(1, model.name)]
        if model.version:
            pieces.append(text_field(2, model.version))
        for spec, part in zip(model.inputs, parts, strict=True):
            if part == NOT_SENT:
                continue
            tensor = text_field(1, spec.name) + text_field(2, spec.datatype) + numbers_field(3, part.shape)
            if isinstance(part.data, Region):
                tensor += _region_parameters(4, part.data)
            elif self._values:
                tensor += contents_field(5, spec.datatype, bytes(part.data))
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
        """Read a reply, which includes the prefix of 5 bytes.  Raises ``ProtocolError`` if the reply is wrong."""
        known = self._layouts.get(len(message))
        if known is not None:
            for first, last, literal in known[0]:
                if message[first:last] != literal:
                    break
            else:
                return [self._look(message, output) for output in known[1]] if self.wanted else None
        message, found = self._parse(message)
        return [self._look(message, output) for output in found] if self.wanted else None

    def pattern(self, size: int) -> re.Pattern[bytes] | None:
        """A pattern for replies of ``size`` bytes like an earlier one; None without an earlier one."""
        known = self._layouts.get(size)
        if known is None:
            return None
        parts: list[bytes] = []
        at = 0
        for first, last, literal in known[0]:
            parts += (rb".{%d}" % (first - at), re.escape(literal))
            at = last
        return re.compile(b"".join((*parts, rb".{%d}" % (size - at))), re.DOTALL)

    def _parse(self, message: Buffer) -> tuple[Buffer, list[Found]]:
        """The bytes that hold the contents of a reply's outputs, and the outputs; keep the layout of raw contents, so
        that the next reply like it need not be parsed."""
        if len(message) < PREFIX_BYTES:
            raise ProtocolError("a reply without a whole message")
        if message[0]:
            raise ProtocolError("a compressed reply although none was requested")
        described, raw = [], []
        typed: list[Buffer] = []
        """Each output's message of typed numbers; empty without one."""
        for field in fields(memoryview(message)[PREFIX_BYTES:]):
            if field.number == 5 and not isinstance(field.value, int):
                described.append(decode(field.value, _OUTPUT))
                lists = [inner.value for inner in fields(field.value) if inner.number == 5]
                typed.append(b"".join(value for value in lists if not isinstance(value, int)))
            elif field.number == 6 and not isinstance(field.value, int):
                first = field.first + PREFIX_BYTES
                raw.append((first, first + len(field.value)))
        shared = [self._shared or any(p["key"] == REGION_NAME for p in one["parameters"]) for one in described]
        if self._shared and (any(typed) or any(last > first for first, last in raw)):
            raise ProtocolError(
                "the reply contains outputs that belong in shared memory: does the server support shared memory?"
            )
        if any(typed):
            if raw:
                raise ProtocolError("a reply with both typed and raw contents")
            self.got_values = True
            message, raw = self._raw_of(described, typed)
        # For an output in shared memory, servers send an empty raw entry or none at all.
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
        for output in found:  # before this reply becomes the example for others
            check_contents(message, output)
        if not any(typed) and all(output.datatype != "BYTES" for output in found) and len(self._layouts) < 256:
            self._layouts[len(message)] = (_literals(message, [o for o in found if o.first >= 0]), found)
        return message, found

    def _raw_of(
        self, described: Sequence[dict[str, Any]], lists: Sequence[Buffer]
    ) -> tuple[bytes, list[tuple[int, int]]]:
        """Raw contents of outputs that came as lists of typed numbers, and where each of them is."""
        wanted = {spec.name for spec in self._interface.outputs}
        pieces, spans, at = [], [], 0
        for one, numbers in zip(described, lists, strict=True):
            piece = b""
            if one["name"] in wanted:
                try:
                    piece = typed_contents(f"output {one_line(one['name'])}", one["datatype"], one["shape"], numbers)
                except TensorError as error:
                    raise ProtocolError(str(error)) from None
            pieces.append(piece)
            spans.append((at, at := at + len(piece)))
        return b"".join(pieces), spans


def _literals(message: Buffer, outputs: Sequence[Found]) -> list[tuple[int, int, bytes]]:
    """All bytes of a message outside its outputs' contents: first, last, bytes."""
    literals, at = [], 0
    for first, last in [*sorted((output.first, output.last) for output in outputs), (len(message), -1)]:
        if first > at:
            literals.append((at, first, bytes(message[at:first])))
        at = last
    return literals


def _region_parameters(number: int, region: Region) -> bytes:
    """The parameters that place a tensor in ``region``, as entries of the map field ``number``."""
    values = {
        REGION_NAME: text_field(3, region.name),
        REGION_SIZE: number_field(2, region.size),
        REGION_OFFSET: number_field(2, region.offset),
    }
    return b"".join(bytes_field(number, text_field(1, key) + bytes_field(2, value)) for key, value in values.items())


class GrpcChannel(UnaryCalls):
    """A ``Channel`` of ModelInfer calls.  Each call carries ``deadline_s`` as its grpc-timeout."""

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
        self._learnt: dict[tuple[int, int, int], tuple[ReplyHead, int, ReplyHead]] = {}
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
                if event[0] is REPLY:
                    stream = event[1]
                    if self._gathered or self._messages or self._failures:
                        self._take_second(stream, replies)
                    ticket = pop(stream, None)
                    if ticket is not None:
                        # The pattern has already validated the reply; replies on streams we cancelled are ignored.
                        replies.append((ticket, self._read(cast(bytes, event[2])) if wanted else None))
                    elif stream >= self._connection.next_stream or not stream & 1:
                        raise ProtocolError(f"a reply on stream {stream}, which was never opened")
                    continue
                ended: list[CallResult] = []
                self._take(event, ended)
                for ticket, message, failure, _ in ended:
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

    def shed(self, most: int) -> list[tuple[int, Reply]]:
        return [(result.ticket, result.failure) for result in self._shed(most)]

    def lost(self, reason: str) -> list[tuple[int, Reply]]:
        return [(result.ticket, result.failure) for result in self._lost(reason)]

    def _take_second(self, stream: int, replies: list[tuple[int, Reply]]) -> None:
        """Fail a call whose known reply is not the first that comes on its stream."""
        if stream in self._tickets and (failure := self._begun(stream)) is not None:
            replies.append((self._tickets[stream], failure))
            self._forget(stream)

    def _read(self, message: Buffer) -> Reply:
        try:
            return self._reader.read(message)
        except ProtocolError as error:  # the reply is wrong, the connection is not
            return Failure(str(error))

    def _learn(self, message: Buffer) -> None:
        """Let the connection recognise the next reply like this one."""
        form = (self._good_head, len(message), self._good_trailers)
        key = (id(form[0]), form[1], id(form[2]))
        if key in self._learnt or len(self._learnt) == _MOST_LEARNT:
            return
        self._learnt[key] = form  # keep the objects alive, so that their ids stay unique
        pattern = self._reader.pattern(len(message))
        if pattern is not None:
            self._connection.know(self._good_head, pattern, len(message), self._good_trailers)
