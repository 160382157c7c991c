"""A whole server on free ports of loopback, its loop in a thread of this process, so that tests can reach into it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from drumfire.sut.serving.connection import Bounds
from drumfire.sut.serving.model import ServedModel
from drumfire.sut.serving.server import Addresses, Server, Settings

T = TypeVar("T")


class Running:
    """Serves from entering to leaving; whatever the server had to say is in ``said``."""

    def __init__(self, *models: ServedModel, bounds: Bounds | None = None, **settings: Any) -> None:
        ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
        self.said: list[str] = []
        self.server = Server(models, Settings(bounds=bounds or Bounds(), **(ports | settings)), self.said.append)
        self.addresses: Addresses
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Running:
        self._thread.start()
        try:
            self.addresses = self.run(self.server.start())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.server.close())
        self._stop()
        assert not [text for text in self.said if text.startswith("unexpected")]

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(main, self._loop).result(60)

    def begin(self, main: Coroutine[Any, Any, T]) -> Any:
        return asyncio.run_coroutine_threadsafe(main, self._loop)

    def connect(self, port: str = "http", context: ssl.SSLContext | None = None) -> socket.socket:
        host, number = getattr(self.addresses, port).rsplit(":", 1)
        made = socket.create_connection((host, int(number)), timeout=20)
        return made if context is None else context.wrap_socket(made, server_hostname="localhost")

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, port: str = "http"
    ) -> tuple[int, Any]:
        """Status, and the body read as JSON where it is some."""
        connection = http.client.HTTPConnection(getattr(self.addresses, port), timeout=20)
        try:
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        try:
            return response.status, json.loads(content)
        except ValueError:
            return response.status, content

    def infer(self, rows: Sequence[Sequence[float]], model: str = "double", **fields: Any) -> tuple[int, Any]:
        """Over JSON; gives the status and the outputs by name, or the error's text."""
        status, said = self.ask("POST", f"/v2/models/{model}/infer", json_request(rows, **fields))
        if status != 200:
            return status, said["error"]
        return status, {one["name"]: one["data"] for one in said["outputs"]}

    def counts(self, model: str = "double") -> dict[str, int]:
        _, said = self.ask("GET", f"/v2/models/{model}/stats")
        return {name: one["count"] for name, one in said["model_stats"][0]["inference_stats"].items()}


def json_request(rows: Sequence[Sequence[float]], **fields: Any) -> bytes:
    given = {"name": "x", "datatype": "FP32", "shape": [len(rows), len(rows[0])], "data": rows} | fields
    return json.dumps({"inputs": [given]}).encode()


def http_request(body: bytes, path: str = "/v2/models/double/infer", extra: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


def read_response(reader: Any) -> tuple[int, dict[str, str], bytes]:
    """From a socket's file."""
    status = int(reader.readline().split()[1])
    headers = {}
    while (line := reader.readline().strip()) != b"":
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, reader.read(int(headers.get("content-length", "0")))


def until(condition: Callable[[], object], patience_s: float = 20.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    import subprocess

    key, chain = folder / "key.pem", folder / "chain.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", chain],
        check=True, capture_output=True,
    )  # fmt: skip
    return chain, key
