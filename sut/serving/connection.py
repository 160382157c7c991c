"""The connections of all ports: limits on requests under way, and on the time and memory that a peer may take.

Handles asyncio's transports.  Does not depend on protocols.  A slow or hostile peer costs bounded memory and time and
does not affect other peers: one read does a bounded amount of work, and those connections that have more to do wait
for their turn, of which there is one in each iteration of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from drumfire.loadgen.loggers import SERVING
from drumfire.sut.kserve.messages.exchange import MAX_MESSAGE_BYTES, Buffer
from drumfire.sut.kserve.messages.inference import MOST_JSON

MOST_COSTLY = 8
"""Operations besides inference that one turn performs: a number of them, of which each may take 0.3 ms."""
_SMALL = 65_536
"""Bytes up to which pieces are joined before they are written."""
_SMALL_READ = 64
"""Bytes: a client that does not mean to cost time seldom sends less at a time within a request."""
_MOST_SMALL_READS = 8
"""Reads below ``_SMALL_READ`` bytes within one request, after which its connection counts as a trickle."""
_MOST_TRICKLES = 256
"""Connections whose requests may trickle in at a time.  A read takes some 20 us of the event loop however little it
brings; 3,000 such connections would leave it hardly any time for others."""
_CHECKED_AT_ONCE = 100
_HIGH, _LOW = 1 << 20, 1 << 18
"""Bytes that wait for a peer: above ``_HIGH`` the server stops reading from it, until they are below ``_LOW``."""


@dataclass(frozen=True)
class Bounds:
    """Limits for peers."""

    most_connections: int = 16_384
    most_message_bytes: int = MAX_MESSAGE_BYTES
    most_json_bytes: int = MOST_JSON
    """Of a request's JSON, or of numbers in a form that takes as long to read."""
    most_partial_bytes: int = 128 << 20
    """Of requests that have arrived in part, over all connections; two of the largest messages always fit."""
    most_under_way: int = 256
    """Unanswered requests of one connection."""
    idle_s: float = 600.0
    """The time after which a connection without requests is closed."""
    message_s: float = 60.0
    """The time that a request may take to arrive, from its first byte to its last."""
    reading_s: float = 60.0
    """The time that a peer may read none of the bytes that wait for it."""


