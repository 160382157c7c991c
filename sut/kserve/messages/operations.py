"""The operations of a KServe v2 server, over gRPC and HTTP, for clients and servers.

Handles names, paths and fields.  Does not depend on connections or on the contents of inference.  Sources: KServe's
"Open Inference Protocol (v2)"; Triton's model configuration, statistics, repository and shared memory extensions; the
"GRPC Health Checking Protocol".
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from drumfire.sut.kserve.errors import ProtocolError, one_line
from drumfire.sut.kserve.grpc.framing import SERVICE
from drumfire.sut.kserve.messages.http_client import model_path
from drumfire.sut.kserve.messages.protobuf import MapOf, Schema, decode, default, encode
from drumfire.sut.kserve.messages.schemas import CONFIG, STATISTICS, TENSOR

_LONGEST_REMEMBERED = 512
_LARGEST_ARGUMENTS = 4096
"""Bytes of all arguments of an operation; reading a server's own would take seconds if they could be as large as
tensors."""
_MOST_FIELDS = 16
"""Fields of protobuf in them; no operation has more than 4."""


@dataclass(frozen=True)
class Operation:
    """One operation.  ``fields`` are gRPC's arguments; over HTTP, those that are not in the path go in the body."""

    method: str
    verb: str
    """Empty: not available over HTTP."""
    path: str
    """With ``{name}`` in place of that argument, and ``{model}`` for a model's path, with or without a version."""
    fields: Schema = field(default_factory=dict)
    answer: Schema = field(default_factory=dict)
    inside: str | None = None
    """gRPC wraps the answer in this field; HTTP does not."""
    listed: str | None = None
    """HTTP's answer is a list: this field of gRPC's answer, or its values if the field is a map."""
    status_only: bool = False
    """HTTP's answer is only the status."""
    optional: bool = False
    """An extension that servers may lack."""
    path_of_all: str = ""
    """The path of a request without a name."""
    service: str = SERVICE
    """The part of gRPC's path before the method."""

    # The client's side.

    def message(self, arguments: Mapping[str, Any]) -> bytes:
        """The request over gRPC."""
        return encode(self.fields, arguments)

    def target(self, arguments: Mapping[str, Any]) -> str:
        """The path of the request over HTTP."""
        name = arguments.get("name", "")
        if self.path_of_all and not name:
            return self.path_of_all
        model = model_path(name, arguments.get("version", "")) if "{model}" in self.path else ""
        return self.path.format(model=model, name=quote(name, safe=""))

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
        """The answer over HTTP.  Raises ``ValueError`` unless it is a JSON object, or the list of ``listed``."""
        if not body:
            return {}
        try:
            answer = json.loads(body)
        except RecursionError:
            raise ValueError("the answer is nested too deeply") from None
        if self.listed is not None and isinstance(answer, list):
            return {self.listed: answer}
        if not isinstance(answer, dict):
            raise ValueError("the answer is not a JSON object")
        return answer

    # The server's side.

    def arguments(self, message: bytes | memoryview) -> dict[str, Any]:
        """The arguments of a request over gRPC.  Raises ``ProtocolError``."""
        self._check_size(message)
        return self._checked(decode(message, self.fields, most=_MOST_FIELDS))

    def arguments_over_http(self, named: Mapping[str, Any], body: bytes | memoryview) -> dict[str, Any]:
        """The arguments of a request over HTTP; ``named`` are those in its path.  Raises ``ProtocolError``."""
        found = {name: default(kind) for name, kind in self.fields.values()}
        if body and self.verb == "POST":
            self._check_size(body)
            try:
                document = json.loads(bytes(body))
            except (ValueError, RecursionError) as error:
                raise ProtocolError(f"{self.method}: the body is not JSON: {one_line(str(error), 100)}") from None
            if not isinstance(document, dict):
                raise ProtocolError(f"{self.method}: the body is not a JSON object")
            found.update((name, document[name]) for name in found if name in document)
        found.update(named)
        return self._checked({name: _from_json(found[name], kind) for name, kind in self.fields.values()})

    def to_message(self, answer: Mapping[str, Any]) -> bytes:
        """The answer over gRPC.  Raises ``ValueError``."""
        return encode(self.answer, {self.inside: answer} if self.inside is not None else answer)

    def to_body(self, answer: Mapping[str, Any]) -> bytes:
        """The answer over HTTP, as Triton writes it: 64-bit numbers as JSON numbers, default values included."""
        if self.status_only or not self.answer:
            return b""
        schema: Any = self.answer
        if self.inside is not None:
            schema = next(kind for name, kind in self.answer.values() if name == self.inside)
        document: Any = _complete(schema, answer)
        if self.listed is not None:
            document = document[self.listed]
            document = list(document.values()) if isinstance(document, dict) else document
        return json.dumps(document, separators=(",", ":")).encode()

    def _check_size(self, arguments: bytes | memoryview) -> None:
        if len(arguments) > _LARGEST_ARGUMENTS:
            raise ProtocolError(
                f"{self.method}: {len(arguments)} bytes of arguments; at most {_LARGEST_ARGUMENTS} are accepted"
            )

    def _checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        for name, kind in self.fields.values():
            value = arguments[name]
            if type(value) is not kind:
                raise ProtocolError(f"{self.method}: {name} is not {_NOUNS[kind]}")
            if kind is int and not 0 <= value < 1 << 63:
                raise ProtocolError(f"{self.method}: {name} is {value}, not a number from 0 to 2^63-1")
        return arguments


