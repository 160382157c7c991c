"""Backends: each loads a model for a device and runs batches.  One file each, found here by name.

A backend refuses what it cannot do: it never falls back silently from the GPU to the CPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy.typing as npt

from drumfire.sut.models.model import Form

BACKENDS = {
    "onnxruntime": "drumfire.sut.local.backends.onnxruntime",
    "pytorch": "drumfire.sut.local.backends.pytorch",
    "tf": "drumfire.sut.local.backends.tensorflow",
    "tflite": "drumfire.sut.local.backends.tflite",
    "tvm-onnx": "drumfire.sut.local.backends.tvm_onnx",
    "tvm-pytorch": "drumfire.sut.local.backends.tvm_pytorch",
}
DEVICES = ("cpu", "gpu")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
COMPILE_MODES = ("default", "max-autotune")
MAX_BATCH_SIZE = 32
"""The largest batch unless the user sets another size."""


class BackendError(RuntimeError):
    """A backend or model that cannot be used.  The text is one line and names the fix."""


class Tuning(NamedTuple):
    """How a backend computes."""

    max_batch_size: int = MAX_BATCH_SIZE
    """The largest batch that ``run`` will receive: backends with fixed batch sizes prepare sizes up to it."""
    precision: str = "fp32"
    """The precision of the computation; samples and outputs keep their types.  One of ``PRECISIONS``."""
    compile: str | None = None
    """One of ``COMPILE_MODES``; None runs the network operation by operation, where a backend offers both."""


class Backend(Protocol):
    """A loaded model.  One thread runs it at a time."""

    @property
    def description(self) -> str:
        """What actually computes: library and provider, precision, and the sizes that batches are padded to."""

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """Shape of one sample, without the batch; None where the model takes any size.

        A backend that runs channels last gives (height, width, channels) for a model whose data is (channels, height,
        width); the library must then lay its samples channels last in memory.
        """

    @property
    def sample_dtype(self) -> npt.DTypeLike: ...

    @property
    def fixed_batch_size(self) -> int | None:
        """The only batch size that the model takes; None for any."""

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        """Compute a batch of shape (n, *sample_shape); returns all outputs, each of shape (n, ...)."""

    def close(self) -> None: ...


class _BackendModule(Protocol):
    DISTRIBUTIONS: Sequence[str]
    """The packages whose versions a result records."""
    FORM: Form
    """The form of model files that it takes."""
    EXTRAS: Mapping[str, str]
    """The devices that it runs on, each with the pip extra that installs it for the device."""
    PRECISIONS: Sequence[str]
    COMPILE_MODES: Sequence[str]

    def load(self, model: Path, device: str, threads: int, tuning: Tuning) -> Backend: ...


def load(backend: str, model: Path, device: str, threads: int, tuning: Tuning | None = None) -> Backend:
    """Load the model file on ``device`` (cpu or gpu) with ``threads`` threads.  Raises ``BackendError``."""
    module, tuning = _module(backend), tuning or Tuning()
    check(backend, device, tuning)
    if not model.exists():
        raise BackendError(f"no such model file: {model}")
    return module.load(model, device, threads, tuning)


def check(backend: str, device: str, tuning: Tuning) -> None:
    """Check that the backend offers the device and the tuning.  Raises ``BackendError``."""
    module = _module(backend)
    if device not in module.EXTRAS:
        others = [name for name in BACKENDS if device in _module(name).EXTRAS]
        raise BackendError(
            f"{backend} runs on the {' or '.join(module.EXTRAS)} only: leave {device} out, or run on "
            f"{' or '.join(others)}"
        )
    if tuning.precision not in module.PRECISIONS:
        raise BackendError(
            f"{backend} computes in {' or '.join(module.PRECISIONS)}, not in {tuning.precision}: leave --precision "
            "out, or pass a file of that precision with --weights"
        )
    if tuning.compile is not None and tuning.compile not in module.COMPILE_MODES:
        others = [name for name in BACKENDS if _module(name).COMPILE_MODES]
        raise BackendError(f"{backend} has no compile modes: leave --compile out, or run on {' or '.join(others)}")
    if tuning.precision == "tf32" and device == "cpu":
        raise BackendError("tf32 is a precision of GPUs: leave --precision out, or run on the gpu")


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


def first_line(error: Exception) -> str:
    """A framework's error message without the pages of advice that some add."""
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__


def _module(backend: str) -> _BackendModule:
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; available: {', '.join(BACKENDS)}, null")
    return cast(_BackendModule, importlib.import_module(BACKENDS[backend]))
