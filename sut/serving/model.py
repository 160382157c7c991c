"""A served model: its inputs and outputs, the backends that compute it, and its batching.

Depends on backends and named models, not on requests, threads or connections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import Batch
from drumfire.sut.kserve.messages.schemas import config_type
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec
from drumfire.sut.local import backends
from drumfire.sut.local.backends import Backend, BackendError, BackendOptions
from drumfire.sut.local.batcher import service_times
from drumfire.sut.local.rows import BatchRule
from drumfire.sut.models.model import Form, Model
from drumfire.sut.models.tensors import Feed, Input, Tensors
from drumfire.sut.serving.batch import BatchLayout
from drumfire.sut.serving.request import DEFAULT_PRIORITY, PRIORITIES
from drumfire.sut.serving.signature import signature

IDENTITY = "identity"
_QUICK_S = 250e-6


@dataclass(frozen=True)
class Batching:
    """The user's settings of batching."""

    max_size: int = backends.MAX_BATCH_SIZE
    max_delay_ns: int = 0
    preferred: tuple[int, ...] = ()


@dataclass
class ServedModel:
    """One version of a model, loaded."""

    interface: ModelInterface
    rule: BatchRule
    layout: BatchLayout
    device: str
    description: str
    """The backend, in words."""
    instances: Sequence[Backend]
    reload: Callable[[], Backend]
    """Loads another instance in place of a lost one.  Raises ``BackendError``."""
    inline: bool = False
    """The model costs less than waking a thread: the event loop computes it."""
    input: TensorSpec = field(init=False)
    """The only input."""

    def __post_init__(self) -> None:
        (self.input,) = self.interface.inputs

    @property
    def name(self) -> str:
        return self.interface.name

    @property
    def version(self) -> str:
        return self.interface.version

    def metadata(self, versions: Sequence[str]) -> dict[str, Any]:
        """The answer to ModelMetadata; shapes include the batch."""
        interface = self.interface
        return {
            "name": interface.name,
            "versions": list(versions),
            "platform": interface.platform,
            "inputs": [_with_batch(spec) for spec in interface.inputs],
            "outputs": [_with_batch(spec) for spec in interface.outputs],
        }

    def configuration(self, versions: Sequence[str]) -> dict[str, Any]:
        """The answer to ModelConfig, in Triton's terms; shapes exclude the batch."""
        interface, rule = self.interface, self.rule
        kind = "KIND_GPU" if self.device == "gpu" else "KIND_CPU"
        return {
            "name": interface.name,
            "platform": interface.platform,
            "backend": interface.platform.partition("_")[0],
            "version_policy": {"specific": {"versions": [int(version) for version in versions]}},
            "max_batch_size": interface.max_batch_size,
            "input": [_configured(spec) for spec in interface.inputs],
            "output": [_configured(spec) for spec in interface.outputs],
            "dynamic_batching": {
                "preferred_batch_size": list(rule.preferred),
                "max_queue_delay_microseconds": rule.max_delay_ns // 1000,
                "priority_levels": PRIORITIES,
                "default_priority_level": DEFAULT_PRIORITY,
            },
            "instance_group": [
                {"name": f"{interface.name}_0", "kind": kind, "count": len(self.instances)}
                | ({"gpus": [0]} if self.device == "gpu" else {})
            ],
            "model_transaction_policy": {"decoupled": False},
        }

    def close(self) -> None:
        for instance in self.instances:
            instance.close()


