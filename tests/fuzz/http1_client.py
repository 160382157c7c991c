"""Replies over HTTP/1.1: with and without an earlier reply like them, whole and in pieces, the same must come."""

from __future__ import annotations

from collections.abc import Iterator

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.http1.connection import KNOWN, ClientConnection
from drumfire.sut.kserve.http1.message import MAX_CHUNK_LINE
from tests.fuzz.harness import check_primed

_MOST_HEAD, _MOST_BODY = 4096, 100_000
_GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nContent-Length: 5\r\n\r\nab123"
_LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + bytes(40_000)
SEEDS = [
    _GOOD,
    _LARGE,
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + _GOOD,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nabcde\r\n1\r\nf\r\n0\r\nTrailer: x\r\n\r\n",
    b"HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\nno length, no end",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 400 Bad\r\nconnection: close\r\nInference-Header-Content-Length: 3\r\ncontent-length: 4, 4\r\n\r\nabcd",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
]
TOKENS = [
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 3\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"0\r\n\r\n",
    b"1\r\nx\r\n",
    b"ffffffffffffffff\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Connection: close\r\n",
    b" ",
    b"\t",
    b"HTTP/1.1 101 x\r\n\r\n",
]


def read(data: bytes) -> None:
    check_primed(_events, data)


def _events(pieces: Iterator[bytes], *, primed: bool) -> tuple[list[object], bool]:
    connection = ClientConnection(max_head=_MOST_HEAD, max_body=_MOST_BODY)
    if primed:
        connection.request()
        (known,) = connection.receive(_GOOD)
        connection.know(known, b"ab")
    connection.request()
    events: list[object] = []
    try:
        for piece in pieces:
            replies = connection.receive(piece)
            if replies is KNOWN:
                assert primed
                assert len(piece) == len(_GOOD), "a reply unlike the known one"
                replies = [known._replace(body=piece[-5:])]
            events += [(reply.status, reply.head, bytes(reply.body)) for reply in replies]
            assert connection.buffered <= _MOST_HEAD + _MOST_BODY + MAX_CHUNK_LINE
        events += [(reply.status, reply.head, bytes(reply.body)) for reply in connection.eof()]
    except ProtocolError:
        assert not connection.buffered, "what it held is not let go"
        return events, True
    return events, False
