"""What the connections of all ports have in common: how much may be under way, and how long a peer may take.

Knows asyncio's transports; must not know protocols.  One slow or hostile peer costs a bounded piece of memory and time
and no other peer notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

from drumfire.sut.kserve.messages.exchange import MAX_MESSAGE_BYTES, Buffer

_SMALL = 65_536
"""Pieces that are together below this are copied into one."""
_CHECKED_AT_ONCE = 100
_HIGH, _LOW = 1 << 20, 1 << 18
"""Bytes that wait for a peer: above the one nothing more is read from it, until they are below the other."""


@dataclass(frozen=True)
class Bounds:
    """What peers may do."""

    most_connections: int = 16_384
    most_message_bytes: int = MAX_MESSAGE_BYTES
    most_under_way: int = 256
    """Requests of one connection that are not answered."""
    idle_s: float = 600.0
    """A connection without a request is closed after so long."""
    message_s: float = 60.0
    """How long a request may take to come, from its first byte to its last."""
    reading_s: float = 60.0
    """How long a peer may read nothing of what waits for it."""


class Connections:
    """Those that are open, of all ports."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.now_s = 0.0
        """The loop's time, to a fraction of a second: cheap to look at for every read."""
        self.open: set[PortConnection] = set()
        self.turned_away = 0
        """How many were closed at once, as there were too many."""
        self._unchecked: list[PortConnection] = []

    def tick(self, now_s: float) -> None:
        """To be called some times a second: ends the connections whose peers take too long.

        Looks at some of them at a time: ten thousand idle ones must not keep one that works waiting.
        """
        self.now_s = now_s
        unchecked = self._unchecked = self._unchecked or list(self.open)
        for connection in unchecked[-_CHECKED_AT_ONCE:]:
            if not connection.closed:
                connection.check(now_s)
        del unchecked[-_CHECKED_AT_ONCE:]


class PortConnection(asyncio.Protocol, ABC):
    """One connection.  Those that inherit say what travels."""

    def __init__(self, connections: Connections) -> None:
        self.closed = False
        self._connections, self._bounds = connections, connections.bounds
        self._transport: asyncio.Transport
        self._under_way = 0
        """Requests that are not answered."""
        self._reading = True
        self._full_since: float | None = None
        """When more waited to be written than should."""
        self._unsent = 0
        """Of answers that are not with the transport, when they were last looked at."""
        self._moved_s = self._heard_s = self._begun_s = connections.now_s
        """When something came last, and since when a message is not whole."""

    @abstractmethod
    def drain(self) -> None:
        """Tell the peer that no more requests are taken.  What was taken is answered; ``end`` comes after that."""

    @abstractmethod
    def retire(self) -> None:
        """Close a connection that nothing is asked on, in the protocol's order."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes of answers that are not with the transport yet."""

    @abstractmethod
    def flush(self) -> None:
        """Write what there is to be written."""

    @property
    @abstractmethod
    def half_sent(self) -> bool:
        """A message has begun to come and is not whole."""

    @abstractmethod
    def lost(self) -> None:
        """The connection has ended: nobody waits for what is under way."""

    def end(self) -> None:
        """Close, when what was written is out."""
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
        """A message did not come within its time."""
        self.abort()

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
        """Read on, or not, by how much is under way."""
        wanted = self._full_since is None and self._under_way < self._bounds.most_under_way
        if wanted is not self._reading and not self.closed:
            self._reading = wanted
            if wanted:
                self._begun_s = self._connections.now_s
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        if len(self._connections.open) >= self._bounds.most_connections:
            self._connections.turned_away += 1
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
            self.lost()

    def pause_writing(self) -> None:
        self._full_since = self._connections.now_s
        self.regulate()

    def resume_writing(self) -> None:
        self._full_since = None
        self.regulate()
