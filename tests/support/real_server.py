"""Servers in processes of their own on free ports of loopback: ``drumfire serve``, addressed as the real Triton is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from drumfire.loadgen.installation import ROOT
from drumfire.sut.remote.triton_local.server import LocalTriton


class ServeProcess:
    """From entering to leaving.  ``grpc``, ``http`` and ``metrics`` are host:port."""

    def __init__(self, *words: str) -> None:
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        self._command = [sys.executable, "-m", "drumfire", "serve", *words, *ports, "--json"]

    def __enter__(self) -> ServeProcess:
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        assert ready, self._process.communicate()[1]
        said = json.loads(ready)
        self.pid = self._process.pid
        self.grpc, self.http, self.metrics = (
            said[port].partition("://")[2].removesuffix("/metrics") for port in ("grpc", "http", "metrics")
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            _, said = self._process.communicate(timeout=60)
        finally:
            self._process.kill()
        assert self._process.returncode == 0, said
        assert "Traceback" not in said


RealServer = ServeProcess | LocalTriton
"""What the fixture ``server`` gives."""
REAL_TRITON = (pytest.mark.slow, pytest.mark.serial)
"""It is a download of 330 MB; and one server does for all tests that run in one process."""
