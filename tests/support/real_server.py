"""Servers that tests address alike: ``drumfire serve`` and the real Triton, each on free ports of loopback."""

from __future__ import annotations

import pytest

from drumfire.sut.remote.triton_local.server import LocalTriton
from tests.support.command import start
from tests.support.served import PORTS, Served


class ServeProcess:
    """``drumfire serve`` from entering to leaving.  ``grpc``, ``http`` and ``metrics`` are host:port."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def __enter__(self) -> ServeProcess:
        self._served = Served(start("serve", *self._words, *PORTS, "--json"))
        self.pid = self._served.process.pid
        self.grpc, self.http = self._served.address("grpc"), self._served.address("http")
        self.metrics = self._served.address("metrics").removesuffix("/metrics")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._served.end()
        finally:
            self._served.process.kill()


RealServer = ServeProcess | LocalTriton
"""What the fixture ``server`` gives."""
REAL_TRITON = (pytest.mark.slow, pytest.mark.serial)
"""It is a download of 330 MB; and one server does for all tests that run in one process."""
