"""An HTTP service that costs next to nothing: it answers every POST with the same JSON.

``python -m`` starts it: it serves on loopback until its input ends.  It prints its address and, at its end, its count
of answers and its CPU time, each as a line of JSON.  Finds the ends of requests by their Content-Length alone.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
from typing import cast

from drumfire.loadgen.interpreter import run_on_fast_loop
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


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(json.dumps({"address": f"{host}:{port}"}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"answered": Connection.answered, "cpu_s": used.ru_utime + used.ru_stime}), flush=True)


if __name__ == "__main__":
    run_on_fast_loop(_serve())
