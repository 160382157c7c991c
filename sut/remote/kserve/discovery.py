"""Describes a model on a server: its inputs and outputs, and how the server runs it.

Reads the answers of the metadata and configuration calls; does not depend on their transport.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.kserve.messages.operations import MODEL_CONFIG, MODEL_METADATA, SERVER_METADATA
from drumfire.sut.kserve.messages.tensors import ModelInterface, Shape, TensorError, TensorSpec
from drumfire.sut.remote.kserve.client import Client, Unsupported


@dataclass(frozen=True)
class Description:
    """A model on a server."""

    interface: ModelInterface
    server: str
    """Name and version of the server."""
    configuration: Mapping[str, Any] | None
    """Triton's model configuration; None if the server does not offer it."""

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
    if configuration is not None and (configuration.get("model_transaction_policy") or {}).get("decoupled"):
        raise ServerError(
            f"model {model!r} is decoupled (any number of replies to a request), which cannot be benchmarked"
        )
    try:
        interface = _interface(metadata, configuration, model, version)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        text = str(error) if isinstance(error, TensorError) else f"{type(error).__name__}: {error}"
        raise ServerError(f"{client.endpoint}: the metadata of {model!r} is not usable: {text}") from None
    return Description(interface, f"{about.get('name', '')} {about.get('version', '')}".strip(), configuration)


def _interface(
    metadata: Mapping[str, Any], configuration: Mapping[str, Any] | None, model: str, version: str
) -> ModelInterface:
    inputs, outputs = metadata["inputs"], metadata["outputs"]
    if not inputs or not outputs:
        raise TensorError("it names no inputs or no outputs")
    if configuration is not None:
        max_batch_size = int(configuration.get("max_batch_size") or 0)
    else:
        # Without a configuration, infer it from the shapes: if all first dimensions are open, they are the batch.
        shapes = [_shape(tensor) for tensor in (*inputs, *outputs)]
        max_batch_size = 1 << 16 if all(shape[:1] == (-1,) and len(shape) > 1 for shape in shapes) else 0
    skipped = 1 if max_batch_size else 0

    def specs(described: Any) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(str(each["name"]), str(each["datatype"]), _shape(each)[skipped:]) for each in described)

    return ModelInterface(
        model, version, str(metadata.get("platform", "")), specs(inputs), specs(outputs), max_batch_size
    )


def _shape(described: Mapping[str, Any]) -> Shape:
    return tuple(int(size) for size in described["shape"])
