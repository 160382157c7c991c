"""What hostile servers may cost a client: replies in part are bounded together, and what is lost is let go."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.remote import wire as wires
from drumfire.sut.remote.wire import PartialReplies, Wire

MOST = 1000


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "_MOST_PARTIAL", MOST)


class Transport:
    def __init__(self) -> None:
        self.reads, self.is_aborted = True, False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def abort(self) -> None:
        self.is_aborted = True


class Parts:
    """Holds what it reads until "." comes; "!" breaks the protocol."""

    def __init__(self) -> None:
        self.out: list[bytes | memoryview] = []
        self.held = bytearray()
        self.shed_to: list[int] = []

    @property
    def buffered(self) -> int:
        return len(self.held)

    def receive(self, data: bytes) -> list[str]:
        if b"!" in data:
            raise ProtocolError("!")
        self.held += data
        if not data.endswith(b"."):
            return []
        self.held.clear()
        return ["whole"]

    def shed(self, most: int) -> list[str]:
        self.shed_to.append(most)
        del self.held[most:]
        return ["given up"]

    def eof(self) -> list[str]:
        return []

    def lost(self, reason: str) -> list[str]:
        return [reason]


class Connection:
    def __init__(self, partial_replies: PartialReplies) -> None:
        self.logic, self.transport, self.came = Parts(), Transport(), list[str]()
        self.wire = Wire(self.logic, self.came.extend, partial_replies)
        self.wire.connection_made(cast(Any, self.transport))

    def comes(self, data: bytes) -> None:
        self.wire.data_received(data)


class Timer:
    """The last one that was started."""

    def __init__(self) -> None:
        self.due: Callable[[], object] | None = None

    def call_later(self, delay_s: float, callback: Callable[..., object], *about: object) -> Timer:
        self.due = partial(callback, *about)
        return self

    def cancel(self) -> None:
        self.due = None


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Timer:
    timer = Timer()
    monkeypatch.setattr(wires.asyncio, "get_running_loop", lambda: timer)
    return timer


@pytest.fixture
def connections(timer: Timer) -> list[Connection]:
    partial_replies = PartialReplies()
    return [Connection(partial_replies) for _ in range(3)]


def reading(connections: list[Connection]) -> list[bool]:
    return [one.transport.reads for one in connections]


def test_where_parts_are_too_many_each_becomes_whole_in_its_turn(connections: list[Connection]) -> None:
    first, second, third = connections
    for one in connections:
        one.comes(bytes(330))
    assert reading(connections) == [True, True, True]
    second.comes(bytes(20))
    assert reading(connections) == [True, False, False]
    first.comes(bytes(600))  # one reply may always go on
    assert reading(connections) == [True, False, False]
    first.comes(b".")
    assert reading(connections) == [True, True, True]
    third.comes(bytes(500))
    assert reading(connections) == [True, True, False]
    first.comes(bytes(10))  # whoever begins while they are too many waits too
    assert reading(connections) == [False, True, False]
    second.wire.connection_lost(None)
    assert reading([first, third]) == [True, True]
    assert first.came == ["whole"]


def test_one_that_reads_alone_for_too_long_is_given_up(connections: list[Connection], timer: Timer) -> None:
    first, second, _ = connections
    first.comes(bytes(600))
    second.comes(bytes(500))
    assert timer.due is not None
    timer.due()
    assert first.transport.is_aborted
    assert "not whole after 20 s alone" in (first.wire.why or "")
    assert second.transport.reads
    assert timer.due is None


def test_what_one_connection_holds_beyond_the_bound_is_given_up(connections: list[Connection]) -> None:
    first = connections[0]
    first.comes(bytes(1001))
    assert first.logic.shed_to == [500]
    assert first.came == ["given up"]
    assert reading(connections) == [True, True, True]


@pytest.mark.parametrize("end", [b"!", b""])
def test_a_connection_that_ended_is_let_go_at_once(connections: list[Connection], end: bytes) -> None:
    one = connections.pop()
    gc.disable()
    try:
        one.comes(bytes(500))
        if end:
            one.comes(end)
        one.wire.connection_lost(None)
        assert not one.wire._partial._held
        logic = weakref.ref(one.logic)
        one.wire._deliver([])
        del one
        assert logic() is None
    finally:
        gc.enable()
