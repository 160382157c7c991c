"""Requests over HTTP/1.1: whole and in pieces, on a fresh connection and after a request, the same must come."""

from __future__ import annotations

from collections.abc import Iterator

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.http1.connection import ServerConnection
from drumfire.sut.kserve.http1.message import MAX_CHUNK_LINE
from tests.fuzz.harness import check_primed

_MOST_HEAD, _MOST_BODY = 4096, 100_000
_GOOD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab123"
SEEDS = [
    _GOOD,
    _GOOD * 5,
    b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n" * 80,
    b"POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc" + _GOOD,
    b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"1\r\nx\r\n" * 40
    + b"0\r\nA: b\r\n\r\n"
    + _GOOD,
    b"\r\nGET / HTTP/1.0\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n" + bytes(40_000) + _GOOD,
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"a%d: b\r\n" % at for at in range(100)) + b"\r\n" + _GOOD,
]
TOKENS = [
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 3\r\n",
    b"Host: y\r\n",
    b"0\r\n\r\n",
    b"1\r\nx\r\n",
    b"Expect: 100-continue\r\n",
    b"ffffffffffffffff\r\n",
    b"Connection: close\r\n",
    b" ",
    b"\t",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HTTP/1.0",
]


def read(data: bytes) -> None:
    check_primed(_events, data)


def _events(pieces: Iterator[bytes], *, primed: bool) -> tuple[list[object], bool]:
    connection = ServerConnection(max_head=_MOST_HEAD, max_body=_MOST_BODY)
    if primed:
        connection.receive(_GOOD)
    events: list[object] = []
    try:
        for piece in pieces:
            requests = connection.receive(piece)
            while True:
                events += [(one.method, one.target, one.head, bytes(one.body)) for one in requests]
                assert connection.buffered <= _MOST_HEAD + _MOST_BODY + MAX_CHUNK_LINE
                if not connection.unread:
                    break
                requests = connection.receive(b"")
        if not connection.closing:
            connection.eof()
    except ProtocolError:
        assert not connection.buffered, "what it held is not let go"
        return events, True
    return events, False