_NOUNS = {str: "text", int: "an integer", bool: "a boolean", bytes: "bytes"}


def _from_json(value: Any, kind: Any) -> Any:
    if kind is bytes and isinstance(value, Mapping):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (KeyError, TypeError, ValueError):
            return None
    return value


def _complete(kind: Any, value: Any) -> Any:
    """A value with all fields of its schema, in the schema's order; messages that are missing are left out."""
    if isinstance(kind, Mapping):
        found = {}
        for name, inner in kind.values():
            one = value.get(name)
            if one is not None or not isinstance(inner, Mapping):
                found[name] = default(inner) if one is None else _complete(inner, one)
        return found
    if isinstance(kind, list):
        return [_complete(kind[0], one) for one in value]
    if isinstance(kind, MapOf):
        return {key: _complete(kind.schema, one) for key, one in value.items()}
    return value


_MODEL: Schema = {1: ("name", str), 2: ("version", str)}
_NAME: Schema = {1: ("name", str)}

SERVER_METADATA = Operation(
    "ServerMetadata", "GET", "/v2", answer={1: ("name", str), 2: ("version", str), 3: ("extensions", [str])}
)
SERVER_LIVE = Operation("ServerLive", "GET", "/v2/health/live", answer={1: ("live", bool)}, status_only=True)
SERVER_READY = Operation("ServerReady", "GET", "/v2/health/ready", answer={1: ("ready", bool)}, status_only=True)
HEALTH_CHECK = Operation(
    "Check",
    "",
    "",
    {1: ("service", str)},
    {1: ("status", ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"))},
    service="/grpc.health.v1.Health/",
)
MODEL_READY = Operation("ModelReady", "GET", "{model}/ready", _MODEL, {1: ("ready", bool)}, status_only=True)
MODEL_METADATA = Operation(
    "ModelMetadata",
    "GET",
    "{model}",
    _MODEL,
    {
        1: ("name", str),
        2: ("versions", [str]),
        3: ("platform", str),
        4: ("inputs", [TENSOR]),
        5: ("outputs", [TENSOR]),
    },
)
MODEL_CONFIG = Operation(
    "ModelConfig", "GET", "{model}/config", _MODEL, {1: ("config", CONFIG)}, inside="config", optional=True
)
MODEL_STATISTICS = Operation(
    "ModelStatistics",
    "GET",
    "{model}/stats",
    _MODEL,
    {1: ("model_stats", [STATISTICS])},
    optional=True,
    path_of_all="/v2/models/stats",
)
REPOSITORY_INDEX = Operation(
    "RepositoryIndex",
    "POST",
    "/v2/repository/index",
    {1: ("repository_name", str), 2: ("ready", bool)},
    {1: ("models", [{1: ("name", str), 2: ("version", str), 3: ("state", str), 4: ("reason", str)}])},
    listed="models",
    optional=True,
)
MEMORY_STATUS = Operation(
    "SystemSharedMemoryStatus",
    "GET",
    "/v2/systemsharedmemory/region/{name}/status",
    _NAME,
    {1: ("regions", MapOf({1: ("name", str), 2: ("key", str), 3: ("offset", int), 4: ("byte_size", int)}))},
    listed="regions",
    optional=True,
    path_of_all="/v2/systemsharedmemory/status",
)
REGISTER_MEMORY = Operation(
    "SystemSharedMemoryRegister",
    "POST",
    "/v2/systemsharedmemory/region/{name}/register",
    {1: ("name", str), 2: ("key", str), 3: ("offset", int), 4: ("byte_size", int)},
    optional=True,
)
UNREGISTER_MEMORY = Operation(
    "SystemSharedMemoryUnregister",
    "POST",
    "/v2/systemsharedmemory/region/{name}/unregister",
    _NAME,
    optional=True,
    path_of_all="/v2/systemsharedmemory/unregister",
)
CUDA_MEMORY_STATUS = Operation(
    "CudaSharedMemoryStatus",
    "GET",
    "/v2/cudasharedmemory/region/{name}/status",
    _NAME,
    {1: ("regions", MapOf({1: ("name", str), 2: ("device_id", int), 3: ("byte_size", int)}))},
    listed="regions",
    optional=True,
    path_of_all="/v2/cudasharedmemory/status",
)
REGISTER_CUDA_MEMORY = Operation(
    "CudaSharedMemoryRegister",
    "POST",
    "/v2/cudasharedmemory/region/{name}/register",
    {1: ("name", str), 2: ("raw_handle", bytes), 3: ("device_id", int), 4: ("byte_size", int)},
    optional=True,
)
UNREGISTER_CUDA_MEMORY = Operation(
    "CudaSharedMemoryUnregister",
    "POST",
    "/v2/cudasharedmemory/region/{name}/unregister",
    _NAME,
    optional=True,
    path_of_all="/v2/cudasharedmemory/unregister",
)
MODEL_INFER = Operation("ModelInfer", "POST", "{model}/infer", _MODEL)
"""``grpc_server`` and ``http_server`` read its contents."""
MODEL_STREAM_INFER = Operation("ModelStreamInfer", "", "")

OPERATIONS = (
    MODEL_INFER,
    MODEL_STREAM_INFER,
    SERVER_METADATA,
    SERVER_LIVE,
    SERVER_READY,
    HEALTH_CHECK,
    MODEL_READY,
    MODEL_METADATA,
    MODEL_CONFIG,
    MODEL_STATISTICS,
    REPOSITORY_INDEX,
    MEMORY_STATUS,
    REGISTER_MEMORY,
    UNREGISTER_MEMORY,
    CUDA_MEMORY_STATUS,
    REGISTER_CUDA_MEMORY,
    UNREGISTER_CUDA_MEMORY,
)
BY_METHOD: Mapping[str, Operation] = MappingProxyType({one.method: one for one in OPERATIONS})
"""By ``grpc.server.Call.method``."""


class NoRoute(ValueError):
    """No operation has this path and verb.  The text is one line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        """HTTP's status: 404, or 405 if the path has another verb."""


class Route(NamedTuple):
    operation: Operation
    named: Mapping[str, str]
    """The arguments in the path."""


def route(verb: str, target: str) -> Route:
    """The operation of a request over HTTP.  Raises ``NoRoute``."""
    return (_route if len(target) <= _LONGEST_REMEMBERED else _route.__wrapped__)(verb, target)


@lru_cache(1024)
def _route(verb: str, target: str) -> Route:
    steps = target.partition("?")[0].rstrip("/").split("/")
    verbs = []
    for pattern, operation in _PATTERNS:
        if len(pattern) != len(steps) or any(
            one != step and one[:1] != "{" for one, step in zip(pattern, steps, strict=True)
        ):
            continue
        named = {one[1:-1]: unquote(step) for one, step in zip(pattern, steps, strict=True) if one[:1] == "{"}
        if not all(named.values()):
            continue
        if operation.verb == verb:
            return Route(operation, MappingProxyType(named))
        verbs.append(operation.verb)
    shown = one_line(target, 100)
    if verbs:
        raise NoRoute(405, f"{verb} {shown}: use {verbs[0]}")
    raise NoRoute(404, f"{shown}: not found")


def _patterns() -> Sequence[tuple[list[str], Operation]]:
    """Paths with fewer arguments first, so that a literal step takes precedence over an argument."""
    models = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
    found = [
        (path.replace("{model}", model).split("/"), operation)
        for operation in OPERATIONS
        for path in filter(None, (operation.path, operation.path_of_all))
        for model in (models if "{model}" in path else ("",))
    ]
    return sorted(found, key=lambda one: sum(step[:1] == "{" for step in one[0]))


_PATTERNS = _patterns()
