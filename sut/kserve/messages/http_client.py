"""KServe v2 over HTTP, client side: requests out and replies in, one at a time on a connection.

Handles the JSON of inference requests and replies and the binary tensor extension; for servers without it, tensors are
lists in the JSON.  Does not depend on sockets.
Sources: KServe's "Open Inference Protocol (v2)"; the "Binary tensor data extension" of Triton's protocol.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

from drumfire.sut.kserve.errors import ProtocolError, one_line
from drumfire.sut.kserve.http1.connection import KNOWN, ClientConnection, Response, build_request
from drumfire.sut.kserve.http1.head import INFERENCE_HEADER_LENGTH
from drumfire.sut.kserve.messages.exchange import (
    MAX_MESSAGE_BYTES,
    NOT_SENT,
    REGION_NAME,
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
from drumfire.sut.kserve.messages.tensors import (
    ModelInterface,
    Shape,
    Tensor,
    TensorSpec,
    from_json_values,
    to_json_text,
)

T = TypeVar("T")

_NONE = -1
_ID = b'"id":"0",'
"""Optional by the protocol, but kserve's server fails a request without it.  The same in all, as none needs it."""
SMALL = 16_384
"""Bytes up to which a body is copied behind its head, to write both in one piece."""


def model_path(name: str, version: str) -> str:
    """The path of a model; without ``version``, of the version that the server chooses."""
    path = f"/v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def error_text(response: Response) -> str:
    """The reason in a server's reply to a request that it refused, as one line."""
    try:
        document = json.loads(bytes(response.body))
    except (ValueError, RecursionError):
        document = None
    text = _error_in(document)
    text = text or bytes(response.body[:200]).decode("utf-8", "replace") or response.head.reason
    hint = "; does the server want a --header 'authorization: …'?" if response.status in (401, 403) else ""
    if 300 <= response.status < 400 and (elsewhere := response.head.fields.get("location")):
        hint = f" to {one_line(elsewhere, 200)}: give the --url that leads there"
    return f"HTTP {response.status}: {one_line(str(text))}{hint}"


def _error_in(document: Any) -> object:
    """What a server calls its reason: ``error`` by the protocol, ``detail`` by a common Python framework."""
    return next(filter(None, map(document.get, ("error", "detail"))), None) if isinstance(document, Mapping) else None


class InferBody(NamedTuple):
    """A request without its head: JSON, then the tensors."""

    json_size: int | None
    """None: JSON alone, as any server reads it."""
    body: bytes


