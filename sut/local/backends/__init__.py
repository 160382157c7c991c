"""Backends: each loads a model for a device and runs batches.  One file each, found here by name.

A backend refuses what it cannot do: it never falls back silently from the GPU to the CPU.
"""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import check_file
from drumfire.loadgen.options import option
from drumfire.loadgen.system import Batch
from drumfire.sut.models.model import Form, Model, Refused
from drumfire.sut.models.tensors import Tensors
from drumfire.sut.plugins import Registry, must_be_options, must_have

BACKENDS = Registry(
    "drumfire.backends",
    {
        "onnxruntime": "drumfire.sut.local.backends.onnxruntime",
        "pytorch": "drumfire.sut.local.backends.pytorch",
        "tf": "drumfire.sut.local.backends.tensorflow",
        "tflite": "drumfire.sut.local.backends.tflite",
        "tvm-onnx": "drumfire.sut.local.backends.tvm_onnx",
        "tvm-pytorch": "drumfire.sut.local.backends.tvm_pytorch",
    },
    lambda found: _admitted(found),
)
"""The module of each backend, with what ``BackendModule`` names."""
DEVICES = ("cpu", "gpu")
DEVICE_ALIASES = {"cuda": "gpu"}
"""Other words for a device."""
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
MAX_BATCH_SIZE = 32
"""The largest batch unless the user sets another size."""
MOST_LANES = 2
"""Batches of an instance that are under way at a time, see ``HasLanes``: one is computed, another gathered or copied.
"""


class BackendError(UserError, RuntimeError):
    """A backend or model that cannot be used.  The text is one line and names the fix."""


class InputRefused(ABC):  # noqa: B024 - it has no methods
    """What a model raises that refuses the values of its inputs.  Backends register the kinds of their frameworks."""


def _unchanged(tensors: Tensors) -> Tensors:
    return tensors


@dataclass(frozen=True)
class BackendOptions:
    """The options of every backend; one that has more declares them in its own file."""

    TITLE: ClassVar = "model on this machine"

    threads: int | None = option(None, most=4096, help="threads of the model (default: all cores but one)")
    instances: int = option(1, most=1024, help="copies of the model that work side by side")
    max_batch_size: int = MAX_BATCH_SIZE
    """The largest batch that ``run`` will receive: backends with fixed batch sizes prepare sizes up to it."""
    sized: Callable[[Tensors], Tensors] = _unchanged
    """The file's tensors with the sizes that samples will have, for backends that compile for fixed ones."""
    padded_sizes: tuple[int, ...] = ()
    """To which sizes samples of open sizes will be padded, ascending; () for any."""


@dataclass(frozen=True)
class PrecisionOptions(BackendOptions):
    """The options of a backend that computes in more than one precision."""

    precision: str = option(
        "fp32",
        metavar="KIND",
        choices=PRECISIONS,
        help="what it computes in; samples and outputs keep their types: fp32 (default), tf32 (on GPUs), bf16 and fp16 "
        "(pytorch)",
    )


Run = Callable[[Batch], Sequence[npt.NDArray[Any]]]


class Backend(Protocol):
    """A loaded model.  One thread runs it at a time."""

    @property
    def description(self) -> str:
        """What actually computes: library and provider, precision, and the sizes that batches are padded to."""

    @property
    def tensors(self) -> Tensors:
        """What the model takes and gives, by name.

        A backend that runs channels last gives (height, width, channels) for an input whose data is (channels, height,
        width); the library must then lay its samples channels last in memory.
        """

    def run(self, batch: Batch) -> Sequence[npt.NDArray[Any]]:
        """Compute a batch: for each input an array of shape (n, *sample_shape).

        Returns the outputs in the order of ``tensors.outputs``, each of shape (n, ...).
        """

    def close(self) -> None: ...


@runtime_checkable
class RunsSeveral(Protocol):
    """What a ``Backend`` may have too: it runs several batches of one size in arrays of its own."""

    def room(self, size: int, number: int) -> Batch | None:
        """Where to put the samples of so many batches, by input; None where ``run`` does as well."""

    def several(self, samples: Batch, size: int, number: int) -> Iterator[Sequence[npt.NDArray[Any]]] | None:
        """Compute the batches that follow each other in ``samples``, which lie in the room or not.

        Gives each batch's outputs, computed as they are asked for; those of the last call may be filled anew.  None for
        what ``run`` alone can take.
        """


@runtime_checkable
class HasLanes(Protocol):
    """What a ``Backend`` may have too: it takes a batch while it computes another, which comes from another thread."""

    beside: Sequence[Backend]
    """Others on the same loaded model, each for a thread of its own; closed with this one."""

    def room(self, size: int, number: int = 1) -> Batch | None:
        """Arrays for the samples of a batch, from which ``run`` takes them without a copy; None if it has none.

        A thread fills them anew after the batch is answered.  ``number``: of several batches, see ``RunsSeveral``.
        """


def lanes(backend: Backend) -> list[Backend]:
    """The backend, and those beside it; see ``HasLanes``."""
    return [backend, *backend.beside] if isinstance(backend, HasLanes) else [backend]


