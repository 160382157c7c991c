"""A served model: its inputs and outputs, the backends that compute it, and its batching.

Depends on backends and named models, not on requests, threads or connections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import Batch
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.ragged import Padding
from drumfire.sut.kserve.messages.schemas import config_type
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec
from drumfire.sut.local import backends
from drumfire.sut.local.backends import Backend, BackendError, BackendOptions
from drumfire.sut.local.backends.arranged import arranged
from drumfire.sut.local.batcher import service_times
from drumfire.sut.local.followed import followed, run
from drumfire.sut.local.rows import BatchRule
from drumfire.sut.models.model import Form, Model
from drumfire.sut.models.tensors import Input, Tensors
from drumfire.sut.serving.padding import RequestPadding
from drumfire.sut.serving.request import DEFAULT_PRIORITY, PRIORITIES
from drumfire.sut.serving.signature import Signature, changed_by_padding, signature
from drumfire.sut.serving.sizes import Sizes, specs

IDENTITY = "identity"
_QUICK_S = 250e-6


@dataclass(frozen=True)
class Batching:
    """The user's settings of batching."""

    max_size: int = backends.MAX_BATCH_SIZE
    max_delay_ns: int = 0
    preferred: tuple[int, ...] = ()
    padding: Padding | None = None
    """Of requests of different sizes; None: to the longest where the model says how to pad, else not at all."""


