"""Describes a model on a server: its inputs and outputs, and how the server runs it.

Reads the answers of the metadata and configuration calls; does not depend on their transport.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from drumfire.sut.kserve.errors import ServerError, one_line
from drumfire.sut.kserve.messages.operations import MODEL_CONFIG, MODEL_METADATA, SERVER_METADATA
from drumfire.sut.kserve.messages.tensors import MOST_DIMENSIONS, ModelInterface, Shape, TensorError, TensorSpec
from drumfire.sut.remote.kserve.client import Client, Unsupported

_BINARY = "binary_tensor_data"
"""The extension's name.  Source: the "Binary tensor data extension" of Triton's protocol."""
_MOST_TENSORS = 4096
"""Inputs, or outputs, of a model: describing many more takes longer than a request may."""


@dataclass(frozen=True)
class Description:
    """A model on a server."""

    interface: ModelInterface
    server: str
    """Name and version of the server."""
    configuration: Mapping[str, Any] | None
    """Triton's model configuration; None if the server does not offer it."""
    takes_binary: bool = False
    """Whether the server says that it takes tensors as bytes; several servers do so without saying it."""

    @property
    def dynamic_batching(self) -> bool | None:
        """Whether the server forms batches; None if it does not offer the configuration."""
        return None if self.configuration is None else self.configuration.get("dynamic_batching") is not None

    @property
    def response_cache(self) -> bool:
        return bool(((self.configuration or {}).get("response_cache") or {}).get("enable"))


async def describe(client: Client, model: str, version: str = "") -> Description:
    """Ask the server about the model.  Raises ``ServerError`` if it has no such model or we cannot benchmark it."""
    names = {"name": model} | ({"version": version} if version else {})
    about = await client.ask(SERVER_METADATA)
    metadata = await client.ask(MODEL_METADATA, **names)
    try:
        configuration: Mapping[str, Any] | None = await client.ask(MODEL_CONFIG, **names)
    except Unsupported:
        configuration = None
    extensions = about.get("extensions")
    try:
        if configuration is not None and (configuration.get("model_transaction_policy") or {}).get("decoupled"):
            raise ServerError(
                f"model {model!r} is decoupled (any number of replies to a request), which cannot be benchmarked"
            )
        interface = _interface(metadata, configuration, model, version)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        text = str(error) if isinstance(error, TensorError) else f"{type(error).__name__}: {error}"
        raise ServerError(f"{client.endpoint}: the metadata of {model!r} is not usable: {text}") from None
    server = one_line(f"{about.get('name') or ''} {about.get('version') or ''}", 100)
    return Description(interface, server, configuration, isinstance(extensions, list) and _BINARY in extensions)


def _interface(
    metadata: Mapping[str, Any], configuration: Mapping[str, Any] | None, model: str, version: str
) -> ModelInterface:
    inputs, outputs = metadata.get("inputs") or [], metadata.get("outputs") or []
    for what, tensors in (("inputs", inputs), ("outputs", outputs)):
        if not isinstance(tensors, list) or not tensors:
            raise TensorError(f"it names no {what}")
        if len(tensors) > _MOST_TENSORS:
            raise TensorError(f"it names {len(tensors)} {what}; at most {_MOST_TENSORS} can be benchmarked")
        for tensor in tensors:
            _check(what[:-1], tensor)
        names = Counter(tensor["name"] for tensor in tensors)
        if len(names) < len(tensors):
            raise TensorError(f"it names the {what[:-1]} {one_line(names.most_common(1)[0][0], 60)!r} twice")
    if configuration is not None:
        max_batch_size = int(configuration.get("max_batch_size") or 0)
    else:
        # Without a configuration, infer it from the shapes: if all first dimensions are open, they are the batch.
        shapes = [_shape(tensor) for tensor in (*inputs, *outputs)]
        max_batch_size = 1 << 16 if all(shape[:1] == (-1,) and len(shape) > 1 for shape in shapes) else 0
    skipped = 1 if max_batch_size else 0
    optional = {one.get("name") for one in (configuration or {}).get("input") or () if one.get("optional")}

    def specs(described: Any, optional: Collection[str] = ()) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(each["name"], str(each["datatype"]), _shape(each)[skipped:], each["name"] in optional)
            for each in described
        )

    return ModelInterface(
        model,
        version,
        one_line(str(metadata.get("platform") or ""), 100),
        specs(inputs, optional),
        specs(outputs),
        max_batch_size,
    )


def _check(what: str, described: Any) -> None:
    """Raise ``TensorError`` unless an input or output is described as the protocol says."""
    name = described.get("name") if isinstance(described, Mapping) else None
    if not isinstance(name, str) or not name:
        raise TensorError(f"an {what} has no name")
    label = f"{what} {one_line(name, 60)!r}"
    if not described.get("datatype") or not isinstance(described.get("shape"), list):
        raise TensorError(f"{label} has no datatype or no shape")
    if len(described["shape"]) > MOST_DIMENSIONS:
        raise TensorError(f"{label} has {len(described['shape'])} dimensions; at most {MOST_DIMENSIONS} are possible")
    try:
        least = min(_shape(described), default=0)
    except (TypeError, ValueError):
        raise TensorError(f"{label} has a size that is not a number") from None
    if least < -1:
        raise TensorError(f"{label} has the size {least}; -1 is an open one")


def _shape(described: Mapping[str, Any]) -> Shape:
    return tuple(int(size) for size in described["shape"])
