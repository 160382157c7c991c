"""Requests of the http target as bytes, and what makes a reply good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.errors import UserError
from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.messages.exchange import Failure, Part
from drumfire.sut.remote.http.post import Expected, JsonValue, PostChannel, PostMessages

TARGETS = {"a:1": ("a:1", "/predict?v=1"), "[::1]:2": ("name.example", "/p")}
FIELDS = [("Content-Type", "application/json"), ("x", "y")]


def messages(*values: str, status: int = 200, method: str = "POST") -> PostMessages:
    return PostMessages(method, TARGETS, FIELDS, Expected(status, [JsonValue.parse(value) for value in values]))


def request(made: PostMessages, body: bytes) -> Any:
    return made.request([Part((len(body),), body)])


def replies(made: PostMessages, *pieces: bytes) -> list[Any]:
    """The replies to a request each, whose bytes come as given."""
    channel, found = PostChannel(made, "a:1", 1 << 20), []
    for piece in pieces:
        channel.send(7, request(made, b"{}"))
        assert (channel.under_way, channel.oldest, channel.free) == (1, 7, 0)
        channel.out.clear()
        found += channel.receive(piece)
    assert [ticket for ticket, _ in found] == [7] * len(pieces)
    return [reply for _, reply in found]


def response(body: bytes, status: int = 200, *fields: str) -> bytes:
    head = [f"HTTP/1.1 {status} Reason", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


def test_a_request_is_ready_bytes_for_each_endpoint() -> None:
    made = request(messages(), b'{"x":1}')
    assert made["a:1"] == (
        b"POST /predict?v=1 HTTP/1.1\r\nHost: a:1\r\nAccept-Encoding: identity\r\nContent-Length: 7\r\n"
        b'Content-Type: application/json\r\nx: y\r\n\r\n{"x":1}',
    )
    assert made["[::1]:2"][0].startswith(b"POST /p HTTP/1.1\r\nHost: name.example\r\n")
    channel = PostChannel(messages(), "a:1", 1000)
    channel.send(1, made)
    assert channel.out == [*made["a:1"]]


def test_a_large_body_is_not_copied() -> None:
    body = bytes(100_000)
    made = request(messages(method="PUT"), body)
    assert all(pieces[1] is body and pieces[0].startswith(b"PUT /p") for pieces in made.values())


def test_empty_bodies_have_a_length() -> None:
    assert b"Content-Length: 0\r\n" in request(messages(method="PATCH"), b"")["a:1"][0]


@pytest.mark.parametrize("values", [(), ("ok", "y[0]=2")])
def test_good_replies(values: Sequence[str]) -> None:
    good = response(b'{"ok":1,"y":[2]}')
    other = response(b'{"ok":3,"y":[2]}')
    dated = response(b'{"ok":1,"y":[2]}', 200, "date: later")
    assert replies(messages(*values), good, good, other, good, dated, dated) == [None] * 6


def test_bodies_are_outputs_where_they_are_wanted() -> None:
    made = messages("ok")
    made.wanted = True
    bodies = [b'{"ok":1}', b'{"ok":1}', b'{"ok":2,"x":0}']
    found = replies(made, *map(response, bodies))
    assert [reply[0].tobytes() for reply in found] == bodies
    assert found[0][0].dtype == np.uint8


@pytest.mark.parametrize(
    ("values", "body", "words"),
    [
        (["ok"], b'{"no":1}', ["has no ok"]),
        (["y[1]"], b'{"y":[2]}', ["has no y[1]"]),
        (["y.a"], b'{"y":[2]}', ["has no y.a"]),
        (["y[0]=3"], b'{"y":[2]}', ["has 2", "y[0]=3"]),
        (["ok=1"], b'{"ok":true}', ["has true"]),
        (["ok=cat"], b'{"ok":"dog"}', ['"dog"']),
        (["ok"], b"not json", ["not JSON", "not json"]),
        (["ok"], b"[" * 10**5, ["not JSON"]),
        (["ok"], b"", ["not JSON"]),
    ],
)
def test_replies_without_what_is_expected(values: list[str], body: bytes, words: list[str]) -> None:
    good = response(b'{"ok":"cat","y":[3,1]}')
    bad, _, again = replies(messages(*values), response(body), good, response(body))
    assert isinstance(bad, Failure)
    assert bad == again  # a good reply between the two changes nothing
    assert "--expect-json" in bad.reason
    for word in words:
        assert word in bad.reason


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("a.b[0].c", {"a": {"b": [{"c": None}]}}),
        ("$.a=text", {"a": "text"}),
        ('a="text"', {"a": "text"}),
        ("a=[1, 2.0]", {"a": [1, 2]}),
        ("[1].x=true", [0, {"x": True}]),
        ("a.1=x=y", {"a": [0, "x=y"]}),
        ("$=3", 3),
        ("=3", 3),
    ],
)
def test_paths_that_hold(text: str, document: Any) -> None:
    assert JsonValue.parse(text).fault(document) is None


@pytest.mark.parametrize("text", ["", "$", "a..b", "a[x]", "a[0", "a.", "[", "a]"])
def test_paths_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="PATH=VALUE"):
        JsonValue.parse(text)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (response(b"slow down\nplease", 503), "HTTP 503 instead of 200: slow down please"),
        (response(b"", 500), "HTTP 500 instead of 200: Reason"),
        (response(b"", 307, "Location: /predict/"), "HTTP 307 instead of 200: it points to /predict/"),
        (response(b"\x1b[2J" + bytes(999), 400), "HTTP 400 instead of 200: [2J"),
    ],
)
def test_another_status_is_a_failure_with_its_text(made: bytes, wanted: str) -> None:
    (reply,) = replies(messages(), made)
    assert reply == Failure(wanted)


def test_another_status_may_be_the_right_one() -> None:
    created, accepted = replies(messages(status=201), response(b"", 201), response(b"x", 200))
    assert created is None
    assert isinstance(accepted, Failure)


def test_interim_responses_are_skipped_but_not_for_ever() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert replies(messages(), interim * 50 + response(b"1"), interim * 60 + response(b"1")) == [None, None]
    with pytest.raises(ProtocolError, match="interim"):
        replies(messages(), interim * 101)


@pytest.mark.parametrize("value", ["[" * 100_000, "[" * 100_000 + "]" * 100_000])
def test_a_value_that_is_nested_too_deep(value: str) -> None:
    with pytest.raises(UserError, match=r"--expect-json 'a=.*nested too deep"):
        JsonValue.parse(f"a={value}")
