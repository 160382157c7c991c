"""``drumfire serve`` in its own process, as a server for tests."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

from tests.support.command import start

PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


class Served:
    """A server's process and what it said when it was ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=20)[1]
        self.ready: dict[str, Any] = json.loads(line)

    def address(self, protocol: str) -> str:
        return str(self.ready[protocol]).partition("://")[2]

    def statistics(self, model: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.ready['http']}/v2/models/{model}/stats", timeout=20) as answer:
            told: dict[str, Any] = json.load(answer)["model_stats"][0]
        return told

    def end(self, *, status: int = 0) -> str:
        self.process.send_signal(signal.SIGTERM)
        _, stderr = self.process.communicate(timeout=60)
        assert self.process.returncode == status, stderr
        assert "Traceback" not in stderr
        return stderr


@contextlib.contextmanager
def serving(*arguments: object) -> Iterator[Served]:
    process = start("serve", *arguments, *PORTS, "--json")
    try:
        yield Served(process)
    finally:
        process.kill()
        process.communicate()