class HttpMessages:
    """``Messages`` of one model over HTTP; with ``shared``, also ``SharedMessages``."""

    def __init__(
        self,
        interface: ModelInterface,
        *,
        batch_size: int | None = None,
        shared: bool = False,
        values: bool = False,
        identified: bool = False,
    ) -> None:
        """``batch_size``: the most samples that a request holds, None if unknown; ``shared``: all outputs lie in
        shared memory; ``values``: tensors are lists in the JSON, and ``request`` takes what ``encoded`` gives, joined
        by ``joint``; ``identified``: requests have an id, which some servers need and others take time to return."""
        self.wanted = False
        self.joint = b"," if values else b""
        self.got_values = False
        """Whether a reply has held values."""
        self._values, self._id = values, _ID if identified else b""
        self._batch_size = batch_size
        self._shared, self._look = shared, placeholder if shared else contents
        self._interface = interface
        self._texts: dict[tuple[object, ...], bytes] = {}
        self._layouts: dict[int, tuple[bytes, list[Found]]] = {}
        """By the length of a reply's body: its JSON and its outputs."""

    def encoded(self, datatype: str, shape: Shape, data: Buffer) -> Buffer:
        """A sample's tensor as ``request`` takes it.  Raises ``TensorError`` for elements that JSON cannot hold."""
        return to_json_text(datatype, shape, data) if self._values else data

    def request(self, parts: Sequence[Part], regions: Sequence[Region] = ()) -> InferBody:
        if self._values:
            inputs = b",".join(
                b'%b,"data":[%b]}' % (_compact(_described(spec, part))[:-1], bytes(part.data))
                for spec, part in zip(self._interface.inputs, parts, strict=True)
                if part != NOT_SENT and not isinstance(part.data, Region)
            )
            return InferBody(None, b'{%b"inputs":[%b],"outputs":%b' % (self._id, inputs, self.output_side(())))
        key = (*(part if isinstance(part.data, Region) else (part.shape, len(part.data)) for part in parts), *regions)
        text = self._texts.get(key)
        if text is None:
            text = self.input_side(parts) + self.output_side(regions)
            if len(self._texts) < 1 << 16:
                self._texts[key] = text
        return InferBody(
            len(text), b"".join((text, *(part.data for part in parts if not isinstance(part.data, Region))))
        )

    def input_side(self, parts: Sequence[Part]) -> bytes:
        inputs = []
        for spec, part in zip(self._interface.inputs, parts, strict=True):
            data = part.data
            if part != NOT_SENT:
                where = data.parameters() if isinstance(data, Region) else {"binary_data_size": len(data)}
                inputs.append(_described(spec, part) | {"parameters": where})
        return b'{%b"inputs":%b,"outputs":' % (self._id, _compact(inputs))

    def output_side(self, regions: Sequence[Region]) -> bytes:
        outputs: list[dict[str, Any]] = [{"name": spec.name} for spec in self._interface.outputs]
        if not self._values:
            for at, output in enumerate(outputs):
                output["parameters"] = regions[at].parameters() if regions else {"binary_data": True}
        return _compact(outputs) + b"}"

    def joined(self, input_side: bytes, output_side: bytes) -> InferBody:
        text = input_side + output_side
        return InferBody(len(text), text)

    def reply(self, response: Response) -> Reply:
        """Read a response; a wrong one becomes a ``Failure``."""
        if response.status != 200:
            return Failure(error_text(response))
        try:
            return self.read(response.body, response.head.inference_header_length)
        except ProtocolError as error:
            return Failure(str(error))

    def read(self, body: Buffer, json_size: int | None) -> Outputs | None:
        """Read a reply's body.  Raises ``ProtocolError`` if it is wrong."""
        known = self._layouts.get(len(body))
        if known is not None and len(known[0]) == json_size and body[:json_size] == known[0]:
            return [self._look(body, output) for output in known[1]] if self.wanted else None
        return self._parse(body, json_size)

    def start(self, response: Response) -> Buffer | None:
        """The JSON of a good reply, if later replies may differ only after it; else None."""
        known = self._layouts.get(len(response.body))
        return known[0] if known is not None and response.status == 200 else None

    def again(self, data: bytes, body_size: int) -> Reply:
        """Like ``reply``, for ``data`` that ends with a body of a layout that was validated before."""
        if not self.wanted:
            return None
        body = memoryview(data)[len(data) - body_size :]
        return [self._look(body, output) for output in self._layouts[body_size][1]]

    def _parse(self, body: Buffer, json_size: int | None) -> Outputs | None:
        """Like ``read``, for a new layout; keep the layout, so that the next reply like it need not be parsed."""
        size = len(body) if json_size is None else json_size
        if size > len(body):
            raise ProtocolError(f"a reply of {len(body)} bytes with {size} bytes of JSON")
        text = bytes(body[:size])
        try:
            document = json.loads(text)
            described = document.get("outputs") if isinstance(document, Mapping) else None
            if not isinstance(described, list):
                why = _error_in(document)
                raise ProtocolError(f"the server says {one_line(str(why))}" if why else "the reply has no outputs")
            found, plain, at, wanted = [], {}, size, {spec.name for spec in self._interface.outputs}
            for one in described:
                parameters = one.get("parameters") or {}
                shape = tuple(operator.index(length) for length in one["shape"])
                first = last = -1
                if REGION_NAME in parameters:
                    pass
                elif self._shared:
                    if "binary_data_size" in parameters or "data" in one:
                        raise ProtocolError(
                            f"output {one['name']} came in the reply, not in its shared memory: "
                            "does the server support shared memory?"
                        )
                elif "binary_data_size" in parameters:
                    first, last = at, at + operator.index(parameters["binary_data_size"])
                    if not first <= last <= len(body):
                        raise ProtocolError(f"output {one['name']} runs past the end of the reply")
                    at = last
                elif one["name"] in wanted:
                    plain[one["name"]] = Tensor(shape, from_json_values(one["data"], one["datatype"], null_is_nan=True))
                found.append(Found(str(one["name"]), str(one["datatype"]), shape, first, last))
        except ProtocolError:
            raise
        except KeyError as error:
            raise ProtocolError(f"an output of the reply lacks {error}") from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            why = one_line(f"{type(error).__name__}: {error}")
            raise ProtocolError(f"the reply cannot be read: {why}") from None
        if at != len(body):
            raise ProtocolError(f"{len(body) - at} bytes after the reply's last tensor")
        found = check_outputs(self._interface, found, self._batch_size)
        for output in found:
            check_contents(body, output)
        if not plain:
            if all(output.datatype != "BYTES" for output in found) and len(self._layouts) < 256:
                self._layouts[len(body)] = (text, found)
            return [self._look(body, output) for output in found] if self.wanted else None
        self.got_values = True
        # Values in the JSON, as servers without the binary extension send them.
        arrays = []
        for output in found:
            if output.name in plain:
                data = plain[output.name].data
                arrays.append(contents(data, output._replace(first=0, last=len(data))))
            else:
                arrays.append(contents(body, output))
        return arrays if self.wanted else None


