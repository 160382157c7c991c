"""One connection: the thin protocol between a socket and the protocol logic.

Knows sockets, TLS and the event loop; must not know what travels.  What is due is written to the socket in the call
that makes it due, not when the loop next turns: a send that waits there would be lateness that nobody sees.
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
_KEEPALIVE_S = 10
"""After so long without traffic the kernel asks whether the peer is still there."""
_SILENT_PEER_S = 30
"""A peer whose kernel acknowledges nothing for so long is gone.  One that merely computes is not."""
_MOST_PIECES = 1000
"""Below the kernel's limit of 1024 for one sendmsg."""
_SMALL = 65_536
"""Pieces that are together below this are copied into one."""


class Logic(Protocol):
    """What a wire carries bytes for: see ``exchange.Channel``."""

    @property
    def out(self) -> list[bytes | memoryview]: ...

    def receive(self, data: bytes) -> Sequence[Any]: ...

    def eof(self) -> Sequence[Any]: ...

    def lost(self, reason: str) -> Sequence[Any]: ...


class Wire(asyncio.Protocol):
    """``deliver`` gets what the logic makes of each read, an empty list when more may be written."""

    def __init__(self, logic: Logic, deliver: Callable[[Sequence[Any]], None]) -> None:
        self.closed = False
        self.full = False
        """More waits to be written than should: send nothing new."""
        self._logic, self._deliver = logic, deliver
        self._transport: asyncio.Transport
        self._socket: socket.socket | None = None
        self._backlog = False
        self.why: str | None = None
        """Why the connection has ended."""

    def write_directly(self, to: socket.socket) -> None:
        """The socket under the transport: plain connections write to it without the loop's help."""
        self._socket = to

    def flush(self) -> None:
        """Write what the logic has put out."""
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
            pass  # the loop will tell that the connection is lost

    def abort(self, reason: str) -> None:
        """End the connection at once; what was under way fails for this reason."""
        self.why = self.why or reason
        self.closed = True
        self._transport.abort()
        self._deliver([])  # at once: what is sent before the loop tells of the end would be lost

    async def close(self) -> None:
        """End the connection in order.  Nothing is delivered any more: nobody waits for it."""
        self._deliver = _ignore
        self.why = self.why or "the connection was closed"
        if not self.closed:
            self.flush()
            self._transport.close()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        try:
            events = self._logic.receive(data)
        except ProtocolError as error:
            self.flush()
            self.abort(f"the server broke the protocol: {error}")
            return
        if self._logic.out:
            self.flush()
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
        if self.why is None:
            self.why = f"the connection was lost: {error}" if error else "the server closed the connection"
        self._deliver(self._logic.lost(self.why))

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._deliver([])

    def _leave(self, pieces: list[bytes | memoryview]) -> None:
        """The loop writes the rest when the socket takes it."""
        self._backlog = True
        self._transport.writelines(pieces)


def _ignore(_: Sequence[Any]) -> None:
    pass


def _after(pieces: list[bytes | memoryview], sent: int) -> list[bytes | memoryview]:
    """What is left of the pieces when the first ``sent`` bytes are gone."""
    for position, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[position + 1 :]]
        sent -= len(piece)
    return []


async def connect(
    endpoint: Endpoint, security: Security, logic: Logic, deliver: Callable[[Sequence[Any]], None]
) -> Wire:
    """Connect, and write what the logic says first.  Raises ``ServerError``, naming the mend."""
    loop = asyncio.get_running_loop()
    context = security.context(endpoint)
    missing = f"no connection to {endpoint} within {CONNECT_PATIENCE_S:g} s: is the address right?"
    try:
        async with asyncio.timeout(CONNECT_PATIENCE_S):
            found = await _socket(endpoint)
            missing = f"no TLS connection to {endpoint} within {CONNECT_PATIENCE_S:g} s: does this port speak TLS?"
            try:
                _, wire = await loop.create_connection(
                    lambda: Wire(logic, deliver),
                    sock=found,
                    ssl=context,
                    server_hostname=endpoint.host if context is not None else None,
                )
            except BaseException:
                found.close()
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
        wire.write_directly(found)
    elif endpoint.is_grpc and tls.selected_alpn_protocol() != "h2":
        wire.abort("not HTTP/2")
        raise ServerError(f"{endpoint} does not offer HTTP/2 over TLS: is this its gRPC port?")
    wire.flush()
    return wire


async def _socket(endpoint: Endpoint) -> socket.socket:
    """A connected socket, to the first of the host's addresses that answers."""
    loop = asyncio.get_running_loop()
    error: OSError = OSError("no address")
    for family, kind, number, _, address in await loop.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM
    ):
        found = socket.socket(family, kind, number)
        found.setblocking(False)
        try:
            await loop.sock_connect(found, address)
        except OSError as failed:
            found.close()
            error = failed
            continue
        except BaseException:
            found.close()
            raise
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", _KEEPALIVE_S),
            ("TCP_KEEPINTVL", _KEEPALIVE_S),
            ("TCP_USER_TIMEOUT", _SILENT_PEER_S * 1000),
        ):
            if hasattr(socket, name):
                with contextlib.suppress(OSError):
                    found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return found
    raise error