def _with_batch(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": [-1, *spec.shape]}


def _configured(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": config_type(spec.datatype), "dims": list(spec.shape)}


class Identity:
    """Returns its input, in rows of any length: measures the cost of the server itself."""

    description = "returns its input"
    tensors = Tensors((Input("INPUT0", (None,), np.dtype(np.float32)),), ("OUTPUT0",))

    def run(self, batch: Batch) -> Sequence[npt.NDArray[Any]]:
        return [batch["INPUT0"]]

    def close(self) -> None:
        pass


def identity(name: str, version: str, batching: Batching) -> ServedModel:
    """The built-in model; its tensors have the names of Triton's own identity models."""
    takes, gives = (TensorSpec(one, "FP32", (-1,)) for one in ("INPUT0", "OUTPUT0"))
    interface = ModelInterface(name, version, IDENTITY, (takes,), (gives,), batching.max_size)
    layout = BatchLayout(Identity.tensors.inputs[0], channels_last=False)
    return ServedModel(
        interface, _rule(batching, batching.max_size), layout, "cpu", Identity.description, [Identity()], Identity,
        inline=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A model to load."""

    name: str
    """The name on the server."""
    version: str
    weights: Path
    model: Model | None
    """The named model that the weights belong to; None for a bare file."""


def load(
    source: Source, backend: str, device: str, *, threads: int, options: BackendOptions, batching: Batching
) -> ServedModel:
    """Load the instances of a model and run each once.

    Raises ``BackendError``, or ``OutputError``, if the model cannot be served.
    """

    def load_one() -> Backend:
        instance = backends.load(backend, source.weights, device, threads, options)
        _warm(instance, batching)
        return instance

    first = load_one()
    tensors, feeds = _on_the_wire(first, source)
    (takes,) = first.tensors.inputs
    layout = BatchLayout(takes, feeds[takes.name].moves_channels)
    max_size = takes.batch_size or batching.max_size
    loaded = [first, *(load_one() for _ in range(options.instances - 1))]
    platform = f"{backend}_{source.weights.suffix.lstrip('.') or 'model'}"
    inline = device == "cpu" and options.instances == 1 and _is_quick(first, max_size)
    return ServedModel(
        ModelInterface(source.name, source.version, platform, *signature(first, tensors), max_size),
        _rule(batching, max_size),
        layout,
        device,
        first.description + (", on the connections' own thread" if inline else ""),
        loaded,
        load_one,
        inline,
    )


def _rule(batching: Batching, max_size: int) -> BatchRule:
    """The rule of batching, without preferred sizes that the model cannot take."""
    preferred = tuple(size for size in batching.preferred if size <= max_size)
    return BatchRule(max_size, batching.max_delay_ns, preferred)


def _warm(backend: Backend, batching: Batching) -> None:
    """Run the largest batch once before the first request: libraries prepare for a size at its first use."""
    tensors = backend.tensors
    rows = tensors.batch_size or batching.max_size
    if tensors.has_open_sizes:
        return
    try:
        backend.run(tensors.zeros(rows))
    except Exception as error:  # whatever a framework may raise
        text = backends.first_line(error)
        raise BackendError(f"the model cannot run a batch of {rows}: {text}; see --max-batchsize") from None


def _is_quick(backend: Backend, rows: int) -> bool:
    """Whether the largest batch is so quick that a thread for it would cost more than it saves."""
    batch = backend.tensors.zeros(rows)
    # A slow model, which may take seconds, runs only once.
    return not backend.tensors.has_open_sizes and min(service_times(lambda: backend.run(batch), 0.02, 1)) < _QUICK_S


def _on_the_wire(backend: Backend, source: Source) -> tuple[Tensors, dict[str, Feed]]:
    """The tensors of requests and answers, and how each of the backend's inputs gets its samples from a request.

    Raises ``BackendError`` for a file that does not fit the named model's data.
    """
    file, model = backend.tensors, source.model
    if model is None:
        return file, {one.name: Feed(one.name, moves_channels=False) for one in file.inputs}
    feeds = file.feeds(model.tensors)
    if feeds is None:
        raise BackendError(
            f"{source.weights} takes {file}, but {model.name}'s data is {model.tensors}: serve the file under another "
            "name"
        )
    if source.weights.suffix != Form.ONNX.value:
        return model.tensors, feeds
    # An ONNX file has names of its own, and shapes that may be open where the model's are not.
    shown = {one.name: one for one in model.tensors.inputs}
    inputs = tuple(shown[feeds[one.name].name]._replace(name=one.name) for one in file.inputs)
    return Tensors(inputs, file.outputs), {name: feed._replace(name=name) for name, feed in feeds.items()}
