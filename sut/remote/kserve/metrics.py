"""A server's Prometheus metrics: use, power and memory of its GPUs, and pending requests, sampled during a run.

Fetches and reads the metrics.  Does not depend on the run.  ``Sampler`` uses a separate process: a thread would share
the interpreter with the issue loop, and delay it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from drumfire.sut import module_process
from drumfire.sut.kserve.errors import ProtocolError, ServerError, one_line
from drumfire.sut.kserve.http1.connection import ClientConnection, Response, build_request

PORT = 8002
"""Triton's default."""
PERIOD_S = 1.0
"""Triton itself reads its GPUs every 2 s, unless ``--metrics-interval-ms`` changes that."""
PATIENCE_S = 2.0
_START_PATIENCE_S = 5.0
_END_PATIENCE_S = 3.0
_MOST_BYTES = 8 << 20

GPU_FIGURES = {
    "nv_gpu_utilization": "utilization",
    "nv_gpu_power_usage": "power_w",
    "nv_gpu_memory_used_bytes": "memory_used_bytes",
    "nv_gpu_memory_total_bytes": "memory_total_bytes",
    "nv_energy_consumption": "energy_j",
}
"""Our names of a GPU's figures, by the metrics'."""
_OF_THE_SERVER = {"nv_cpu_utilization": "cpu_utilization", "nv_inference_pending_request_count": "pending_requests"}


class MetricsError(ServerError):
    """The metrics are missing or unreadable."""


@dataclass(frozen=True)
class Reading:
    """The metrics at one moment; figures that the server does not report are missing."""

    gpus: Mapping[str, Mapping[str, float]]
    """By UUID: utilization (0 to 1), power_w, memory_used_bytes, memory_total_bytes, energy_j (since the start).
    Includes the machine's GPUs that the model does not use."""
    server: Mapping[str, float]
    """cpu_utilization (0 to 1, of the machine), pending_requests (of the model, not yet executing)."""


def read(text: str, model: str, version: str = "") -> Reading:
    """Read the figures from the metrics' text.  Raises ``MetricsError`` if it is not Prometheus' format.

    Pending requests are those of the model: of ``version``, or of all versions if that is empty.
    """
    # Imported here, as the import takes longer than the rest of a start, and few processes read metrics.
    from prometheus_client.parser import text_string_to_metric_families

    gpus: dict[str, dict[str, float]] = {}
    server: dict[str, float] = {}
    try:
        for sample in (each for family in text_string_to_metric_families(text) for each in family.samples):
            labels, value = sample.labels, float(sample.value)
            ours = labels.get("model", model) == model and version in ("", labels.get("version", version))
            if not math.isfinite(value) or not ours:
                continue
            # The parser adds to counters the suffix that newer formats require.
            if (name := GPU_FIGURES.get(sample.name.removesuffix("_total"))) is not None:
                gpus.setdefault(labels.get("gpu_uuid", ""), {})[name] = value
            elif (name := _OF_THE_SERVER.get(sample.name)) is not None:
                server[name] = server.get(name, 0.0) + value
    except (ValueError, LookupError) as error:
        raise MetricsError(f"not Prometheus metrics: {one_line(str(error), 200)}") from None
    return Reading(gpus, server)


def tells_of(text: str, model: str) -> bool:
    """Whether the metrics come from a server that has the model."""
    quoted = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'model="{quoted}"' in text


def default_url(host: str) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{PORT}/metrics"


async def fetch(url: str, patience_s: float = PATIENCE_S) -> str:
    """Fetch the metrics' text within ``patience_s``.  Raises ``MetricsError``, which names the fix."""
    host, port, target = _parse(url)
    try:
        async with asyncio.timeout(patience_s):
            response = await _get(host, port, target)
    except TimeoutError:
        raise MetricsError(f"{url} does not answer within {patience_s:g} s") from None
    except OSError as error:
        raise MetricsError(f"cannot reach {url}: {error.strerror or error}") from None
    except ValueError as error:  # an invalid host name, or an answer that is not HTTP
        raise MetricsError(f"cannot read {url}: {error}") from None
    if response.status != 200:
        raise MetricsError(f"{url} answers with HTTP {response.status}: is this the server's --metrics-port?")
    return bytes(response.body).decode("utf-8", "replace")


def _parse(url: str) -> tuple[str, int, str]:
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or PORT
    except ValueError:
        parts, port = urllib.parse.urlsplit(""), 0
    if parts.scheme != "http" or not parts.hostname:
        raise MetricsError(f"--metrics-url {url}: use http://HOST:{PORT}/metrics")
    path = parts.path if parts.path not in ("", "/") else "/metrics"
    target = f"{path}?{parts.query}" if parts.query else path
    return parts.hostname, port, urllib.parse.quote(target, safe="/?&=%+:,;@")