@dataclass
class ServedModel:
    """One version of a model, loaded."""

    interface: ModelInterface
    rule: BatchRule
    takes: Sequence[Input]
    """The inputs, as the backend takes them."""
    device: str
    description: str
    """The backend, in words."""
    instances: Sequence[Backend]
    reload: Callable[[], Backend]
    """Loads another instance in place of a lost one.  Raises ``BackendError``."""
    inline: bool = False
    """The model costs less than waking a thread: the event loop computes it."""
    padding: RequestPadding | None = None
    """None where requests of different sizes are computed apart."""

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
            "input": [_configured(spec) | ({"optional": True} if spec.optional else {}) for spec in interface.inputs],
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
    """The built-in model; its tensors have the names of Triton's own identity models.

    Raises ``BackendError`` for a rule of padding, as rows of any length share no batch here.
    """
    if batching.padding is not None:
        raise BackendError(f"--pad {batching.padding}: {IDENTITY} gives rows back as they are: leave it out")
    takes, gives = (TensorSpec(one, "FP32", (-1,)) for one in ("INPUT0", "OUTPUT0"))
    interface = ModelInterface(name, version, IDENTITY, (takes,), (gives,), batching.max_size)
    return ServedModel(
        interface, _rule(batching, batching.max_size), Identity.tensors.inputs, "cpu", Identity.description,
        [Identity()], Identity, inline=True,
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
    inputs: InputOptions = field(default_factory=InputOptions)
    """What the user says of a bare file's sizes."""


def load(
    source: Source, backend: str, device: str, *, threads: int, options: BackendOptions, batching: Batching
) -> ServedModel:
    """Load the instances of a model and run each once.

    Raises ``BackendError``, or ``OutputError``, if the model cannot be served.
    """

    sizes = Sizes(source.weights, source.inputs)
    if source.model is None:
        options = replace(options, sized=sizes)

    def load_plain() -> Backend:
        return backends.load(backend, source.weights, device, threads, options)

    def load_one() -> Backend:
        instance = arranged(load_plain(), found.tensors)
        run(instance, found.largest)
        return instance

    plain = load_plain()
    shown = _on_the_wire(plain.tensors, source, sizes)
    tensors = replace(plain.tensors, inputs=shown.takes)
    found = signature(plain, tensors, shown.outputs, batching.max_size, sizes.ranges)
    first = arranged(plain, found.tensors)
    padding = _padding(first, found, batching.padding, source)
    loaded = [first, *(load_one() for _ in range(options.instances - 1))]
    max_size = found.tensors.batch_size or batching.max_size
    is_simple = device == "cpu" and options.instances == 1 and not tensors.has_open_sizes
    inline = is_simple and _is_quick(first, found.largest)
    description = first.description
    if max_size < batching.max_size and tensors.batch_size is None:
        description += ", a sample at a time, as not all of its tensors have a batch"
    platform = f"{backend}_{source.weights.suffix.lstrip('.') or 'model'}"
    if padding is not None:
        description += f", {padding}"
    return ServedModel(
        ModelInterface(source.name, source.version, platform, shown.inputs, found.outputs, max_size),
        _rule(batching, max_size),
        found.tensors.inputs,
        device,
        description + (", on the connections' own thread" if inline else ""),
        loaded,
        load_one,
        inline,
        padding,
    )


def _padding(model: Backend, found: Signature, rule: Padding | None, source: Source) -> RequestPadding | None:
    """How requests are padded, by the user's rule or else by the model's own.  Raises ``BackendError``."""
    takes = found.tensors.inputs
    opened = {at: one.opened for at, one in enumerate(takes) if one.opened.axes}
    if rule is None:
        if not opened or any(one.padding is None for one in opened.values()) or found.tensors.batch_size == 1:
            return None
    elif not opened:
        raise BackendError(f"--pad {rule}: {source.name} takes samples of one size: leave it out")
    elif rule.sizes and (name := next((takes[at].name for at, one in opened.items() if len(one.axes) > 1), "")):
        raise BackendError(f"--pad {rule}: {name} has several open sizes, so only --pad longest is clear")
    names = [spec.name for spec in found.outputs]
    given, unknown = followed(model, found.tensors, found.sized, found.larger, names)
    if unknown:
        if rule is None:
            return None
        raise BackendError(
            f"--pad {rule}: the model's output {unknown!r} has a size that depends on its inputs' but is none of them, "
            "so answers could not be cut back to what was asked: leave --pad out"
        )

    def arrives(at: int, axis: int) -> int:
        return (axis + 1) % len(takes[at].sample_shape) if takes[at].channels_moved else axis

    axes = {at: [arrives(at, axis) for axis in one.axes] for at, one in opened.items()}
    follows = [{axis: place._replace(axis=arrives(*place)) for axis, place in output.items()} for output in given]
    changes = any(one.padding is None for one in opened.values()) and changed_by_padding(model, found)
    return RequestPadding(rule or Padding(), axes, follows, changes=changes)


def _rule(batching: Batching, max_size: int) -> BatchRule:
    """The rule of batching, without preferred sizes that the model cannot take."""
    preferred = tuple(size for size in batching.preferred if size <= max_size)
    return BatchRule(max_size, batching.max_delay_ns, preferred)


def _is_quick(backend: Backend, batch: Batch) -> bool:
    """Whether the largest batch is so quick that a thread for it would cost more than it saves."""
    # A slow model, which may take seconds, runs only once.
    return min(service_times(lambda: backend.run(batch), 0.02, 1)) < _QUICK_S


class _Shown(NamedTuple):
    """A model as requests and answers have it."""

    inputs: tuple[TensorSpec, ...]
    takes: tuple[Input, ...]
    """As the backend takes them; the sizes of samples are known where the named model's are."""
    outputs: tuple[str, ...]
    """Their names."""


def _on_the_wire(file: Tensors, source: Source, sizes: Sizes) -> _Shown:
    """Raises ``BackendError`` for a file that does not fit the named model's data, or takes what cannot be sent."""
    if source.model is None:
        return _of_bare(file, sizes)
    model = source.model
    if not model.tensors.has_batch:
        file = file.without_batch()
    feeds = file.feeds(model.tensors)
    if feeds is None:
        raise BackendError(
            f"{source.weights} takes {file}, but {model.name}'s data is {model.tensors}: serve the file under another "
            "name"
        )
    data = {one.name: one for one in model.tensors.inputs}
    own = [one for one in file.inputs if one.name in feeds]
    inputs = [data[feeds[one.name].name] for one in own]
    takes = []
    for one, shown in zip(own, inputs, strict=True):
        shape, moved = shown.sample_shape, feeds[one.name].moves_channels
        taken = (*shape[1:], shape[0]) if moved else shape
        takes.append(one._replace(sample_shape=taken, padding=shown.padding, channels_moved=moved))
    outputs = model.tensors.outputs
    if source.weights.suffix == Form.ONNX.value:  # which has names of its own, that other servers use too
        inputs = [shown._replace(name=one.name) for one, shown in zip(own, inputs, strict=True)]
        outputs = file.outputs
    return _Shown(specs(Tensors(tuple(inputs)), source.weights), tuple(takes), outputs)


def _of_bare(file: Tensors, sizes: Sizes) -> _Shown:
    """A file without a named model is shown as it is, but for sizes that the user fixes."""
    shown = sizes(file.as_in_file)
    return _Shown(specs(shown, sizes.weights), shown.laid_out_as(file).inputs, file.outputs)