class Connections:
    """The open connections of all ports."""

    def __init__(self, bounds: Bounds, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """``call_soon``: the event loop's."""
        self.bounds, self._call_soon = bounds, call_soon
        self.now_s = 0.0
        """The loop's time, to a fraction of a second: cheap enough to use for every read."""
        self.open: set[PortConnection] = set()
        self.turned_away = 0
        """Connections closed at once because too many were open."""
        self._unchecked: list[PortConnection] = []
        self._waiting: deque[PortConnection] = deque()
        """For a turn."""
        self._turn_is_due = False
        self._partial: dict[PortConnection, int] = {}
        """Bytes of requests that have arrived in part; the connection that has completed none for longest is first."""
        self._partial_bytes = 0
        self._trickles: dict[PortConnection, None] = {}
        """Connections with ``_MOST_SMALL_READS`` in one request; the one that is so for longest is first."""
        self._most_partial = max(bounds.most_partial_bytes, 2 * bounds.most_message_bytes)

    def want_turn(self, connection: PortConnection) -> None:
        """Have ``take_turn`` called, in an iteration of the loop of its own."""
        self._waiting.append(connection)
        self._plan_turn()

    def _plan_turn(self) -> None:
        if self._waiting and not self._turn_is_due:
            self._turn_is_due = True
            self._call_soon(self._give_turn)

    def _give_turn(self) -> None:
        self._turn_is_due = False
        self._waiting.popleft().take_turn()
        self._plan_turn()

    def hold(self, connection: PortConnection, size: int, *, progress: bool, read: int = 0) -> None:
        """Count ``size`` bytes of its requests that have arrived in part, the last ``read`` of them in one read.

        Where all are too many, the connection that has made no progress for longest is closed.  Where too many
        connections send their requests in tiny pieces, the one that has done so for longest is closed.
        """
        before = self._partial.get(connection, 0)
        self._partial_bytes += size - before
        if progress or not size:
            self._partial.pop(connection, None)
            self._trickles.pop(connection, None)
            connection.small_reads = 0
        elif 0 < read < _SMALL_READ:
            connection.small_reads += 1
            if connection.small_reads == _MOST_SMALL_READS:
                self._trickles[connection] = None
        if size:
            self._partial[connection] = size
        while self._partial_bytes > self._most_partial:
            oldest = next(iter(self._partial))
            self._partial_bytes -= self._partial.pop(oldest)
            self._close(oldest, "the server holds too much of requests that have not arrived whole")
        while len(self._trickles) > _MOST_TRICKLES:
            self._close(next(iter(self._trickles)), "too many clients send their requests in tiny pieces")

    def _close(self, connection: PortConnection, why: str) -> None:
        self._trickles.pop(connection, None)
        SERVING.warning("%s is closed: %s", connection.peer, why)
        connection.too_much(why)

    def tick(self, now_s: float) -> None:
        """End the connections whose peers take too long.  Call this several times a second.

        Each call checks only some of them: ten thousand idle connections must not delay a busy one.
        """
        self.now_s = now_s
        unchecked = self._unchecked = self._unchecked or list(self.open)
        for connection in unchecked[-_CHECKED_AT_ONCE:]:
            if not connection.closed:
                connection.check(now_s)
        del unchecked[-_CHECKED_AT_ONCE:]


class PortConnection(asyncio.Protocol, ABC):
    """One connection.  Subclasses add the protocol."""

    def __init__(self, connections: Connections) -> None:
        self.closed = False
        self._connections, self._bounds = connections, connections.bounds
        self._transport: asyncio.Transport
        self.small_reads = 0
        """Reads of a few bytes that the request in part has taken; see ``Connections.hold``."""
        self._under_way = 0
        """Unanswered requests."""
        self._reading = True
        self._behind = self._queued = False
        """Some of what was read waits for a turn; it waits for one now."""
        self._later: Sequence[Any] = ()
        """What was read and understood, in order (HTTP: ``HttpRequest``; gRPC: ``CallEvent``): it waits for a turn
        because answering what came before took long."""
        self._full_since: float | None = None
        """Since when the transport's write buffer has been over ``_HIGH``; None if it is not."""
        self._unsent = 0
        """``unsent`` at the last check."""
        self._moved_s = self._heard_s = self._begun_s = connections.now_s
        """The last time that answers moved, the last time that bytes arrived, and the start of an incomplete
        message."""

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Process what was read, after what was read before, as far as there is time.

        Sets ``_behind``, and calls ``regulate`` where that changes it.
        """

    @abstractmethod
    def drain(self) -> None:
        """Tell the peer to send no more requests.  Accepted requests are answered; then the server calls ``end``."""

    @abstractmethod
    def retire(self) -> None:
        """Close an idle connection, as the protocol requires."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes of answers that the transport does not have yet."""

    @abstractmethod
    def flush(self) -> None:
        """Write all bytes that are ready."""

    @property
    @abstractmethod
    def half_sent(self) -> bool:
        """A message has arrived in part."""

    @abstractmethod
    def lost(self) -> None:
        """The connection has ended: cancel its requests under way."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for messages."""
        return str(self._transport.get_extra_info("peername"))

    def end(self) -> None:
        """Close after the written bytes are sent."""
        if not self.closed:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if not self.closed:
            self._transport.abort()

    def check(self, now_s: float) -> None:
        """End the connection if its peer takes too long."""
        unsent, before = self.unsent, self._unsent
        self._unsent = unsent
        if not unsent or unsent < before:
            self._moved_s = now_s
        reading_since = self._moved_s if self._full_since is None else min(self._moved_s, self._full_since)
        if now_s - reading_since > self._bounds.reading_s:
            self.abort()
        elif self.half_sent:
            if now_s - self._begun_s > self._bounds.message_s and self._reading:
                self.too_slow()
        else:
            self._begun_s = now_s
            if not self._under_way and now_s - self._heard_s > self._bounds.idle_s:
                self.retire()

    def too_slow(self) -> None:
        """Handle a message that did not arrive within its time."""
        self.abort()

    def too_much(self, why: str) -> None:
        """Handle messages in part that all connections together have no room or no time for."""
        self.abort()

    def take_turn(self) -> None:
        """Go on with what was read before."""
        self._queued = False
        if not self.closed:
            self.data_received(b"")
            self.regulate()

    def write(self, pieces: list[Buffer]) -> None:
        if self.closed or not pieces:
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        elif sum(map(len, pieces)) <= _SMALL:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(pieces)

    def regulate(self) -> None:
        """Pause or resume reading, by the number of requests under way and by what is unread."""
        wanted = self._full_since is None and self._under_way < self._bounds.most_under_way
        if self._behind and wanted:
            wanted = False
            if not self._queued and not self.closed:
                self._queued = True
                self._connections.want_turn(self)
        if wanted is not self._reading and not self.closed:
            self._reading = wanted
            if wanted:
                self._begun_s = self._connections.now_s
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from it
        if len(self._connections.open) >= self._bounds.most_connections:
            self._connections.turned_away += 1
            SERVING.warning("%s is turned away: %d connections are open", self.peer, self._bounds.most_connections)
            self.closed = True
            self._transport.abort()
            return
        self._connections.open.add(self)
        self._transport.set_write_buffer_limits(_HIGH, _LOW)
        found = transport.get_extra_info("socket")
        if found is not None:
            with contextlib.suppress(OSError, AttributeError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._connections.open:
            self._connections.open.discard(self)
            self.closed = True
            self._connections.hold(self, 0, progress=True)
            self.lost()

    def pause_writing(self) -> None:
        self._full_since = self._connections.now_s
        self.regulate()

    def resume_writing(self) -> None:
        self._full_since = None
        self.regulate()
