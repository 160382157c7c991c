"""What tests ask of a real Triton on loopback, beside a run of ours."""

from __future__ import annotations

import http.client
import json
from typing import Any

from drumfire.sut.remote.triton_local.server import LocalTriton


def url(triton: LocalTriton, protocol: str) -> str:
    return f"{protocol}://{triton.grpc if protocol == 'grpc' else triton.http}"


def statistics(triton: LocalTriton, model: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(triton.http, timeout=10)
    connection.request("GET", f"/v2/models/{model}/stats", headers={"Connection": "close"})
    (found,) = json.loads(connection.getresponse().read())["model_stats"]
    connection.close()
    return found
