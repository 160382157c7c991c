"""A client for a server's operations besides inference, such as metadata, statistics and shared memory.

Uses one connection, separate from those of a run.  Does not depend on the load generator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from drumfire.sut.kserve.errors import ProtocolError, ServerError, one_line
from drumfire.sut.kserve.grpc.client import CallResult, Calls
from drumfire.sut.kserve.grpc.framing import Status, framed
from drumfire.sut.kserve.http1.connection import Response, build_request
from drumfire.sut.kserve.messages.exchange import Failure
from drumfire.sut.kserve.messages.http_client import HttpExchange, error_text
from drumfire.sut.kserve.messages.operations import Operation
from drumfire.sut.remote.endpoint import Endpoint, Security
from drumfire.sut.remote.wire import ANSWER_PATIENCE_S, SETTLE_PATIENCE_S, Wire, connect

_ABSENT = (404, 405, 501)


class Unsupported(ServerError):
    """The server does not offer the operation."""


class Client:
    """Calls one server, one operation at a time.  Use ``async with``; connecting raises ``ServerError``."""

    def __init__(self, endpoint: Endpoint, security: Security | None = None) -> None:
        self.endpoint = endpoint
        self._security = security or Security()
        self._turn = asyncio.Lock()
        self._wire: Wire | None = None
        self._waiter: asyncio.Future[Any] | None = None
        self._logic: Calls | HttpExchange[Response]

    async def __aenter__(self) -> Client:
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._wire is not None:
            self._logic.close()
            await self._wire.close()

    async def ask(self, operation: Operation, **arguments: str | int | bytes) -> dict[str, Any]:
        """Return the answer.  Raises ``Unsupported`` if the server lacks an optional one, else ``ServerError``."""
        async with self._turn:
            if self._wire is None or self._wire.closed or self._logic.draining:
                await self._connect()
            assert self._wire is not None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(ANSWER_PATIENCE_S):
                    if isinstance(self._logic, Calls):
                        message = framed(operation.message(arguments))
                        self._logic.call(0, self._logic.headers(operation.method), message)
                    else:
                        self._logic.put(0, *self._request(operation, arguments))
                    self._wire.flush()
                    return self._read(operation, arguments, await self._waiter)
            except TimeoutError:
                self._wire.abort("no answer")
                raise ServerError(
                    f"{self.endpoint} did not answer {operation.method} within {ANSWER_PATIENCE_S:g} s: "
                    "does this port speak the URL's protocol?"
                ) from None
            except ProtocolError as error:
                raise ServerError(f"{self.endpoint}: {operation.method}: {error}") from None
            except asyncio.CancelledError as error:  # a deadline of more than this question says what it was
                error.add_note(f"the answer to {operation.method} of {self.endpoint}")
                raise
            finally:
                self._waiter = None

    async def _connect(self) -> None:
        endpoint = self.endpoint
        if endpoint.is_grpc:
            self._logic = Calls(self._security.authority(endpoint), tls=endpoint.tls, metadata=self._security.headers)
        else:
            self._logic = HttpExchange(lambda response: response)
        self._wire = await connect(endpoint, self._security, self._logic, self._deliver)
        until = time.monotonic() + SETTLE_PATIENCE_S
        while not self._logic.free and not self._wire.closed:  # a gRPC server sends first
            if time.monotonic() > until:
                self._wire.abort("nothing came")
                raise ServerError(f"{endpoint} sends nothing: does this port speak the URL's protocol?")
            await asyncio.sleep(0.001)
        if self._wire.closed:
            raise ServerError(f"{endpoint}: {self._wire.why}; does this port speak the URL's protocol?")

    def _deliver(self, events: Sequence[Any]) -> None:
        for event in events:
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(event)

    def _request(self, operation: Operation, arguments: dict[str, Any]) -> tuple[bytes, bytes]:
        body = operation.body(arguments)
        host = self._security.authority(self.endpoint)
        fields = [("Content-Type", "application/json"), *self._security.headers]
        target = self.endpoint.path + operation.target(arguments)
        head = build_request(operation.verb, target, host, fields, len(body))
        return head, body

    def _read(self, operation: Operation, arguments: dict[str, Any], event: Any) -> dict[str, Any]:
        asked = (
            f"{operation.method} of {one_line(str(arguments['name']), 60)!r}"
            if "name" in arguments
            else operation.method
        )
        if isinstance(event, CallResult):
            if event.message is None:
                reason = event.failure.reason if event.failure is not None else "no reply"
                unsupported = operation.optional and event.status == Status.UNIMPLEMENTED
                raise (Unsupported if unsupported else ServerError)(f"{self.endpoint}: {asked}: {reason}")
            return operation.from_message(memoryview(event.message)[5:])
        _, response = event
        if isinstance(response, Failure):
            raise ServerError(f"{self.endpoint}: {asked}: {response.reason}")
        if response.status != 200:
            unsupported = operation.optional and response.status in _ABSENT
            raise (Unsupported if unsupported else ServerError)(f"{self.endpoint}: {asked}: {error_text(response)}")
        try:
            return operation.from_body(bytes(response.body))
        except ValueError as error:
            raise ServerError(f"{self.endpoint}: the answer to {operation.method} is not JSON: {error}") from None
