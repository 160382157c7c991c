"""What tests ask of a real Triton on loopback, beside a run of ours, and Triton's load generator."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.triton import environments
from drumfire.sut.remote.triton_local.environment import LocalTritonError, check_platform
from drumfire.sut.remote.triton_local.server import LocalTriton


def url(triton: LocalTriton, protocol: str) -> str:
    return f"{protocol}://{triton.grpc if protocol == 'grpc' else triton.http}"


def statistics(triton: LocalTriton, model: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(triton.http, timeout=10)
    connection.request("GET", f"/v2/models/{model}/stats", headers={"Connection": "close"})
    (found,) = json.loads(connection.getresponse().read())["model_stats"]
    connection.close()
    return found


def made_perf_analyzer() -> tuple[Path, Mapping[str, str]]:
    """The program and its environment; skips where the platform cannot run it, and where it is not to be had."""
    try:
        check_platform()
        return environments.perf_analyzer(print)
    except (LocalTritonError, MeasurementError) as error:
        pytest.skip(str(error))
