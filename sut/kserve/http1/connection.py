"""HTTP/1.1 without I/O, both sides of a connection: bytes in, whole responses or requests out.

Handles the order of messages.  Does not depend on sockets or on what bodies mean.  Optimised for messages that share
a head: one comparison of bytes recognises a message like the last one; ``message`` reads any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.http1.head import (
    TOKEN,
    VALUE,
    VISIBLE,
    RequestHead,
    ResponseHead,
    parse_request_head,
    parse_response_head,
)
from drumfire.sut.kserve.http1.message import VIEW_FROM, Body, MessageReader

MAX_HEAD = 64 << 10
"""Limit of a head in bytes, with the empty line at its end."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
METHODS = ("GET", "POST", "PUT", "PATCH")
"""Of requests that are built here."""
OWN_FIELDS = frozenset({"host", "accept-encoding", "content-length", "transfer-encoding"})
"""Fields that ``build_request`` and ``build_response`` set."""
_MOST_INTERIM = 100
"""1xx responses to one request."""
_MOST_AT_ONCE = 64
"""Requests, or pieces of one, that one read processes; 8 fields of a head count as another."""
_MANY = 16
"""Of these, from which on a read was long."""


class Response(NamedTuple):
    status: int
    head: ResponseHead
    body: Body


class HttpRequest(NamedTuple):
    method: str
    target: str
    head: RequestHead
    body: Body


KNOWN: list[Response] = []
"""A marker for one response: see ``ClientConnection.know``."""


class ClientConnection:
    """The client's side of a connection, with at most one request in flight, by one of ``METHODS``.

    Holds the part of the awaited response that has arrived (``buffered``): at most ``max_head`` bytes of a head, or
    ``max_body`` of a body and one line of chunked coding.  Pieces must be ``bytes``: a large body is a view of its
    piece.  After a ``ProtocolError`` the connection is useless and raises the same error again.
    """

    def __init__(self, *, max_head: int = MAX_HEAD, max_body: int) -> None:
        self.idle = True
        """No response is awaited."""
        self.closing = False
        """No further request may be sent."""
        self._reader = MessageReader(parse_response_head, "reply", max_head, max_body)
        self._failure = ""
        self._at_start = False  # a response is awaited and none of it has arrived
        self._interim = 0
        self._last_raw, self._last_total = b"", -1  # the last head that may recur, and its message's size
        self._last_head: ResponseHead
        self._known, self._known_total = b"", -1

    @property
    def buffered(self) -> int:
        """Bytes held of an incomplete response."""
        return self._reader.buffered

    def request(self) -> None:
        """Note that a request is being sent: its response is awaited from now on."""
        if self.closing or not self.idle:
            raise RuntimeError("a request on a connection that is closing or awaits a response")
        self.idle = False
        self._at_start = True

    def know(self, response: Response, start: bytes | memoryview) -> None:
        """Report later responses like the last one, whose body begins with ``start``, as ``KNOWN``."""
        if self._last_total >= 0 and self._last_head is response.head:
            self._known, self._known_total = self._last_raw + start, self._last_total

    def receive(self, data: bytes) -> list[Response]:
        """The responses that the piece completes: at most one; 1xx are skipped.  Raises ``ProtocolError``.

        Returns the object ``KNOWN`` for a response that differs from the one given to ``know`` only in the rest of
        its body.
        """
        size = len(data)
        if size == self._known_total and self._at_start and data.startswith(self._known):
            self._at_start = False
            self.idle = True
            return KNOWN
        if size == self._last_total and self._at_start and data.startswith(self._last_raw):
            self._at_start = False
            self.idle = True
            head, start = self._last_head, len(self._last_raw)
            return [Response(head.status, head, data[start:] if size < VIEW_FROM else memoryview(data)[start:])]
        if not data:
            return []
        try:
            return self._read(data)
        except ProtocolError as error:
            self._fail(error)
            raise

    def eof(self) -> list[Response]:
        """The peer has closed, which completes a body without a length.  Raises ``ProtocolError`` if it cuts a reply
        short."""
        self.closing = True
        if self.idle:
            return []
        try:
            self._check()
            self._reader.end()
            response = self._take()
            if response is None:
                raise ProtocolError("the connection was closed before the reply arrived")
        except ProtocolError as error:
            self._fail(error)
            raise
        return [response]

    def _read(self, data: bytes) -> list[Response]:
        self._check()
        self._at_start = False
        at, size = 0, len(data)
        response: Response | None = None
        while at < size and not self.idle:
            at = self._reader.feed(data, at)
            response = self._take()
        if at < size:
            raise ProtocolError(f"{size - at} bytes that belong to no request: {data[at : at + 40]!r}")
        return [] if response is None else [response]

    def _take(self) -> Response | None:
        """The final response, if it is complete."""
        message = self._reader.take()
        if message is None:
            return None
        head, body = message
        if head.status < 200:
            if head.status == 101:
                raise ProtocolError("the server switched protocols (101) without a request to do so")
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise ProtocolError(f"more than {_MOST_INTERIM} interim responses (1xx) to one request")
            return None
        self._interim = 0
        self.idle = True
        if not head.keeps_alive:
            self.closing = True
        elif head.body_length is not None:
            raw = self._reader.raw_head
            self._last_raw, self._last_total, self._last_head = raw, len(raw) + head.body_length, head
        return Response(head.status, head, body)

    def _check(self) -> None:
        if self._failure:
            raise ProtocolError(self._failure)

    def _fail(self, error: ProtocolError) -> None:
        self._failure = str(error)
        self.closing = True
        self.idle = self._at_start = False
        self._reader.drop()


