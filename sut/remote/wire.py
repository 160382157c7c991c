"""One connection: a thin asyncio protocol between a socket and the protocol logic.

Handles sockets, TLS and the event loop; does not depend on the messages.  A send writes to the socket at once, not when
the loop next turns: waiting there would be lateness that no measurement shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from drumfire.sut.kserve.errors import ProtocolError, ServerError
from drumfire.sut.remote.endpoint import Endpoint, Security

CONNECT_PATIENCE_S = 10.0
SETTLE_PATIENCE_S = 5.0
"""How long a gRPC server may take to send its first frame, which it must send unasked."""
ANSWER_PATIENCE_S = 20.0
"""How long a server may take for an answer outside of a run."""
_KEEPALIVE_S = 10
"""After this time without traffic the kernel probes the peer (TCP_KEEPIDLE and TCP_KEEPINTVL)."""
_SILENT_PEER_S = 30
"""The connection fails if the peer's kernel acknowledges nothing for this time (TCP_USER_TIMEOUT)."""
_MOST_PARTIAL = 128 << 20
"""Bytes of replies that have arrived in part, over all connections of a system; one reply may always be larger."""
_MOST_PIECES = 1000
"""Below Linux's limit of 1024 pieces for one sendmsg (IOV_MAX)."""
_SMALL = 65_536
"""Pieces of at most this many bytes together are copied into one before sending."""


class Logic(Protocol):
    """The protocol logic that a wire carries bytes for: see ``exchange.Channel``."""

    @property
    def out(self) -> list[bytes | memoryview]: ...

    @property
    def buffered(self) -> int: ...

    def shed(self, most: int) -> Sequence[Any]: ...

    def receive(self, data: bytes) -> Sequence[Any]: ...

    def eof(self) -> Sequence[Any]: ...

    def lost(self, reason: str) -> Sequence[Any]: ...


class PartialReplies:
    """Replies that have arrived in part, over all connections: what they take together is bounded.

    Where it is too much, only the connection whose reply began first reads on, so that each becomes whole in its turn;
    one that needs longer than ``ANSWER_PATIENCE_S`` is given up, as is what one connection alone holds over the bound.
    """

    def __init__(self) -> None:
        self._held: dict[Wire, int] = {}
        """Bytes by connection, in the order in which its first reply in part began."""
        self._bytes = 0
        self._alone: Wire | None = None
        """The connection that reads on alone."""
        self._turn: asyncio.TimerHandle

    def count(self, wire: Wire, size: int) -> None:
        """``wire`` holds ``size`` bytes of replies in part: reads from it, and from others, are paused or resumed, and
        what it holds alone over the bound is given up.  Raises nothing."""
        self._bytes += size - self._held.get(wire, 0)
        if size:
            self._held[wire] = size
        elif self._held.pop(wire, 0):
            wire.read_on(True)
        over = self._bytes > _MOST_PARTIAL
        alone = next(iter(self._held)) if over else None
        if alone is not self._alone:
            if self._alone is not None:
                self._turn.cancel()
            if alone is not None:
                self._turn = asyncio.get_running_loop().call_later(ANSWER_PATIENCE_S, self._end_turn, alone)
            self._alone = alone
            for one in self._held:
                one.read_on(alone is None or one is alone)
        elif over:
            wire.read_on(wire is alone)
        if size > _MOST_PARTIAL:
            wire.shed(_MOST_PARTIAL // 2)

    def _end_turn(self, wire: Wire) -> None:
        wire.abort(
            f"a reply was not whole after {ANSWER_PATIENCE_S:g} s alone, as unfinished replies took over "
            f"{_MOST_PARTIAL >> 20} MiB: use fewer --concurrency"
        )


class Wire(asyncio.Protocol):
    """Calls ``deliver`` with the logic's events after each read, and with an empty list when more may be written."""

    def __init__(
        self, logic: Logic, deliver: Callable[[Sequence[Any]], None], partial: PartialReplies | None = None
    ) -> None:
        self._partial = partial or PartialReplies()
        self._counts = False
        """Replies that have arrived in part are counted with those of all connections."""
        self._reads = True
        self.closed = False
        self.full = False
        """The write buffer is above its high-water mark: send nothing new."""
        self._logic, self._deliver = logic, deliver
        self._transport: asyncio.Transport
        self._socket: socket.socket | None = None
        self._backlog = False
        self.why: str | None = None
        """Why the connection ended; None while it is open."""

    def write_directly(self, to: socket.socket) -> None:
        """Let plain connections write to ``to``, the transport's socket, without the transport."""
        self._socket = to

    def flush(self) -> None:
        """Write the logic's output."""
        out = self._logic.out
        if not out:
            return
        if self.closed:
            out.clear()
            return
        if self._backlog and not self._transport.get_write_buffer_size():
            self._backlog = False
        if self._socket is None or self._backlog:
            self._transport.writelines(out)
            out.clear()
            return
        pieces = out.copy()
        out.clear()
        try:
            if len(pieces) > 1:
                size = sum(map(len, pieces))
                if size > _SMALL:
                    sent = self._socket.sendmsg(pieces[:_MOST_PIECES])
                    if sent < size:
                        self._leave(_after(pieces, sent))
                    return
                pieces = [b"".join(pieces)]
            data = pieces[0]
            sent = self._socket.send(data)
            if sent < len(data):
                self._leave([memoryview(data)[sent:]])
        except BlockingIOError:
            self._leave(pieces)
        except OSError:
            pass  # the loop will call connection_lost

    def abort(self, reason: str) -> None:
        """End the connection at once; requests under way fail with this reason."""
        self.why = self.why or reason
        self.closed = True
        if self._counts:
            self._count()
        self._transport.abort()
        self._deliver([])  # at once: a request sent before connection_lost would be lost

    def read_on(self, wanted: bool) -> None:
        """Read, or leave what comes to the socket and the server."""
        if wanted is not self._reads and not self.closed:
            self._reads = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def shed(self, most: int) -> None:
        """Give up replies in part, those that began last, until they take ``most`` bytes."""
        events = self._logic.shed(most)
        self.flush()
        self._count()
        self._deliver(events)

    def _count(self) -> None:
        size = 0 if self.closed else self._logic.buffered
        self._counts = size > 0
        self._partial.count(self, size)

    async def close(self) -> None:
        """Close the connection in order, without delivering further events."""
        self._deliver = _ignore
        self.why = self.why or "the connection was closed"
        if not self.closed:
            self.flush()
            self._transport.close()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from asyncio.Transport

    def data_received(self, data: bytes) -> None:
        try:
            events = self._logic.receive(data)
        except ProtocolError as error:
            self.flush()
            hint = "; does this port speak the URL's protocol?" if "not HTTP/1.1" in str(error) else ""
            self.abort(f"the server broke the protocol: {error}{hint}")
            return
        if self._logic.out:
            self.flush()
        if not events or self._counts:
            self._count()
        self._deliver(events)

    def eof_received(self) -> bool:
        events: Sequence[Any]
        try:
            events = self._logic.eof()
        except ProtocolError as error:
            self.why = self.why or str(error)
            events = ()
        self._deliver(events)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._counts:
            self._count()
        if self.why is None:
            self.why = f"the connection was lost: {error}" if error else "the server closed the connection"
        deliver = self._deliver
        self._deliver = _ignore  # breaks the reference cycle: the collector is off during a run
        deliver(self._logic.lost(self.why))

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._deliver([])

    def _leave(self, pieces: list[bytes | memoryview]) -> None:
        """Leave the rest to the loop, which writes it when the socket has room."""
        self._backlog = True
        self._transport.writelines(pieces)


def _ignore(_: Sequence[Any]) -> None:
    pass


def _after(pieces: list[bytes | memoryview], sent: int) -> list[bytes | memoryview]:
    """The pieces without their first ``sent`` bytes."""
    for position, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[position + 1 :]]
        sent -= len(piece)
    return []


