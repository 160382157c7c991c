"""What can be asked of a KServe v2 server beside inference, in both protocols' terms, with one form of answer.

Knows names, paths and fields; must not know connections.  Sources: KServe's "Open Inference Protocol (v2)" and
Triton's model configuration, statistics and shared memory extensions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sut.kserve.over_http import model_path
from sut.kserve.protobuf import Form, bytes_field, decode, number_field, text_field

_TENSOR: Form = {1: ("name", str), 2: ("datatype", str), 3: ("shape", [int])}
_DURATION: Form = {1: ("count", int), 2: ("ns", int)}
_CONFIG: Form = {
    1: ("name", str),
    2: ("platform", str),
    17: ("backend", str),
    4: ("max_batch_size", int),
    11: ("dynamic_batching", {1: ("preferred_batch_size", [int]), 2: ("max_queue_delay_microseconds", int)}),
    19: ("model_transaction_policy", {1: ("decoupled", bool)}),
    24: ("response_cache", {1: ("enable", bool)}),
}
_STATISTICS: Form = {
    1: ("name", str),
    2: ("version", str),
    4: ("inference_count", int),
    5: ("execution_count", int),
    6: (
        "inference_stats",
        {
            1: ("success", _DURATION),
            2: ("fail", _DURATION),
            3: ("queue", _DURATION),
            4: ("compute_input", _DURATION),
            5: ("compute_infer", _DURATION),
            6: ("compute_output", _DURATION),
            7: ("cache_hit", _DURATION),
            8: ("cache_miss", _DURATION),
        },
    ),
    7: (
        "batch_stats",
        [
            {
                1: ("batch_size", int),
                2: ("compute_input", _DURATION),
                3: ("compute_infer", _DURATION),
                4: ("compute_output", _DURATION),
            }
        ],
    ),
}
_MODEL = {"name": 1, "version": 2}


@dataclass(frozen=True)
class Operation:
    """One call.  ``fields`` are gRPC's numbers of the arguments; those that the path does not name go in the body."""

    method: str
    verb: str
    path: str
    """After ``/v2``, where ``{model}`` and ``{name}`` stand for arguments."""
    fields: Mapping[str, int] = field(default_factory=dict)
    answer: Form = field(default_factory=dict)
    inside: str | None = None
    """gRPC's answer is in this field, HTTP's is not."""
    optional: bool = False
    """An extension that servers may lack."""

    def message(self, arguments: Mapping[str, Any]) -> bytes:
        """The request over gRPC."""
        return b"".join(_field(self.fields[name], value) for name, value in arguments.items())

    def target(self, arguments: Mapping[str, Any]) -> str:
        """The path of the request over HTTP."""
        model = model_path(arguments["name"], arguments.get("version", "")) if "{model}" in self.path else ""
        return self.path.format(model=model, name=arguments.get("name", ""))

    def body(self, arguments: Mapping[str, Any]) -> bytes:
        """The body of the request over HTTP."""
        if self.verb == "GET":
            return b""
        return json.dumps(
            {name: value for name, value in arguments.items() if name not in ("name", "version")},
            default=lambda raw: {"b64": base64.b64encode(raw).decode()},
        ).encode()

    def from_message(self, message: bytes | memoryview) -> dict[str, Any]:
        """The answer over gRPC.  Raises ``ProtocolError``."""
        answer = decode(message, self.answer)
        return answer[self.inside] or {} if self.inside is not None else answer

    def from_body(self, body: bytes) -> dict[str, Any]:
        """The answer over HTTP.  Raises ``ValueError`` for what is no JSON object."""
        if not body:
            return {}
        try:
            answer = json.loads(body)
        except RecursionError:
            raise ValueError("the answer is nested too deep") from None
        if not isinstance(answer, dict):
            raise ValueError("the answer is no JSON object")
        return answer


def _field(number: int, value: str | int | bytes) -> bytes:
    if isinstance(value, str):
        return text_field(number, value)
    return number_field(number, value) if isinstance(value, int) else bytes_field(number, value)


SERVER_METADATA = Operation(
    "ServerMetadata", "GET", "/v2", answer={1: ("name", str), 2: ("version", str), 3: ("extensions", [str])}
)
SERVER_READY = Operation("ServerReady", "GET", "/v2/health/ready", answer={1: ("ready", bool)})
MODEL_METADATA = Operation(
    "ModelMetadata",
    "GET",
    "{model}",
    _MODEL,
    {
        1: ("name", str),
        2: ("versions", [str]),
        3: ("platform", str),
        4: ("inputs", [_TENSOR]),
        5: ("outputs", [_TENSOR]),
    },
)
MODEL_CONFIG = Operation(
    "ModelConfig", "GET", "{model}/config", _MODEL, {1: ("config", _CONFIG)}, inside="config", optional=True
)
MODEL_STATISTICS = Operation(
    "ModelStatistics", "GET", "{model}/stats", _MODEL, {1: ("model_stats", [_STATISTICS])}, optional=True
)
REGISTER_MEMORY = Operation(
    "SystemSharedMemoryRegister",
    "POST",
    "/v2/systemsharedmemory/region/{name}/register",
    {"name": 1, "key": 2, "offset": 3, "byte_size": 4},
    optional=True,
)
UNREGISTER_MEMORY = Operation(
    "SystemSharedMemoryUnregister",
    "POST",
    "/v2/systemsharedmemory/region/{name}/unregister",
    {"name": 1},
    optional=True,
)
REGISTER_CUDA_MEMORY = Operation(
    "CudaSharedMemoryRegister",
    "POST",
    "/v2/cudasharedmemory/region/{name}/register",
    {"name": 1, "raw_handle": 2, "device_id": 3, "byte_size": 4},
    optional=True,
)
UNREGISTER_CUDA_MEMORY = Operation(
    "CudaSharedMemoryUnregister",
    "POST",
    "/v2/cudasharedmemory/region/{name}/unregister",
    {"name": 1},
    optional=True,
)
