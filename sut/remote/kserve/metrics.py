"""A server's Prometheus metrics: use, power and memory of its GPUs, and pending requests.

Fetches and reads the metrics.  Does not depend on the run.
"""

from __future__ import annotations

import asyncio
import math
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drumfire.loadgen.series import Series
from drumfire.sut.kserve.errors import ProtocolError, ServerError, one_line
from drumfire.sut.kserve.http1.connection import ClientConnection, Response, build_request
from drumfire.sut.remote.endpoint import Endpoint, Security

PORT = 8002
"""Triton's default."""
PATIENCE_S = 2.0
_MOST_BYTES = 8 << 20

GPU_FIGURES = {
    "nv_gpu_utilization": "utilization",
    "nv_gpu_power_usage": "power_w",
    "nv_gpu_memory_used_bytes": "memory_used_bytes",
    "nv_gpu_memory_total_bytes": "memory_total_bytes",
    "nv_energy_consumption": "energy_j",
}
"""Our names of a GPU's figures, by the metrics'."""
OF_THE_SERVER = {"nv_cpu_utilization": "cpu_utilization", "nv_inference_pending_request_count": "pending_requests"}

_OUR_LINES = re.compile(rf"^(?:# [A-Z]+ )?(?:{'|'.join([*GPU_FIGURES, *OF_THE_SERVER])})\b.*$", re.MULTILINE)

UNITS = {
    "utilization": "share",
    "power_w": "W",
    "memory_used_bytes": "bytes",
    "memory_total_bytes": "bytes",
    "energy_j": "J",
    "cpu_utilization": "share",
    "pending_requests": "requests",
}
"""The unit of each figure."""


MISSING = "no metrics: "
"""How notes on missing metrics begin."""


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
    ours_only = "\n".join(_OUR_LINES.findall(text))  # a server has many more, and parsing them would disturb the run
    try:
        for sample in (each for family in text_string_to_metric_families(ours_only) for each in family.samples):
            labels, value = sample.labels, float(sample.value)
            ours = labels.get("model", model) == model and version in ("", labels.get("version", version))
            if not math.isfinite(value) or not ours:
                continue
            # The parser adds to counters the suffix that newer formats require.
            if (name := GPU_FIGURES.get(sample.name.removesuffix("_total"))) is not None:
                gpus.setdefault(labels.get("gpu_uuid", ""), {})[name] = value
            elif (name := OF_THE_SERVER.get(sample.name)) is not None:
                server[name] = server.get(name, 0.0) + value
    except (ValueError, LookupError, OverflowError) as error:
        raise MetricsError(f"not Prometheus metrics: {one_line(str(error), 200)}") from None
    return Reading(gpus, server)


def tells_of(text: str, model: str) -> bool:
    """Whether the metrics come from a server that has the model."""
    quoted = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'model="{quoted}"' in text


def default_url(host: str) -> str:
    return f"{Endpoint('http', host, PORT)}/metrics"


async def fetch(url: str, patience_s: float = PATIENCE_S, security: Security = Security()) -> str:  # noqa: B008
    """Fetch the metrics' text within ``patience_s``.  Raises ``MetricsError``, which names the fix."""
    endpoint, target = _parse(url)
    try:
        async with asyncio.timeout(patience_s):
            response = await _get(endpoint, target, security)
    except TimeoutError:
        raise MetricsError(f"{url} does not answer within {patience_s:g} s") from None
    except OSError as error:
        raise MetricsError(f"cannot reach {url}: {error.strerror or error}") from None
    except ValueError as error:  # an invalid host name, or an answer that is not HTTP
        raise MetricsError(f"cannot read {url}: {error}") from None
    if response.status == 401:
        raise MetricsError(f"{url} needs a token: --header 'authorization: Bearer TOKEN'")
    if response.status != 200:
        raise MetricsError(f"{url} answers with HTTP {response.status}: is this the server's --metrics-port?")
    return bytes(response.body).decode("utf-8", "replace")


def _parse(url: str) -> tuple[Endpoint, str]:
    """The endpoint and the path."""
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or PORT
    except ValueError:
        parts, port = urllib.parse.urlsplit(""), 0
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MetricsError(f"--metrics-url {url}: use http://HOST:{PORT}/metrics or https://…")
    path = parts.path if parts.path not in ("", "/") else "/metrics"
    target = f"{path}?{parts.query}" if parts.query else path
    return Endpoint(parts.scheme, parts.hostname, port), urllib.parse.quote(target, safe="/?&=%+:,;@")


async def _get(endpoint: Endpoint, target: str, security: Security) -> Response:
    context = security.context(endpoint)
    name = security.server_name(endpoint) if context is not None else None
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context, server_hostname=name)
    try:
        connection = ClientConnection(max_body=_MOST_BYTES)
        connection.request()
        fields = [("Connection", "close"), *security.headers]
        writer.write(build_request("GET", target, security.authority(endpoint), fields, 0))
        while True:
            data = await reader.read(65_536)
            if responses := connection.receive(data) if data else connection.eof():
                return responses[0]
            if not data:
                raise ProtocolError("the connection ended before the answer")
    finally:
        writer.close()


def section(name: str, series: Sequence[Series]) -> dict[str, Any] | None:
    """A result's summary of a server's metrics, from the series of the servers meter ``name``; None without metrics.

    Energy covers the first reading to the last, so it may miss two of the server's periods.
    """
    of_gpus: dict[str, dict[str, Series]] = {}
    of_server: dict[str, Series] = {}
    for one in series:
        *gpu, figure = one.name.removeprefix(f"{name}.").split(".")
        if one.name.startswith(f"{name}.") and figure in UNITS:
            (of_gpus.setdefault(gpu[0], {}) if gpu else of_server)[figure] = one
    everything = [*of_server.values(), *(one for figures in of_gpus.values() for one in figures.values())]
    if not everything:
        return None
    gpus = []
    for uuid, figures in sorted(of_gpus.items()):
        energy = figures["energy_j"].points["value"].tolist() if "energy_j" in figures else [0.0]
        total = figures.get("memory_total_bytes")
        gpus.append(
            {
                "uuid": uuid,
                **{name: _gauge(figures.get(name)) for name in ("utilization", "power_w", "memory_used_bytes")},
                "memory_total_bytes": (total.summary()["max"] or None) if total is not None else None,
                "energy_j": energy[-1] - energy[0] if len(energy) > 1 and energy[-1] >= energy[0] else None,
            }
        )
    server = {name: _gauge(of_server.get(name)) for name in OF_THE_SERVER.values()}
    return {"samples": max(one.points.size for one in everything), "gpus": gpus, **server}


def _gauge(series: Series | None) -> dict[str, float] | None:
    return None if series is None else {name: series.summary()[name] for name in ("mean", "max")}