class ServerConnection:
    """The server's side of a connection.  Requests may be pipelined, several in one piece.

    Holds the part of an incomplete request that has arrived (``buffered``): at most ``max_head`` bytes of a head, or
    ``max_body`` of a body and one line of chunked coding.  One call of ``receive`` takes little time, whatever was
    read: the rest is ``unread`` until the next.  Pieces must be ``bytes``: a large body is a view of its piece.
    After a ``ProtocolError`` (answer 400 and close) the connection is useless and raises the same error again.
    """

    def __init__(self, *, max_head: int = MAX_HEAD, max_body: int) -> None:
        self.closing = False
        """The last request has arrived: its answer must say "Connection: close".  Later bytes are ignored."""
        self.wants_continue = False
        """The client waits for ``CONTINUE`` before it sends a body.  Set only after the piece that ends the head."""
        self.unread = False
        """Some of what was read is not processed yet: call ``receive`` again before the next read."""
        self.was_long = False
        """The last ``receive`` took long, and may have left something unread: others come first, then call it again."""
        self.partial = False
        """A request has arrived in part."""
        self._rest, self._done = b"", 0  # what is unread, and how many of its bytes are done
        self._reader = MessageReader(parse_request_head, "request", max_head, max_body)
        self._failure = ""
        self._at_start = True
        self._last_raw, self._last_total = b"", -1
        self._last_head: RequestHead

    @property
    def buffered(self) -> int:
        """Bytes held of an incomplete request."""
        return self._reader.buffered

    @property
    def head(self) -> RequestHead | None:
        """The head of a request whose body has not arrived."""
        return self._reader.head

    def receive(self, data: bytes) -> list[HttpRequest]:
        """The requests that the piece completes, after what is ``unread``.  Raises ``ProtocolError``, even after whole
        requests in the piece."""
        size = len(data)
        if size == self._last_total and self._at_start and data.startswith(self._last_raw):
            head, start = self._last_head, len(self._last_raw)
            body = data[start:] if size < VIEW_FROM else memoryview(data)[start:]
            return [HttpRequest(head.method, head.target, head, body)]
        self.wants_continue = False
        try:
            return self._read(data)
        except ProtocolError as error:
            self._fail(error)
            raise

    def eof(self) -> None:
        """The peer has closed.  Raises ``ProtocolError`` if that cuts a request short."""
        self.closing = True
        self._at_start = self.wants_continue = False
        try:
            self._check()
            self._reader.end()
        except ProtocolError as error:
            self._fail(error)
            raise

    def _read(self, data: bytes) -> list[HttpRequest]:
        self._check()
        reader, requests, at = self._reader, [], 0
        if self.unread:
            data, at = (self._rest[self._done :] + data, 0) if data else (self._rest, self._done)
        size, left = len(data), _MOST_AT_ONCE
        while at < size and left > 0 and not self.closing:
            left -= 1
            had_head = reader.head is not None
            at = reader.feed(data, at)
            message = reader.take()
            if message is not None:
                head, body = message
                left -= len(head.fields) >> 3
                requests.append(HttpRequest(head.method, head.target, head, body))
                self.closing = not head.keeps_alive
                if head.body_length is not None:
                    raw = reader.raw_head
                    self._last_raw, self._last_total, self._last_head = raw, len(raw) + head.body_length, head
            elif reader.head is not None:
                # A client that has started its body no longer waits.
                self.wants_continue = not had_head and reader.head.expects_continue and not reader.buffered
        self.unread = at < size and not self.closing
        self._rest, self._done = (data, at) if self.unread else (b"", 0)
        self.was_long = left <= _MOST_AT_ONCE - _MANY
        self.partial = reader.begun
        self._at_start = not self.partial and not self.closing and not self.unread
        return requests

    def _check(self) -> None:
        if self._failure:
            raise ProtocolError(self._failure)

    def _fail(self, error: ProtocolError) -> None:
        self._failure = str(error)
        self.closing = True
        self._at_start = self.wants_continue = False
        self._reader.drop()


