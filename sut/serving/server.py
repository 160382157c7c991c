"""The whole server: its ports, its periodic work and its shutdown.

Handles the event loop, sockets and TLS.  Does not depend on the contents of connections or on a screen.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.limits import available_memory_bytes, open_files
from drumfire.loadgen.loggers import SERVING
from drumfire.sut.kserve.grpc.server import CallLimits
from drumfire.sut.serving.access import Access, TokenError
from drumfire.sut.serving.connection import Bounds, Connections, PortConnection
from drumfire.sut.serving.gpus import GpuReader
from drumfire.sut.serving.grpc_port import GrpcConnection, KServeOverGrpc
from drumfire.sut.serving.http_port import HttpConnection, KServeOverHttp, Page
from drumfire.sut.serving.metrics import Metrics
from drumfire.sut.serving.model import ServedModel
from drumfire.sut.serving.service import Service

_BACKLOG = 4096
_HANDSHAKE_S = 10.0
_SWEEP_S = 0.02
"""The precision of deadlines in the queue while all instances are busy."""
_TICK_S = 0.1
_TOKENS_S = 1.0
_LOOK_S = 0.005
_JOIN_S = 1.0
_FEWEST_BYTES = 256 << 20
_SHARE_OF_MEMORY = 4
"""Waiting inputs may take this fraction (one part in 4) of the memory available at the start."""


class ServeError(UserError, ValueError):
    """The server cannot start.  The text is one line and names the fix."""


@dataclass(frozen=True)
class Settings:
    """The settings of a server.  Port 0 takes any free port."""

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    most_waiting: int = 8192
    """Requests that may wait for one model."""
    drain_s: float = 30.0
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True)
class Addresses:
    """host:port of each port."""

    http: str
    grpc: str
    metrics: str


class Server:
    """Call ``start``, then ``drain``, both on the event loop.  ``say`` receives notices, one line each."""

    def __init__(self, models: Sequence[ServedModel], settings: Settings, say: Callable[[str], None]) -> None:
        """Raises ``ServeError`` for files that cannot be used."""
        self.settings = settings
        self._models, self._say = models, say
        try:
            self._access = Access(settings.token_file)
        except TokenError as error:
            raise ServeError(str(error)) from None
        self._contexts = {protocol: _tls(settings, protocol) for protocol in ("http/1.1", "h2")}
        self.stopped = True
        """After ``close``: all workers have ended."""
        self.connections: Connections
        self.gpus = GpuReader()
        self.service: Service
        self._listeners: list[asyncio.Server] = []
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> Addresses:
        """Start to serve.  Raises ``ServeError`` if a port is not available."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unexpected)
        settings, bounds = self.settings, self.settings.bounds
        open_files(bounds.most_connections + 1024)  # each connection is one, and the usual limit is 1,024
        waiting = max((available_memory_bytes() or 0) // _SHARE_OF_MEMORY, _FEWEST_BYTES)
        self.service = Service(self._models, loop, most_requests=settings.most_waiting, most_bytes=waiting)
        self.connections = Connections(bounds, loop.call_soon)
        self.connections.now_s = loop.time()
        over_http = KServeOverHttp(self.service, self._access, bounds.most_json_bytes)
        limits = CallLimits(max_message=bounds.most_message_bytes, max_streams=bounds.most_under_way)
        over_grpc = KServeOverGrpc(self.service, self._access, limits, bounds.most_json_bytes)
        page = Page("/metrics", Metrics(self.service.schedulers, self.gpus.figures).text, self._access)
        http1, http2 = (self._contexts[protocol] for protocol in ("http/1.1", "h2"))
        wanted: list[tuple[str, int, Callable[[], PortConnection], ssl.SSLContext | None]] = [
            ("http", settings.http_port, lambda: HttpConnection(self.connections, over_http), http1),
            ("grpc", settings.grpc_port, lambda: GrpcConnection(self.connections, over_grpc), http2),
            ("metrics", settings.metrics_port, lambda: HttpConnection(self.connections, page), http1),
        ]
        addresses = {}
        try:
            for name, port, factory, context in wanted:
                addresses[name] = await self._listen(name, port, factory, context)
        except BaseException:
            self._stop_listening()
            raise
        self.service.start()
        for model in self._models:
            SERVING.info("serves %s version %s: %s", model.name, model.version, model.description)
        self.gpus.start()
        self._ticking = loop.create_task(self._tick())
        return Addresses(**addresses)

    def reload_tokens(self, *, always: bool = True) -> None:
        """Read the token file again; an unusable file leaves the tokens as they are."""
        try:
            if self._access.refresh(always=always):
                self._say(f"read {self.settings.token_file} again")
                SERVING.info("tokens read again from %s", self.settings.token_file)
        except TokenError as error:
            self._say(f"{error}; the earlier tokens stay valid")
            SERVING.error("tokens not read again: %s", error)

    async def drain(self) -> bool:
        """Answer all accepted requests and close; returns whether all were answered within ``Settings.drain_s``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.settings.drain_s
        self.service.drain()
        for connection in list(self.connections.open):
            connection.drain()
        while self._unfinished() and loop.time() < until:
            await asyncio.sleep(_LOOK_S)
        answered = not self._unfinished()
        self._stop_listening()
        for connection in list(self.connections.open):
            connection.end()
        while self.connections.open and loop.time() < until:
            await asyncio.sleep(_LOOK_S)
        await self.close()
        return answered

    async def close(self) -> None:
        """Close at once: requests under way are not answered."""
        if self._ticking is not None:
            self._ticking.cancel()
        self._stop_listening()
        self.service.close()
        for connection in list(self.connections.open):
            connection.abort()
        self.gpus.close()
        await asyncio.sleep(0)  # the transports end at the loop's next iteration
        self.stopped = await asyncio.to_thread(self.service.join, _JOIN_S)

    def _unfinished(self) -> bool:
        return self.service.open_requests > 0 or any(connection.unsent for connection in self.connections.open)

    async def _listen(
        self, name: str, port: int, factory: Callable[[], PortConnection], context: ssl.SSLContext | None
    ) -> str:
        host = self.settings.host
        timeouts: dict[str, Any] = {} if context is None else {"ssl_handshake_timeout": _HANDSHAKE_S}
        try:
            listener = await asyncio.get_running_loop().create_server(
                factory, host, port, backlog=_BACKLOG, ssl=context, **timeouts
            )
        except socket.gaierror as error:
            raise ServeError(f"--host {host}: {error.strerror}") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ServeError(
                    f"port {port} of {host} is in use: give another with --{name}-port (0 takes any free port)"
                ) from None
            what = os.strerror(error.errno) if error.errno else str(error)
            raise ServeError(f"--{name}-port {port} of --host {host}: {what.lower()}") from None
        except OverflowError:
            raise ServeError(f"--{name}-port {port}: a port is 0 to 65535") from None
        self._listeners.append(listener)
        address, number = listener.sockets[0].getsockname()[:2]
        return f"[{address}]:{number}" if ":" in address else f"{address}:{number}"

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        tokens_s = 0.0
        while True:
            self.service.sweep()
            now_s = loop.time()
            if now_s >= self.connections.now_s + _TICK_S:
                self.connections.tick(now_s)
            if now_s >= tokens_s:
                tokens_s = now_s + _TOKENS_S
                self.reload_tokens(always=False)
            await asyncio.sleep(_SWEEP_S if self.service.has_deadlines else _TICK_S)

    def _unexpected(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report an exception that reached the loop, except for peers that broke TLS or went away."""
        error = context.get("exception")
        if isinstance(error, ConnectionError | ssl.SSLError | TimeoutError | BrokenPipeError):
            return
        self._say(f"unexpected: {context.get('message')}: {type(error).__name__}: {error}")
        SERVING.error("unexpected: %s", context.get("message"), exc_info=error)


def _tls(settings: Settings, protocol: str) -> ssl.SSLContext | None:
    """None without a certificate.  Raises ``ServeError``."""
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ServeError("--tls-cert and --tls-key go together: set both, or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        what = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else error
        raise ServeError(f"--tls-cert {certificate} with --tls-key {key} cannot be used: {what}") from None
    context.set_alpn_protocols([protocol])
    return context