async def connect(
    endpoint: Endpoint,
    security: Security,
    logic: Logic,
    deliver: Callable[[Sequence[Any]], None],
    partial: PartialReplies | None = None,
) -> Wire:
    """Connect, and write the logic's first output.  Raises ``ServerError``, which names the fix."""
    loop = asyncio.get_running_loop()
    context = security.context(endpoint)
    missing = f"no connection to {endpoint} within {CONNECT_PATIENCE_S:g} s: is the address right?"
    try:
        async with asyncio.timeout(CONNECT_PATIENCE_S):
            connected = await _socket(endpoint)
            missing = f"no TLS connection to {endpoint} within {CONNECT_PATIENCE_S:g} s: does this port speak TLS?"
            try:
                _, wire = await loop.create_connection(
                    lambda: Wire(logic, deliver, partial),
                    sock=connected,
                    ssl=context,
                    server_hostname=security.server_name(endpoint) if context is not None else None,
                )
            except BaseException:
                connected.close()
                raise
    except TimeoutError:
        raise ServerError(missing) from None
    except ssl.SSLCertVerificationError as error:
        raise ServerError(
            f"the certificate of {endpoint} is not trusted ({error.verify_message}): name its issuer with --tls-ca"
        ) from None
    except ssl.SSLError as error:
        raise ServerError(f"no TLS connection to {endpoint}: {error.reason}; does this port speak TLS?") from None
    except socket.gaierror as error:
        raise ServerError(f"no such host: {endpoint.host} ({error.strerror})") from None
    except OSError as error:
        what = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
        raise ServerError(f"no connection to {endpoint}: {what.lower()}; is the server running there?") from None
    tls = wire._transport.get_extra_info("ssl_object")
    if tls is None:
        wire.write_directly(connected)
    elif endpoint.is_grpc and tls.selected_alpn_protocol() != "h2":
        wire.abort("not HTTP/2")
        raise ServerError(f"{endpoint} does not offer HTTP/2 over TLS: is this its gRPC port?")
    wire.flush()
    return wire


async def _socket(endpoint: Endpoint) -> socket.socket:
    """Connect a socket to the first of the host's addresses that answers."""
    loop = asyncio.get_running_loop()
    error: OSError = OSError("no address")
    for family, kind, number, _, address in await loop.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM
    ):
        connected = socket.socket(family, kind, number)
        connected.setblocking(False)
        try:
            await loop.sock_connect(connected, address)
        except OSError as failed:
            connected.close()
            error = failed
            continue
        except BaseException:
            connected.close()
            raise
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", _KEEPALIVE_S),
            ("TCP_KEEPINTVL", _KEEPALIVE_S),
            ("TCP_USER_TIMEOUT", _SILENT_PEER_S * 1000),
        ):
            if hasattr(socket, name):
                with contextlib.suppress(OSError):
                    connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return connected
    raise error
