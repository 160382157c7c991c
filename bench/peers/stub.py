"""Stubs: servers that cost next to nothing, each in a process of its own on loopback.

A stub prints its address and, at its end, its count of answers and its CPU time, each as a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from drumfire.bench.peers.process import MeasurementError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.sut import module_process

_END_S = 10.0


class Connection(Protocol):
    """The class of a stub's connections, an ``asyncio.Protocol``."""

    answered: int
    """Requests that all connections have answered."""

    def __call__(self) -> asyncio.Protocol: ...


@dataclass
class Stub:
    """A stub that is ready; its counts are filled in at its end."""

    address: str
    answered: int = 0
    cpu_s: float = 0.0


def serve(connection: Connection) -> None:
    """The stub's process: serve until the input ends."""

    async def until_the_end() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(connection, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        print(json.dumps({"address": f"{host}:{port}"}), flush=True)
        await loop.run_in_executor(None, sys.stdin.read)
        server.close()
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({"answered": connection.answered, "cpu_s": used.ru_utime + used.ru_stime}), flush=True)

    run_on_fast_loop(until_the_end())


@contextmanager
def started(module: str) -> Iterator[Stub]:
    """A fresh process of the stub in ``module``.  Raises ``MeasurementError``."""
    process = module_process.start(module, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        if not line:
            raise MeasurementError("the stub server did not start")
        stub = Stub(**json.loads(line))
        yield stub
        process.stdin.close()
        for name, value in json.loads(process.stdout.readline()).items():
            setattr(stub, name, value)
    finally:
        module_process.end(process, _END_S)
