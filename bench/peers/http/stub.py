"""An HTTP service that costs next to nothing: it answers every POST with the same JSON.

``python -m`` starts it: it serves on loopback until its input ends.  It prints its address and, at its end, its count
of answers and its CPU time, each as a line of JSON.  Finds the ends of requests by their Content-Length alone.
"""

from __future__ import annotations

import asyncio
import re
from typing import cast

from drumfire.bench.peers import stub
from drumfire.sut.kserve.http1.connection import build_response

REPLY = b'{"label":"cat","score":0.5}'
_ANSWER = build_response(200, [("Content-Type", "application/json")], len(REPLY)) + REPLY
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.I)


class Connection(asyncio.Protocol):
    """The connection of a client."""

    answered = 0

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        while (head := data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(data, 0, head + 2)
            end = head + 4 + (0 if length is None else int(length[1]))
            if len(data) < end:
                break
            data = data[end:]
            Connection.answered += 1
            self._transport.write(_ANSWER)
        self._rest = data


if __name__ == "__main__":
    stub.serve(Connection)
