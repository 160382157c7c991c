"""One request on a connection of its own, before a run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.kserve.messages.exchange import Channel, Reply
from drumfire.sut.remote.endpoint import Endpoint, Security
from drumfire.sut.remote.wire import ANSWER_PATIENCE_S, connect


async def call(endpoint: Endpoint, security: Security, channel: Channel, request: Any) -> Reply:
    """Send one request on a connection of its own.  Raises ``ServerError`` if no reply comes."""
    answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def deliver(replies: Sequence[tuple[int, Reply]]) -> None:
        if replies and not answered.done():
            answered.set_result(replies[0][1])

    wire = await connect(endpoint, security, channel, deliver)
    try:
        async with asyncio.timeout(ANSWER_PATIENCE_S):
            while not channel.free and not wire.closed:
                await asyncio.sleep(0.001)
            if wire.closed:
                raise ServerError(f"{endpoint}: {wire.why}")
            channel.send(0, request)
            wire.flush()
            reply = await answered
    except TimeoutError:
        raise ServerError(f"{endpoint} did not answer within {ANSWER_PATIENCE_S:g} s") from None
    finally:
        channel.close()
        await wire.close()
    return reply
