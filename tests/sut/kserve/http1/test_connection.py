"""HTTP/1.1 from byte strings: any pieces give the same messages, and what breaks the grammar is refused, not held."""

import gc
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.http1.connection import (
    CONTINUE,
    ClientConnection,
    HttpRequest,
    Response,
    ServerConnection,
    build_request,
    build_response,
)
from drumfire.sut.kserve.http1.head import MEMOISED_HEADS, parse_request_head, parse_response_head
from drumfire.sut.kserve.http1.message import MAX_CHUNK_LINE, VIEW_FROM

MAX_HEAD, MAX_BODY = 400, 1000
BUFFER_BOUND = MAX_BODY + max(MAX_HEAD, MAX_CHUNK_LINE)

OK = b"HTTP/1.1 200 OK\r\n"
POST = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: a:8000\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def client(max_head: int = MAX_HEAD, max_body: int = MAX_BODY) -> ClientConnection:
    return ClientConnection(max_head=max_head, max_body=max_body)


def server(max_head: int = MAX_HEAD, max_body: int = MAX_BODY) -> ServerConnection:
    return ServerConnection(max_head=max_head, max_body=max_body)


def received(connection: ServerConnection, piece: bytes) -> list[HttpRequest]:
    """The requests that a piece completes, in as many turns as they take."""
    found = connection.receive(piece)
    while connection.unread:
        found += connection.receive(b"")
    return found


def answer(connection: ClientConnection, *pieces: bytes, eof: bool = False) -> Response:
    """The response to one request, which must come with the last piece and not before."""
    connection.request()
    *early, last = [connection.receive(piece) for piece in pieces] + ([connection.eof()] if eof else [])
    assert not any(early)
    (response,) = last
    assert connection.idle
    assert connection.buffered == 0
    return response


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places} - {0, len(data)}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def feed(connection: ClientConnection | ServerConnection, pieces: Iterable[bytes]) -> list[Any]:
    """All that came of the pieces; what is held stays within its bounds meanwhile."""
    found: list[Any] = []
    for piece in pieces:
        found += connection.receive(piece)
        assert connection.buffered <= BUFFER_BOUND
    return found


def single(message: bytes) -> list[bytes]:
    return cut(message, range(len(message)))


cuts = st.lists(st.integers(0, 10**6), max_size=12)


# --- the client's side: what is understood ---