def _described(spec: TensorSpec, part: Part) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(part.shape), "datatype": spec.datatype}


def _compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


class HttpExchange(Generic[T]):
    """Requests on one connection, one after the other.  ``read`` converts each response for the user."""

    def __init__(self, read: Callable[[Response], T], max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.out: list[Buffer] = []
        self._connection = ClientConnection(max_body=max_message_bytes)
        self._read = read
        self._ticket = _NONE

    @property
    def draining(self) -> bool:
        return self._connection.closing

    @property
    def free(self) -> int:
        return int(self._connection.idle and not self._connection.closing)

    @property
    def buffered(self) -> int:
        return self._connection.buffered

    def shed(self, most: int) -> list[tuple[int, T | Failure]]:
        """Do nothing: one reply is bounded as it is."""
        return []

    def put(self, ticket: int, head: bytes, body: bytes) -> None:
        """Send a request.  The caller has checked that the connection is ``free``."""
        self._connection.request()
        self._ticket = ticket
        if len(body) <= SMALL:
            self.out.append(head + body)
        else:
            self.out += (head, body)

    def close(self) -> None:
        """Do nothing: HTTP/1.1 has no last words."""

    def receive(self, data: bytes) -> list[tuple[int, T | Failure]]:
        responses = self._connection.receive(data)
        return self._answered(responses[0]) if responses else []

    def eof(self) -> list[tuple[int, T | Failure]]:
        responses = self._connection.eof()
        return self._answered(responses[0]) if responses else []

    def lost(self, reason: str) -> list[tuple[int, T | Failure]]:
        ticket, self._ticket = self._ticket, _NONE
        self._connection.closing = True
        return [] if ticket == _NONE else [(ticket, Failure(reason))]

    def _answered(self, response: Response) -> list[tuple[int, T | Failure]]:
        ticket, self._ticket = self._ticket, _NONE
        return [(ticket, self._read(response))]


class ReplyReader(Protocol):
    """Reads the replies of a channel."""

    def reply(self, response: Response) -> Reply:
        """Read a response; a wrong one becomes a ``Failure``."""

    def start(self, response: Response) -> Buffer | None:
        """How the body of later replies with the same head must begin for ``again``; None for a wrong response."""

    def again(self, data: bytes, body_size: int) -> Reply:
        """Like ``reply``, for ``data`` that ends with a body of ``body_size`` bytes which began so."""


class ReplyChannel(HttpExchange[Reply]):
    """A ``Channel`` without its ``send``."""

    def __init__(self, messages: ReplyReader, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        super().__init__(messages.reply, max_message_bytes)
        self._messages, self._known_size = messages, 0

    def receive(self, data: bytes) -> list[tuple[int, Reply]]:
        responses = self._connection.receive(data)
        if responses is KNOWN:
            ticket, self._ticket = self._ticket, _NONE
            return [(ticket, self._messages.again(data, self._known_size))]
        if not responses:
            return []
        answered = self._answered(responses[0])
        start = self._messages.start(responses[0])
        if start is not None:
            self._connection.know(responses[0], start)
            self._known_size = len(responses[0].body)
        return answered

    def cancel(self, ticket: int) -> bool:
        return False

    @property
    def under_way(self) -> int:
        return int(self._ticket != _NONE)

    @property
    def oldest(self) -> int | None:
        return None if self._ticket == _NONE else self._ticket


class HttpChannel(ReplyChannel):
    """A ``Channel`` of inference requests for one model."""

    def __init__(
        self,
        messages: HttpMessages,
        target: str,
        authority: str,
        headers: Sequence[tuple[str, str]] = (),
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        super().__init__(messages, max_message_bytes)
        self._target, self._authority, self._headers = target, authority, tuple(headers)
        self._heads: dict[tuple[int | None, int], bytes] = {}

    def send(self, ticket: int, request: InferBody) -> None:
        json_size, body = request
        head = self._heads.get((json_size, len(body))) or self._head(json_size, len(body))
        self.put(ticket, head, body)

    def _head(self, json_size: int | None, size: int) -> bytes:
        form = [(INFERENCE_HEADER_LENGTH, str(json_size)), ("Content-Type", "application/octet-stream")]
        fields = [*([("Content-Type", "application/json")] if json_size is None else form), *self._headers]
        head = build_request("POST", self._target, self._authority, fields, size)
        if len(self._heads) < 4096:
            self._heads[json_size, size] = head
        return head
