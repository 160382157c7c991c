"""Turns of connections that have more to do than one read may, and room for what has arrived in part."""

from __future__ import annotations

from typing import Any

import pytest

from drumfire.sut.serving.connection import Bounds, Connections, PortConnection
from tests.support.serving_fakes import Loop


class Transport:
    def __init__(self) -> None:
        self.reading, self.is_closed = True, False

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.is_closed = True


class Slow(PortConnection):
    """Processes one byte of what it read at a time."""

    unsent, half_sent = 0, False

    def __init__(self, connections: Connections, done: list[str]) -> None:
        super().__init__(connections)
        self.done, self.rest = done, b""
        self.transport: Any = Transport()
        self.connection_made(self.transport)

    def data_received(self, data: bytes) -> None:
        self.rest += data
        self.done.append(self.rest[:1].decode())
        self.rest = self.rest[1:]
        if bool(self.rest) is not self._behind:
            self._behind = bool(self.rest)
            self.regulate()

    def under_way(self, count: int) -> None:
        self._under_way = count
        self.regulate()

    def drain(self) -> None: ...

    def retire(self) -> None: ...

    def flush(self) -> None: ...

    def lost(self) -> None: ...


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def connections(loop: Loop) -> Connections:
    return Connections(Bounds(most_partial_bytes=100, most_message_bytes=40), loop.call_soon)


def test_what_takes_long_is_done_by_turns_one_in_each_iteration_of_the_loop(
    connections: Connections, loop: Loop
) -> None:
    done: list[str] = []
    first, second, other = (Slow(connections, done) for _ in range(3))
    first.data_received(b"abc")
    second.data_received(b"AB")
    assert (done, first.transport.reading, second.transport.reading) == (["a", "A"], False, False)
    loop.turn()
    other.data_received(b"x")  # whoever has little to do does not wait
    loop.turn()
    assert (done, first.transport.reading, second.transport.reading) == ([*"aAbxB"], False, True)
    loop.turn()
    assert (done, first.transport.reading) == ([*"aAbxBc"], True)
    assert not loop.soon


def test_a_connection_with_too_many_requests_under_way_gets_no_turn(connections: Connections, loop: Loop) -> None:
    done: list[str] = []
    busy = Slow(connections, done)
    busy._under_way = 256
    busy.data_received(b"ab")
    assert not loop.soon
    busy.under_way(255)
    loop.turn()
    assert (done, busy.transport.reading, loop.soon) == (["a", "b"], True, [])


def test_a_closed_connection_gets_no_turn(connections: Connections, loop: Loop) -> None:
    done: list[str] = []
    gone = Slow(connections, done)
    gone.data_received(b"ab")
    gone.connection_lost(None)
    loop.turn()
    assert (done, loop.soon) == (["a"], [])


def test_where_parts_of_requests_are_too_many_the_one_without_progress_for_longest_is_closed(
    connections: Connections,
) -> None:
    first, second, third = (Slow(connections, []) for _ in range(3))
    connections.hold(first, 30, progress=False)
    connections.hold(second, 30, progress=False)
    connections.hold(first, 40, progress=True)
    connections.hold(third, 30, progress=False)
    assert not any(one.transport.is_closed for one in (first, second, third))
    connections.hold(first, 41, progress=False)
    assert [one.transport.is_closed for one in (first, second, third)] == [False, True, False]
    second.connection_lost(None)
    connections.hold(first, 0, progress=False)
    connections.hold(third, 70, progress=False)
    connections.hold(first, 31, progress=False)
    assert [one.transport.is_closed for one in (first, second, third)] == [False, True, True]