@pytest.mark.parametrize(
    ("message", "status", "body", "keeps_alive"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", 200, b"hello", True),
        (OK + b"content-LENGTH:5\r\n\r\nhello", 200, b"hello", True),
        (OK + b"Content-Length: \t 5\t \r\n\r\nhello", 200, b"hello", True),
        (OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True),
        (OK + b"Content-Length: 5, 05\r\n\r\nhello", 200, b"hello", True),
        (OK + b"Content-Length: 0\r\n\r\n", 200, b"", True),
        (OK + b"Inference-Header-Content-Length: 3\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True),
        (OK + b"Content-Length: 5\r\nInference-Header-Content-Length: 3\r\n\r\nhello", 200, b"hello", True),
        (OK + b"Content-Encoding: Identity\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True),
        (OK + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello", 200, b"hello", False),
        (OK + b"Content-Length: 5\r\nConnection: x, Close\r\n\r\nhello", 200, b"hello", False),
        (OK + b"Content-Length: 5\r\nConnection: keep-alive\r\n\r\nhello", 200, b"hello", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", False),
        (b"HTTP/1.1 400 \r\nContent-Length: 1\r\n\r\n!", 400, b"!", True),
        (b"HTTP/1.1 400\r\nContent-Length: 1\r\n\r\n!", 400, b"!", True),
        (b"HTTP/1.1 599 d\xe9j\xe0 vu\r\nContent-Length: 1\r\n\r\n!", 599, b"!", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99999\r\n\r\n", 304, b"", True),
        (b"HTTP/1.1 204 No Content\r\n" + CHUNKED, 204, b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\n!", 200, b"!", True),
        (b"HTTP/1.1 103 Early\r\nContent-Length: 7\r\n\r\n" * 3 + OK + b"Content-Length: 1\r\n\r\n!", 200, b"!", True),
        (OK + CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", 200, b"hello", True),
        (OK + CHUNKED + b"0\r\n\r\n", 200, b"", True),
        (
            OK + CHUNKED + b'5;a=1;b="x;y"\r\nhello\r\nA \t;x\r\n, chunked!\r\n000;\r\n\r\n',
            200,
            b"hello, chunked!",
            True,
        ),
        (OK + CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n", 200, b"hello", True),
        (OK + b"Transfer-Encoding: Chunked\r\nConnection: close\r\n\r\n2\r\n\r\n\r\n0\r\n\r\n", 200, b"\r\n", False),
    ],
)
def test_responses(message: bytes, status: int, body: bytes, keeps_alive: bool) -> None:
    for pieces in ([message], [message[:-1], message[-1:]], single(message)):
        connection = client()
        response = answer(connection, *pieces)
        assert (response.status, response.body) == (status, body)
        assert response.head.keeps_alive == keeps_alive
        assert connection.closing == (not keeps_alive)
        assert connection.eof() == []
        assert connection.closing


@pytest.mark.parametrize(
    "head", [OK + b"\r\n", b"HTTP/1.0 200 OK\r\n\r\n", OK + b"Connection: keep-alive\r\nServer: x\r\n\r\n"]
)
@pytest.mark.parametrize("body", [b"", b"hello", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_body_of_no_known_length_ends_with_the_connection(head: bytes, body: bytes) -> None:
    connection = client()
    pieces = [head, body] if body else [head]
    response = answer(connection, *pieces, eof=True)
    assert response.body == body
    assert response.head.content_length is None
    assert not response.head.keeps_alive
    assert connection.closing


def test_a_head_is_read_field_by_field() -> None:
    head = answer(
        client(),
        b"HTTP/1.1 200 Fine by me\r\nX-A: 1\r\nx-a:  two words \r\nEmpty:\r\nInference-Header-Content-Length: 2\r\n"
        b"Content-Length: 3\r\n\r\nabc",
    ).head
    assert (head.status, head.reason) == (200, "Fine by me")
    assert head.fields == {
        "x-a": "1, two words",
        "empty": "",
        "inference-header-content-length": "2",
        "content-length": "3",
    }
    assert (head.content_length, head.inference_header_length, head.chunked) == (3, 2, False)
    without = answer(client(), OK + CHUNKED + b"0\r\n\r\n").head
    assert (without.content_length, without.inference_header_length, without.chunked) == (None, None, True)


def test_only_the_inference_header_s_length_is_no_content_length() -> None:
    connection = client()
    response = answer(connection, OK + b"Inference-Header-Content-Length: 2\r\n\r\n", b"hello", eof=True)
    assert response.body == b"hello"
    assert response.head.inference_header_length == 2


# --- the client's side: what is refused ---

BROKEN_RESPONSES = [
    (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "not HTTP/1.1: byte 0x00 in a head"),
    (b"SSH-2.0\r\n\r\n", "not a status line"),
    (b"HTTP/2 200 OK\r\n\r\n", "not a status line"),
    (b"HTTP/2.0 200 OK\r\n\r\n", "not a status line"),
    (b"HTTP/1.1  200 OK\r\n\r\n", "not a status line"),
    (b"HTTP/1.1 2000 OK\r\n\r\n", "not a status line"),
    (b"HTTP/1.1 099 OK\r\n\r\n", "not a status line"),
    (b"HTTP/1.1 600 OK\r\n\r\n", "not a status line"),
    (b"http/1.1 200 OK\r\n\r\n", "not a status line"),
    (b"\r\n\r\n", "not a status line"),
    (b"\r\n" + OK + b"Content-Length: 0\r\n\r\n", "not a status line"),
    (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", "switched protocols"),
    (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "LF without CR"),
    (OK + b"Content-Length: 0\n\r\n", "LF without CR"),
    (OK + b"A: b\rContent-Length: 0\r\n\r\n", "CR without LF"),
    (OK + b"A: b\x00\r\n\r\n", "byte 0x00"),
    (OK + b"A: b\x7f\r\n\r\n", "byte 0x7f"),
    (OK + b"A: b\r\n c\r\n\r\n", "obs-fold"),
    (OK + b" A: b\r\n\r\n", "obs-fold"),
    (OK + b"A: b\r\n\tc\r\n\r\n", "obs-fold"),
    (OK + b"A : b\r\n\r\n", "not a field line"),
    (OK + b"A\t: b\r\n\r\n", "not a field line"),
    (OK + b": b\r\n\r\n", "not a field line"),
    (OK + b"A b: c\r\n\r\n", "not a field line"),
    (OK + b"no colon\r\n\r\n", "not a field line"),
    (OK + b"\xc4: b\r\n\r\n", "not a field line"),
    (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "not one number: '5, 6'"),
    (OK + b"Content-Length: 5, 6\r\n\r\nhello", "not one number"),
    (OK + b"Content-Length: 5,\r\n\r\nhello", "not one number"),
    (OK + b"Content-Length:\r\n\r\nhello", "not one number"),
    (OK + b"Content-Length: -5\r\n\r\nhello", "not one number"),
    (OK + b"Content-Length: +5\r\n\r\nhello", "not one number"),
    (OK + b"Content-Length: 5_0\r\n\r\nhello", "not one number"),
    (OK + b"Content-Length: 0x5\r\n\r\nhello", "not one number"),
    (OK + b"Content-Length: \xb2\r\n\r\nhello", "not one number"),
    (OK + b"Content-Length: " + b"9" * 300 + b"\r\n\r\nhello", "not one number"),
    (OK + b"Inference-Header-Content-Length: x\r\nContent-Length: 0\r\n\r\n", "inference-header-content-length"),
    (OK + b"Content-Length: 5\r\n" + CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", "both Content-Length and Transfer-Encoding"),
    (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "transfer coding other than chunked"),
    (OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n", "transfer coding other than chunked"),
    (OK + b"Transfer-Encoding: chunked\r\n" + CHUNKED, "transfer coding other than chunked"),
    (OK + b"Transfer-Encoding:\r\n\r\n", "transfer coding other than chunked"),
    (OK + b"Transfer-Encoding: xchunked\r\n\r\n", "transfer coding other than chunked"),
    (b"HTTP/1.0 200 OK\r\n" + CHUNKED, "HTTP/1.0"),
    (OK + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", "compressed reply although none was requested"),
    (OK + b"Content-Length: 1001\r\n\r\n", r"of 1001 bytes .* at most 1000"),
    (OK + CHUNKED + b"3e9\r\n", r"of 1001 bytes .* at most 1000"),
    (OK + CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\n", r"of 1001 bytes .* at most 1000"),
    (OK + CHUNKED + b"ffffffffffffffff\r\n", "at most 1000"),
    (OK + CHUNKED + b"0" * 17 + b"\r\n", "not a chunk's size"),
    (OK + CHUNKED + b"\r\n", "not a chunk's size"),
    (OK + CHUNKED + b"-1\r\n", "not a chunk's size"),
    (OK + CHUNKED + b"0x1\r\n", "not a chunk's size"),
    (OK + CHUNKED + b" 1\r\n", "not a chunk's size"),
    (OK + CHUNKED + b"1 \r\n", "not a chunk's size"),
    (OK + CHUNKED + b"1;a\rb\r\n", "not a chunk's size"),
    (OK + CHUNKED + b"1\n", "LF without CR"),
    (OK + CHUNKED + b"1;a\nb\r\n", "LF without CR"),
    (OK + CHUNKED + b"1;" + b"a" * MAX_CHUNK_LINE, f"over {MAX_CHUNK_LINE} bytes"),
    (OK + CHUNKED + b"1\r\nxyz", "longer than its size"),
    (OK + CHUNKED + b"1\r\nx\n", "LF without CR"),
    (OK + CHUNKED + b"0\r\nA : b\r\n", "not a field line"),
    (OK + CHUNKED + b"0\r\n a: b\r\n", "obs-fold"),
    (OK + CHUNKED + b"0\r\n" + b"A: b\r\n" * 70, "trailers are over the limit"),
    (OK + CHUNKED + b"0\r\n\n", "LF without CR"),
    (OK + b"\r\n" + b"x" * 1001, r"of 1001 bytes .* at most 1000"),
    (OK + b"A: " + b"b" * 400 + b"\r\n\r\n", r"head is over 400 bytes \(max_head\): 424 received"),
    (OK + b"A: " + b"b" * 400, r"head is over 400 bytes \(max_head\): 420 received"),
    (OK + b"Content-Length: 5\r\n\r\nhelloHTTP", "4 bytes that belong to no request: b'HTTP'"),
    (OK + CHUNKED + b"0\r\n\r\nx", "1 bytes that belong to no request"),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\nx", "1 bytes that belong to no request"),
]


@pytest.mark.parametrize(("message", "text"), BROKEN_RESPONSES)
def test_broken_responses(message: bytes, text: str) -> None:
    connection = client()
    connection.request()
    with pytest.raises(ProtocolError, match=text) as raised:
        connection.receive(message)
    assert "\n" not in str(raised.value)
    assert connection.closing
    for again in (lambda: connection.receive(b"x"), connection.eof):
        with pytest.raises(ProtocolError, match=text):
            again()
    with pytest.raises(RuntimeError):
        connection.request()
    # The same by single bytes, as soon as the offending one has come or the limit is passed.
    connection = client()
    connection.request()
    with pytest.raises(ProtocolError):
        feed(connection, single(message))


@pytest.mark.parametrize(
    ("came", "text"),
    [
        (b"", "closed before the reply arrived"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed before the reply arrived"),
        (b"HTTP/1.1 2", "within a reply's head, after 10 bytes"),
        (OK + b"Content-Length: 5\r\n\r\n", "within a reply's body, after 0 bytes of 5"),
        (OK + b"Content-Length: 5\r\n\r\nhell", "within a reply's body, after 4 bytes of 5"),
        (OK + CHUNKED + b"5\r\nhello\r\n", "within a reply's body, after 5 bytes"),
        (OK + CHUNKED + b"5\r\nhello\r\n0\r\n", "within a reply's body"),
    ],
)
def test_a_response_cut_short(came: bytes, text: str) -> None:
    connection = client()
    connection.request()
    assert connection.receive(came) == []
    assert not connection.idle
    for _ in range(2):
        with pytest.raises(ProtocolError, match=text):
            connection.eof()
    assert connection.closing


def test_a_head_of_just_the_limit() -> None:
    message = OK + b"Content-Length: 0\r\nA: " + b"b" * 300 + b"\r\n\r\n"
    size = len(message)
    for pieces in ([message], [message[:-1], message[-1:]], single(message)):
        assert answer(client(max_head=size), *pieces).status == 200
        connection = client(max_head=size - 1)
        connection.request()
        with pytest.raises(ProtocolError, match=f"head is over {size - 1} bytes"):
            feed(connection, pieces)


def test_bytes_that_nobody_asked_for() -> None:
    connection = client()
    assert connection.receive(b"") == []
    with pytest.raises(ProtocolError, match="belong to no request"):
        connection.receive(OK + b"Content-Length: 0\r\n\r\n")
    assert connection.closing
    message = OK + b"Content-Length: 2\r\n\r\nok"
    connection = client()
    answer(connection, message)
    answer(connection, message)
    with pytest.raises(ProtocolError, match="belong to no request"):
        connection.receive(message)


def test_one_request_at_a_time_and_none_after_the_last() -> None:
    connection = client()
    connection.request()
    assert not connection.idle
    with pytest.raises(RuntimeError):
        connection.request()
    connection.receive(OK + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
    assert connection.idle
    assert connection.closing
    with pytest.raises(RuntimeError):
        connection.request()


# --- heads that come again ---


def test_a_head_like_the_last_one_is_compared_only() -> None:
    connection, other = client(), client()
    message = OK + b"X-Test: memo\r\nContent-Length: 2\r\n\r\n"
    first = answer(connection, message + b"ab")
    parsed = parse_response_head.cache_info()
    second = answer(connection, message + b"cd")
    assert (second.body, second.head) == (b"cd", first.head)
    assert parse_response_head.cache_info() == parsed
    assert answer(other, message, b"ef").head is first.head


@pytest.mark.parametrize(
    "follows",
    [
        b"X-Test: n\r\nContent-Length: 2\r\n\r\nab",  # as long, another head
        b"X-Test: m\r\nContent-Length: 1\r\n\r\na",
        b"X-Test: m\r\nContent-Length: 12\r\n\r\nabcdefghijkl",
        b"X-Test: m\r\nContent-Length: 2\r\nC: d\r\n\r\nab",
        b"X-Test: m\r\n" + CHUNKED + b"2\r\nab\r\n0\r\n\r\n",
    ],
)
def test_a_head_unlike_the_last_one(follows: bytes) -> None:
    for pieces in ([OK + follows], cut(OK + follows, [20])):
        connection = client()
        for _ in range(3):
            assert answer(connection, OK + b"X-Test: m\r\nContent-Length: 2\r\n\r\nxy").body == b"xy"
            assert answer(connection, *pieces) == answer(client(), OK + follows)


def test_bytes_like_the_last_response_may_be_part_of_a_body() -> None:
    connection, message = client(), OK + b"Content-Length: 2\r\n\r\nok"
    answer(connection, message)
    sized, chunked = OK + b"Content-Length: %d\r\n\r\n" % len(message), OK + CHUNKED + b"%x\r\n" % len(message)
    assert answer(connection, sized, message).body == message
    assert answer(connection, message).body == b"ok"
    assert answer(connection, chunked, message, b"\r\n0\r\n\r\n").body == message


def test_a_memoised_head_does_not_lift_another_connection_s_limit() -> None:
    message = OK + b"Content-Length: 900\r\n\r\n" + b"x" * 900
    answer(client(), message)
    small = client(max_body=899)
    small.request()
    with pytest.raises(ProtocolError, match=r"900 bytes .* at most 899"):
        small.receive(message)


def test_no_more_heads_are_remembered_than_said() -> None:
    connection, asked = client(), server()
    for number in range(3 * MEMOISED_HEADS):
        field = b"X-Number: %d\r\n" % number
        assert answer(connection, OK + field + b"Content-Length: 0\r\n\r\n").head.fields["x-number"] == str(number)
        asked.receive(POST + field + b"\r\n")
    for memo in (parse_response_head, parse_request_head):
        assert memo.cache_info().currsize <= MEMOISED_HEADS


# --- large bodies ---


@pytest.mark.parametrize("size", [VIEW_FROM - 1000, 4 * VIEW_FROM])
def test_a_large_body_is_not_copied_where_it_came_whole(size: int) -> None:
    connection = client(max_body=size)
    head, body = build_response(200, [], size), bytes(range(250)) * (size // 250) + b"." * (size % 250)
    for pieces in ([head + body], [head + body], [head, body], cut(head + body, range(7, size, 999))):
        response = answer(connection, *pieces)
        assert response.body == body
        if size >= VIEW_FROM:
            assert isinstance(response.body, memoryview)
            assert response.body.readonly
            assert len(pieces) > 2 or response.body.obj is pieces[-1]
        else:
            assert isinstance(response.body, bytes)


def test_what_is_held_is_what_came() -> None:
    connection = client(max_body=10**9)
    connection.request()
    connection.receive(OK + b"Content-Length: 1000000000\r\n\r\nabc")
    assert connection.buffered == 3


# --- the server's side ---


@pytest.mark.parametrize(
    ("message", "method", "target", "body", "keeps_alive"),
    [
        (POST + b"Content-Length: 5\r\n\r\nhello", "POST", "/v2/models/digits/infer", b"hello", True),
        (POST + b"\r\n", "POST", "/v2/models/digits/infer", b"", True),
        (POST + CHUNKED + b"5;x\r\nhello\r\n0\r\na: b\r\n\r\n", "POST", "/v2/models/digits/infer", b"hello", True),
        (b"GET /v2 HTTP/1.1\r\nhost:\r\n\r\n", "GET", "/v2", b"", True),
        (b"\r\nGET /v2?a=%20 HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/v2?a=%20", b"", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET", "/", b"", False),
        (b"GET / HTTP/1.0\r\n\r\n", "GET", "/", b"", False),
        (b"M-SEARCH * HTTP/1.9\r\nHost: a\r\n\r\n", "M-SEARCH", "*", b"", True),
    ],
)
def test_requests(message: bytes, method: str, target: str, body: bytes, keeps_alive: bool) -> None:
    for pieces in ([message], single(message)):
        connection = server()
        for _ in range(3 if keeps_alive else 1):
            *early, last = map(connection.receive, pieces)
            assert not any(early)
            (request,) = last
            assert (request.method, request.target, request.body) == (method, target, body)
            assert request.head.keeps_alive == keeps_alive
            assert not connection.partial
        assert connection.closing == (not keeps_alive)
        connection.eof()
        assert connection.closing


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "one Host field, not 0"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "one Host field, not 2"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "not a request line"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not a request line"),
        (b"GET /\r\nHost: a\r\n\r\n", "not a request line"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "not a request line"),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "not a request line"),
        (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "not a request line"),
        (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "not a request line"),
        (b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", "not a request line"),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "not a request line"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "byte 0x16 in a head"),
        (b"GET / HTTP/1.1\nHost: a\n\n", "LF without CR"),
        (POST + b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\n", "both Content-Length and Transfer-Encoding"),
        (POST + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\n", "not one number"),
        (POST + b"Transfer-Encoding : chunked\r\n\r\n", "not a field line"),
        (POST + b"Transfer-Encoding: identity\r\n\r\n", "transfer coding other than chunked"),
        (b"POST / HTTP/1.0\r\n" + CHUNKED, "HTTP/1.0"),
        (POST + b"A: b\r\n Content-Length: 9\r\n\r\n", "obs-fold"),
        (POST + b"Content-Length: 1001\r\n\r\n", "a request of 1001 bytes .* at most 1000"),
        (b"GET /" + b"a" * 400, r"a request's head is over 400 bytes \(max_head\)"),
        (POST + CHUNKED + b"2\r\nabc\r\n", "longer than its size"),
    ],
)
def test_broken_requests(message: bytes, text: str) -> None:
    for pieces in ([message], single(message)):
        connection = server()
        with pytest.raises(ProtocolError, match=text) as raised:
            feed(connection, pieces)
        assert "\n" not in str(raised.value)
        assert connection.closing
        for again in (lambda c: c.receive(POST + b"\r\n"), lambda c: c.eof()):
            with pytest.raises(ProtocolError, match=text):
                again(connection)


@pytest.mark.parametrize(
    ("came", "text"),
    [
        (b"GE", "within a request's head, after 2 bytes"),
        (POST + b"Content-Length: 5\r\n\r\nhell", "within a request's body, after 4 bytes of 5"),
        (POST + CHUNKED, "within a request's body, after 0 bytes"),
    ],
)
def test_a_request_cut_short(came: bytes, text: str) -> None:
    connection = server()
    assert connection.receive(came) == []
    assert connection.partial
    with pytest.raises(ProtocolError, match=text):
        connection.eof()


def test_requests_one_behind_the_other_until_the_last() -> None:
    connection = server()
    message = POST + b"Content-Length: 1\r\n\r\n"
    requests = connection.receive(message + b"a" + message + b"b" + message)
    assert [request.body for request in requests] == [b"a", b"b"]
    assert [request.body for request in connection.receive(b"c" + message + b"d")] == [b"c", b"d"]
    close = POST + b"Connection: close\r\n\r\n"
    assert len(connection.receive(message + b"e" + close + message + b"f")) == 2
    assert connection.closing
    assert connection.receive(message + b"g") == []
    assert connection.receive(close) == []
    assert connection.buffered == 0


def test_a_read_does_bounded_work_and_the_rest_comes_later() -> None:
    connection = server()
    message = POST + b"Content-Length: 1\r\n\r\n"
    found = connection.receive(b"".join(message + b"%d" % (number % 10) for number in range(150)) + message)
    assert (len(found), connection.unread) == (64, True)
    found += connection.receive(b"7" + message[:30])  # before the rest is done: behind it
    found += received(connection, b"")
    assert [request.body for request in found] == [b"%d" % (number % 10) for number in range(150)] + [b"7"]
    assert (connection.unread, connection.partial) == (False, True)


def test_a_body_of_many_small_chunks_is_read_in_turns() -> None:
    connection = server()
    chunks = b"1\r\nx\r\n" * 900
    assert connection.receive(POST + CHUNKED + chunks + b"0\r\n\r\n") == []
    assert connection.unread
    (request,) = received(connection, b"")
    assert request.body == b"x" * 900


def test_a_head_of_many_fields_is_refused() -> None:
    fields = b"".join(b"a%d: b\r\n" % number for number in range(128))
    with pytest.raises(ProtocolError, match="a head of 129 fields; at most 128"):
        server(max_head=10_000).receive(POST + fields + b"\r\n")


def test_a_client_that_waits_for_a_100_is_told_once() -> None:
    head = POST + b"Expect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
    connection = server()
    assert connection.receive(head[:-1]) == []
    assert not connection.wants_continue
    assert connection.receive(head[-1:]) == []
    assert connection.wants_continue
    assert connection.receive(b"he") == []
    assert not connection.wants_continue
    (request,) = connection.receive(b"llo")
    assert request.body == b"hello"
    assert not connection.wants_continue

    assert connection.receive(head) == []
    assert connection.wants_continue
    assert len(connection.receive(b"hello")) == 1
    assert not connection.wants_continue
    for does_not_wait in (head + b"hello", head + b"h"):
        connection = server()
        connection.receive(does_not_wait)
        assert not connection.wants_continue
    connection = server()
    connection.receive(POST + b"Expect: 100-continue\r\n" + CHUNKED)
    assert connection.wants_continue
    connection.receive(b"5\r\n")
    assert not connection.wants_continue
    connection = server()
    connection.receive(head.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert not connection.wants_continue
    client_side = client()
    assert answer(client_side, CONTINUE, OK + b"Content-Length: 0\r\n\r\n").status == 200


def test_a_request_like_the_last_one_is_compared_only() -> None:
    connection = server()
    message = POST + b"X-Test: memo\r\nContent-Length: 2\r\n\r\n"
    (first,) = connection.receive(message + b"ab")
    parsed = parse_request_head.cache_info()
    (second,) = connection.receive(message + b"cd")
    assert (second.body, second.head) == (b"cd", first.head)
    assert parse_request_head.cache_info() == parsed
    # Within another request these bytes are its body.
    outer = message + b"cd"
    connection.receive(POST + b"Content-Length: %d\r\n\r\n" % len(outer))
    (third,) = connection.receive(outer)
    assert third.body == outer


# --- heads to send ---


def test_built_heads() -> None:
    assert build_request("POST", "/v2/x", "a:1", [("A", "b c")], 5) == (
        b"POST /v2/x HTTP/1.1\r\nHost: a:1\r\nAccept-Encoding: identity\r\nContent-Length: 5\r\nA: b c\r\n\r\n"
    )
    assert build_request("GET", "/", "a", [], 0) == b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: identity\r\n\r\n"
    assert b"Content-Length: 0\r\n" in build_request("POST", "/", "a", [], 0)
    assert build_response(404, [("A", "b")], 2) == b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nA: b\r\n\r\n"
    assert build_response(204, [], 0) == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert build_response(100, [], 0) == CONTINUE


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "\r\nX: y", "\x7f", "\u20ac"])
@pytest.mark.parametrize("place", ["target", "host", "name", "value"])
def test_nothing_slips_into_a_head(bad: str, place: str) -> None:
    texts = {"target": "/a", "host": "a", "name": "A", "value": "b"}
    for text in (bad, texts[place] + bad, bad + texts[place], texts[place] + bad + "z"):
        t = texts | {place: text}
        with pytest.raises(ValueError, match="character"):
            build_request("POST", t["target"], t["host"], [(t["name"], t["value"])], 0)
        if place in ("name", "value"):
            with pytest.raises(ValueError, match="character"):
                build_response(200, [(t["name"], t["value"])], 0)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: build_request("HEAD", "/", "a", [], 0), "GET, POST, PUT, PATCH"),
        (lambda: build_request("GET\r\n", "/", "a", [], 0), "GET, POST, PUT, PATCH"),
        (lambda: build_request("GET", "", "a", [], 0), "target"),
        (lambda: build_request("GET", "/a b", "a", [], 0), "target"),
        (lambda: build_request("GET", "/", "", [], 0), "host"),
        (lambda: build_request("GET", "/", "a", [("", "b")], 0), "field ''"),
        (lambda: build_request("GET", "/", "a", [("A b", "b")], 0), "field 'A b'"),
        (lambda: build_request("GET", "/", "a", [("accept-encoding", "gzip")], 0), "set by the builder"),
        (lambda: build_request("GET", "/", "a", [("Content-length", "7")], 0), "set by the builder"),
        (lambda: build_response(200, [("Transfer-Encoding", "chunked")], 0), "set by the builder"),
        (lambda: build_request("POST", "/", "a", [], -1), "-1 bytes"),
        (lambda: build_response(204, [], 1), "204 has no body"),
        (lambda: build_response(200, [], -1), "-1 bytes"),
        (lambda: build_response(299, [], 1), "299"),
    ],
)
def test_heads_that_are_not_built(build: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()


# --- any pieces, any bytes ---

names = st.from_regex(r"\A[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,8}\Z").map("X-".__add__)
values = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=12).map(lambda s: s.strip(" \t"))
some_fields = st.lists(st.tuples(names, values), max_size=4)
bodies = st.binary(max_size=200)
spaces = st.sampled_from(["", " ", " \t"])


def joined(fields: list[tuple[str, str]]) -> dict[str, str]:
    result: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        result[key] = f"{result[key]}, {value}" if key in result else value
    return result


@st.composite
def chunked_bodies(draw: st.DrawFn, body: bytes) -> bytes:
    result = b""
    for chunk in cut(body, draw(cuts)) if body else []:
        extension = draw(st.sampled_from([b"", b";", b" ;a=b", b'\t; x="1;2"']))
        size = draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % len(chunk)
        result += size + extension + b"\r\n" + chunk + b"\r\n"
    return result + b"0\r\n" + draw(st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nContent-Length: 4\r\n"])) + b"\r\n"


@st.composite
def framed(draw: st.DrawFn, first: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """A message with ``first`` as its first line, its fields without those of framing, its body."""
    fields, body = draw(some_fields), draw(bodies)
    lines = [f"{name}:{draw(spaces)}{value}".encode("latin-1") for name, value in fields]
    place = draw(st.integers(0, len(lines)))
    if draw(st.booleans()):
        lines.insert(place, b"content-Length: %d" % len(body))
        raw_body = body
    else:
        lines.insert(place, b"Transfer-encoding: chunked")
        raw_body = draw(chunked_bodies(body))
    return b"\r\n".join([first, *lines, b"", raw_body]), joined(fields), body


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, int, dict[str, str], bytes]:
    status = draw(st.sampled_from([200, 201, 400, 404, 503]))
    interim = b"".join(
        draw(st.lists(st.sampled_from([CONTINUE, b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"]), max_size=2))
    )
    message, fields, body = draw(framed(b"HTTP/1.1 %d Whatever" % status))
    return interim + message, status, fields, body


def plain(fields: Any) -> dict[str, str]:
    return {name: value for name, value in fields.items() if name.startswith("x-")}


@given(
    messages=st.lists(responses(), min_size=1, max_size=4),
    order=st.lists(st.integers(0, 3), max_size=8),
    data=st.data(),
)
def test_a_response_is_the_same_in_any_pieces(messages: list[Any], order: list[int], data: st.DataObject) -> None:
    connection = client(max_head=10_000)
    for number in [0, *order]:
        raw, status, fields, body = messages[number % len(messages)]
        response = answer(connection, *cut(raw, data.draw(cuts)))
        assert (response.status, plain(response.head.fields), response.body) == (status, fields, body)


@given(head_fields=some_fields, body=bodies, places=cuts, version=st.sampled_from([b"HTTP/1.0", b"HTTP/1.1"]))
def test_a_body_until_the_end_is_the_same_in_any_pieces(
    head_fields: list[tuple[str, str]], body: bytes, places: list[int], version: bytes
) -> None:
    lines = [f"{name}: {value}".encode("latin-1") for name, value in head_fields]
    raw = b"\r\n".join([version + b" 200 OK", *lines, b"", body])
    response = answer(client(max_head=10_000), *cut(raw, places), eof=True)
    assert (plain(response.head.fields), response.body) == (joined(head_fields), body)


@given(
    messages=st.lists(framed(b"POST /v2 HTTP/1.1\r\nHost: a"), min_size=1, max_size=4),
    order=st.lists(st.integers(0, 3), max_size=8),
    places=cuts,
    blank=st.sampled_from([b"", b"\r\n"]),
)
def test_requests_are_the_same_in_any_pieces(
    messages: list[Any], order: list[int], places: list[int], blank: bytes
) -> None:
    wanted = [messages[number % len(messages)] for number in [0, *order]]
    connection = server(max_head=10_000)
    raw = b"".join(blank + message for message, _, _ in wanted)
    found = [request for piece in cut(raw, places) for request in received(connection, piece)]
    assert [(plain(request.head.fields), request.body) for request in found] == [(f, b) for _, f, b in wanted]
    assert not connection.partial
    connection.eof()


@given(
    fields=some_fields, body=bodies, method=st.sampled_from(["GET", "POST"]), status=st.sampled_from([200, 400, 503])
)
def test_what_one_side_builds_the_other_reads(
    fields: list[tuple[str, str]], body: bytes, method: str, status: int
) -> None:
    raw = build_request(method, "/v2/models/a%20b/infer", "[::1]:8000", fields, len(body)) + body
    (request,) = server(max_head=10_000).receive(raw)
    assert isinstance(request, HttpRequest)
    assert (request.method, request.target, request.body) == (method, "/v2/models/a%20b/infer", body)
    assert plain(request.head.fields) == joined(fields)
    assert (request.head.fields["host"], request.head.fields["accept-encoding"]) == ("[::1]:8000", "identity")
    response = answer(client(max_head=10_000), build_response(status, fields, len(body)) + body)
    assert (response.status, plain(response.head.fields), response.body) == (status, joined(fields), body)


@st.composite
def mangled(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """A valid message, some places of which were cut out, doubled or written over."""
    raw = draw(valid)
    for _ in range(draw(st.integers(0, 4))):
        first = draw(st.integers(0, len(raw)))
        last = draw(st.integers(first, min(len(raw), first + 30)))
        put = draw(
            st.one_of(
                st.just(b""),
                st.just(raw[first:last] * 2),
                st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b":", b" ", b"\x00", b"0\r\n\r\n", b"f" * 20]),
                st.binary(max_size=5),
            )
        )
        raw = raw[:first] + put + raw[last:]
    return raw


tokens = st.sampled_from(
    [
        *(OK, POST, CHUNKED, CONTINUE, b"\r\n", b"Content-Length: 3\r\n", b"abc", b"3\r\n", b"0\r\n", b"x" * 500),
        *(b"A: b\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b";" * 5000, b"HTTP/1.1 204 \r\n"),
    ]
)
several_tokens = st.lists(tokens, max_size=20).map(b"".join)


def refused(connection: ClientConnection | ServerConnection, pieces: Iterable[bytes]) -> bool:
    """Whether the pieces and the end after them were refused, after checking what must hold whatever comes."""
    failure = ""
    for step in [*(lambda piece=piece: connection.receive(piece) for piece in pieces), connection.eof]:
        try:
            found = step() or []
        except ProtocolError as error:
            failure = failure or str(error)
            assert str(error) == failure  # noqa: PT017 (it need not be raised)
            assert connection.closing
        else:
            assert not failure
            if isinstance(connection, ClientConnection):
                assert len(found) <= 1
                if found and not connection.closing:
                    connection.request()
        assert connection.buffered <= BUFFER_BOUND
    assert connection.closing
    assert "\n" not in failure
    return bool(failure)


@given(
    raw=st.one_of(st.binary(max_size=300), several_tokens, mangled(responses().map(lambda message: message[0]))),
    places=cuts,
)
def test_a_client_refuses_or_waits_whatever_comes(raw: bytes, places: list[int]) -> None:
    verdicts = set()
    for pieces in ([raw], cut(raw, places), single(raw)):
        connection = client()
        connection.request()
        verdicts.add(refused(connection, pieces))
    assert len(verdicts) == 1


@given(
    raw=st.one_of(
        st.binary(max_size=300),
        several_tokens,
        mangled(framed(b"POST / HTTP/1.1\r\nHost: a").map(lambda message: message[0] * 2)),
    ),
    places=cuts,
)
def test_a_server_refuses_or_waits_whatever_comes(raw: bytes, places: list[int]) -> None:
    assert len({refused(server(), pieces) for pieces in ([raw], cut(raw, places), single(raw))}) == 1


@pytest.mark.parametrize("before", [b"", OK, OK + CHUNKED + b"0\r\n", OK + CHUNKED, OK + b"\r\n"])
@pytest.mark.parametrize("endless", [b"a", b"A: b\r\n", b"1;" + b"a" * 50, b"1\r\nx\r\n"])
def test_nothing_grows_without_end(before: bytes, endless: bytes) -> None:
    connection = client()
    connection.request()
    with pytest.raises(ProtocolError):
        feed(connection, [before, *[endless] * 10_000])
    assert connection.buffered <= BUFFER_BOUND


def test_no_garbage_is_left_for_the_collector() -> None:
    """It is off during a run."""
    messages = [OK + b"Content-Length: 5\r\n\r\nhello", OK + CHUNKED + b"5\r\nhello\r\n0\r\na: b\r\n\r\n"]

    def left() -> int:
        gc.collect()
        connection, asked = client(), server()
        for message in messages * 3:
            answer(connection, *cut(message, [10, 60]))
            answer(connection, message)
            asked.receive(message.replace(OK, POST) * 2)
        del connection, asked
        return gc.collect()

    gc.disable()
    try:
        assert min(left() for _ in range(3)) == 0  # threads that other tests left may leave some of their own
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("written", "read"),
    [("/v2?a=http://b/c", "/v2?a=http://b/c"), ("http://h:8/v2/x?y", "/v2/x?y"), ("HTTPS://h", "/"), ("*", "*")],
)
def test_a_target_as_for_a_proxy_is_its_path(written: str, read: str) -> None:
    """RFC 9112, 3.2.2: a server must accept the absolute form."""
    assert parse_request_head(f"GET {written} HTTP/1.1\r\nHost: h\r\n\r\n".encode()).target == read


@pytest.mark.parametrize("size", [1, 63, 64])
def test_a_body_in_thousands_of_tiny_chunks_is_refused(size: int) -> None:
    """Each chunk costs as much time as a large one."""
    chunks = (b"%x;ext=a\r\n" % size + bytes(size) + b"\r\n") * 5000 + b"0\r\n\r\n"
    connection = client(max_body=1_000_000)
    if size < 64:
        with pytest.raises(ProtocolError, match="chunks of less than 64 bytes"):
            answer(connection, OK + CHUNKED + chunks)
    else:
        assert len(answer(connection, OK + CHUNKED + chunks).body) == 5000 * size