class BackendModule(Protocol):
    """What a backend's file has."""

    DISTRIBUTIONS: Sequence[str]
    """The packages whose versions a result records."""
    FORM: Form
    """The form of model files that it takes."""
    # A backend may have IMPORTS too: the modules that it imports, by the package that brings each; see ``lacking``.
    EXTRAS: Mapping[str, str]
    """The devices that it runs on, each with the pip extra that installs it for the device."""
    PRECISIONS: Sequence[str]
    OPTIONS: type[BackendOptions]

    def load(self, model: Path, device: str, threads: int, options: Any) -> Backend:
        """``options`` is an instance of ``OPTIONS``."""


def _admitted(found: Any) -> Any:
    must_have(found, BackendModule)
    must_be_options(found.OPTIONS, BackendOptions)
    if not (isinstance(found.FORM, Form) and isinstance(found.EXTRAS, Mapping) and found.EXTRAS and found.PRECISIONS):
        raise TypeError("FORM, EXTRAS or PRECISIONS is not as BackendModule has it")
    return found


def load(backend: str, model: Path, device: str, threads: int, options: BackendOptions | None = None) -> Backend:
    """Load the model file on ``device`` (cpu or gpu) with ``threads`` threads.  Raises ``BackendError``.

    ``options``: of the backend's own class (see ``kinds``); its ``threads`` do not count.
    """
    module = _module(backend)
    options = options or module.OPTIONS()
    check(backend, device, options)
    check_model(model)
    check_installed(backend, device)
    return module.load(model, device, threads, options)


def check_model(model: Path) -> None:
    """Check that there is something to load, now and without waiting.  Raises ``BackendError``."""
    if model.is_dir():  # which a backend of another package may take
        return
    try:
        check_file(model, "the model file", may_be_empty=False)
    except UserError as error:
        raise BackendError(str(error)) from None


def kinds() -> Mapping[str, type]:
    """The class of each backend's options."""
    return BACKENDS.options(BackendOptions)


def check(backend: str, device: str, options: BackendOptions) -> None:
    """Check that the backend offers the device and the precision.  Raises ``BackendError``."""
    module = _module(backend)
    if device not in module.EXTRAS:
        others = [name for name in BACKENDS.working() if device in _module(name).EXTRAS]
        raise BackendError(
            f"{backend} runs on the {' or '.join(module.EXTRAS)} only: leave {device} out, or run on "
            f"{' or '.join(others)}"
        )
    precision = getattr(options, "precision", module.PRECISIONS[0])
    if precision not in module.PRECISIONS:
        raise BackendError(
            f"{backend} computes in {' or '.join(module.PRECISIONS)}, not in {precision}: leave --precision out, or "
            "pass a file of that precision with --weights"
        )
    if precision == "tf32" and device == "cpu":
        raise BackendError("tf32 is a precision of GPUs: leave --precision out, or run on the gpu")


def check_takes(backend: str, model: Model) -> None:
    """Check that the backend runs the model on the model's own weights.  Raises ``BackendError``."""
    refused = refused_by(model)
    if backend in refused:
        others = [name for name in BACKENDS.working() if name not in refused]
        raise BackendError(f"{backend} does not run {model.name}: run it on {' or '.join(others)}")


def refused_by(model: Model) -> Sequence[str]:
    """The backends that do not run the model on its own weights; see ``Refused``."""
    return model.refused_by if isinstance(model, Refused) else ()


def check_installed(backend: str, device: str) -> None:
    """Check that the backend's packages are there, before weights are made for it.  Raises ``BackendError``."""
    absent = lacking(backend)
    if absent:
        need = f"{backend} needs {' and '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not installed"
        raise BackendError(f"{need}: {installation.command(extra(backend, device))}")


def lacking(backend: str) -> Sequence[str]:
    """The packages of the backend's ``IMPORTS`` that are not installed."""
    needed: Mapping[str, str] = getattr(_module(backend), "IMPORTS", {})
    return installation.lacking(needed)


def form(backend: str) -> Form:
    """The form of model files that the backend takes.  Raises ``BackendError`` for an unknown backend."""
    return _module(backend).FORM


def devices(backend: str) -> Sequence[str]:
    """Those of ``DEVICES`` that the backend runs on."""
    return tuple(_module(backend).EXTRAS)


def extra(backend: str, device: str = "cpu") -> str:
    """The pip extra that installs the backend for a device that it runs on."""
    return _module(backend).EXTRAS[device]


def precisions(backend: str) -> Sequence[str]:
    """Those of ``PRECISIONS`` that the backend computes in; the first is the default."""
    return _module(backend).PRECISIONS


def distributions(backend: str) -> Sequence[str]:
    """The packages whose versions a result of this backend records."""
    return _module(backend).DISTRIBUTIONS


_PLACE = re.compile(r"^.*Status Message: (?:/\S+:\d+ )?")
"""ONNX Runtime's node, and the line of its own sources, before what it has to say."""


def first_line(error: Exception) -> str:
    """A framework's error message without the pages of advice that some add."""
    text = str(error).strip().split("\n", 1)[0]
    return _PLACE.sub("", text)[:300] or type(error).__name__


def _module(backend: str) -> BackendModule:
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; available: {', '.join(BACKENDS)}, null")
    return cast(BackendModule, BACKENDS[backend])