async def _get(host: str, port: int, target: str) -> Response:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        connection = ClientConnection(max_body=_MOST_BYTES)
        connection.request()
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        writer.write(build_request("GET", target, authority, [("Connection", "close")], 0))
        while True:
            data = await reader.read(65_536)
            if responses := connection.receive(data) if data else connection.eof():
                return responses[0]
            if not data:
                raise ProtocolError("the connection ended before the answer")
    finally:
        writer.close()


class Readings:
    """Summarizes the readings of a run: mean and maximum of gauges, increase of counters."""

    def __init__(self) -> None:
        self.count = 0
        self._gpus: dict[str, dict[str, list[float]]] = {}
        self._server: dict[str, list[float]] = {}

    def add(self, reading: Reading) -> None:
        self.count += 1
        for uuid, figures in reading.gpus.items():
            _enter(self._gpus.setdefault(uuid, {}), figures)
        _enter(self._server, reading.server)

    def summary(self) -> dict[str, Any]:
        """JSON-ready.  Energy covers the first reading to the last, so it may miss two of the server's periods."""
        gpus = []
        for uuid, figures in sorted(self._gpus.items()):
            energy = figures.get("energy_j", [0.0])
            gpus.append(
                {
                    "uuid": uuid,
                    "utilization": _gauge(figures.get("utilization")),
                    "power_w": _gauge(figures.get("power_w")),
                    "memory_used_bytes": _gauge(figures.get("memory_used_bytes")),
                    "memory_total_bytes": max(figures.get("memory_total_bytes", [0.0])) or None,
                    "energy_j": energy[-1] - energy[0] if len(energy) > 1 and energy[-1] >= energy[0] else None,
                }
            )
        server = {name: _gauge(self._server.get(name)) for name in _OF_THE_SERVER.values()}
        return {"samples": self.count, "gpus": gpus, **server}


def _enter(series: dict[str, list[float]], figures: Mapping[str, float]) -> None:
    for name, value in figures.items():
        series.setdefault(name, []).append(value)


def _gauge(values: list[float] | None) -> dict[str, float] | None:
    return {"mean": math.fsum(values) / len(values), "max": max(values)} if values else None


class Sampler:
    """Reads the metrics once a second, in another process, from ``start`` to ``end``.

    ``start`` and ``collect`` block for some seconds at most, so do not call them on an event loop.
    """

    def __init__(self, url: str, model: str, version: str = "") -> None:
        self._task = {"url": url, "model": model, "version": version}
        self._process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start the process; returns after the first reading.  Raises ``MetricsError``."""
        try:
            self._process = module_process.start(
                "drumfire.sut.remote.kserve.metrics", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise MetricsError(f"cannot start the process that samples the metrics: {error}") from None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(self._task).encode() + b"\n")
        answer = self._line(_START_PATIENCE_S)
        if "error" in answer:
            self.end()
            self._reap()
            raise MetricsError(answer["error"])

    def end(self) -> None:
        """End the readings, without waiting."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def collect(self) -> dict[str, Any]:
        """Return ``Readings.summary``, after ``end``.  Raises ``MetricsError``."""
        answer = self._line(_END_PATIENCE_S)
        self._reap()
        if "error" in answer:
            raise MetricsError(answer["error"])
        return answer

    def _line(self, patience_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = b""
        if wait([self._process.stdout.fileno()], patience_s):
            line = self._process.stdout.readline()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            return {"error": "the process that samples the metrics does not answer"}
        return answer

    def _reap(self) -> None:
        assert self._process.stdout is not None
        try:
            self._process.wait(_END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def main() -> None:
    """The sampler's process: its input is one line of JSON, whose end ends the readings; it prints JSON lines."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(19)
    task = json.loads(sys.stdin.buffer.readline())
    readings, runner = Readings(), asyncio.Runner()

    def take_reading() -> None:
        readings.add(read(runner.run(fetch(task["url"])), task["model"], task["version"]))

    try:
        take_reading()
        print(json.dumps({"ready": True}), flush=True)
        while not wait([sys.stdin.fileno()], PERIOD_S):
            with contextlib.suppress(MetricsError):  # a busy server may miss a reading
                take_reading()
    except (MetricsError, ImportError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
    else:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(readings.summary(), allow_nan=False), flush=True)


if __name__ == "__main__":
    main()