def build_request(method: str, target: str, host: str, fields: Iterable[tuple[str, str]], body_length: int) -> bytes:
    """A request's head, for a body of ``body_length`` bytes.  It requests an uncompressed reply.

    Raises ``ValueError`` for characters that a head cannot contain, such as CR, LF and NUL.
    """
    if method not in METHODS:
        raise ValueError(f"the method must be one of {', '.join(METHODS)}, not {method!r}")
    for what, text in (("target", target), ("host", host)):
        if not VISIBLE.fullmatch(text):
            raise ValueError(f"{what} {text!r}: a space or a character that is not visible ASCII")
    # Triton compresses whenever it may, at 50 times the cost of the inference itself.
    own = [("Host", host), ("Accept-Encoding", "identity")]
    if method != "GET" or body_length:
        own.append(("Content-Length", str(body_length)))
    return _build_head(f"{method} {target} HTTP/1.1", own, fields, body_length)


def build_response(status: int, fields: Iterable[tuple[str, str]], body_length: int) -> bytes:
    """A response's head, for a body of ``body_length`` bytes.  Raises ``ValueError`` like ``build_request``."""
    bodiless = status < 200 or status in (204, 304)
    if bodiless and body_length:
        raise ValueError(f"a response of status {status} has no body")
    own = [] if bodiless else [("Content-Length", str(body_length))]
    return _build_head(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", own, fields, body_length)


def _build_head(first: str, own: list[tuple[str, str]], fields: Iterable[tuple[str, str]], body_length: int) -> bytes:
    if body_length < 0:
        raise ValueError(f"a body of {body_length} bytes")
    lines = [first, *(f"{name}: {value}" for name, value in own)]
    for name, value in fields:
        if not TOKEN.fullmatch(name) or not VALUE.fullmatch(value):
            raise ValueError(f"field {name!r}: {value!r}: a character that a head cannot contain")
        if name.lower() in OWN_FIELDS:
            raise ValueError(f"field {name} is set by the builder")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
