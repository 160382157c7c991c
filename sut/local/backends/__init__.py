"""Backends: each loads a model for a device and runs batches.  One file each; found here by name.

A backend refuses what it can not do: asked for a GPU it never falls back to the CPU in silence.
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


class BackendError(RuntimeError):
    """A backend or model that can not be used.  The text is one line and names the mend."""


class Tuning(NamedTuple):
    """How a backend is to compute."""

    max_batch_size: int = 32
    """The largest batch that will be asked for: backends with fixed sizes make ready up to it."""
    precision: str = "fp32"
    """Of the computing; samples and outputs keep their types.  One of ``PRECISIONS``."""
    compile: str | None = None
    """One of ``COMPILE_MODES``; None runs the network operation by operation, where a backend can do either."""


class Backend(Protocol):
    """A loaded model.  One thread runs it at a time."""

    @property
    def description(self) -> str:
        """What really computes: library and provider, precision, and the sizes that batches are filled up to."""

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """Shape of one sample, without the batch; None where the model takes any size.

        (height, width, channels) where the model's data is (channels, height, width): the data is to be laid so in
        memory.
        """

    @property
    def sample_dtype(self) -> npt.DTypeLike: ...

    @property
    def fixed_batch_size(self) -> int | None:
        """The only batch size that the model takes; None where it takes any."""

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        """All outputs for a batch of shape (n, *sample_shape), each of shape (n, ...)."""

    def close(self) -> None: ...


class _BackendModule(Protocol):
    DISTRIBUTIONS: Sequence[str]
    """The packages whose versions belong in a result."""
    FORM: Form
    """The form in which it takes a model."""
    EXTRAS: Mapping[str, str]
    """The devices that it runs on, and the pip extra that brings it for each."""
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
    """See that the backend has what is asked for.  Raises ``BackendError``."""
    module = _module(backend)
    if device not in module.EXTRAS:
        can = [name for name in BACKENDS if device in _module(name).EXTRAS]
        raise BackendError(
            f"{backend} runs on the {' or '.join(module.EXTRAS)} only here: leave {device} out, or run on "
            f"{' or '.join(can)}"
        )
    if tuning.precision not in module.PRECISIONS:
        raise BackendError(
            f"{backend} computes in {' or '.join(module.PRECISIONS)}, not in {tuning.precision}: leave --precision "
            "out, or give a file of that precision with --weights"
        )
    if tuning.compile is not None and tuning.compile not in module.COMPILE_MODES:
        can = [name for name in BACKENDS if _module(name).COMPILE_MODES]
        raise BackendError(f"{backend} has no choice of compiling: leave --compile out, or run on {' or '.join(can)}")
    if tuning.precision == "tf32" and device == "cpu":
        raise BackendError("tf32 is a precision of GPUs: leave --precision out, or run on the gpu")


def form(backend: str) -> Form:
    """The form in which the backend takes a model.  Raises ``BackendError`` for an unknown one."""
    return _module(backend).FORM


def devices(backend: str) -> Sequence[str]:
    """What the backend runs on: of ``DEVICES``."""
    return tuple(_module(backend).EXTRAS)


def extra(backend: str, device: str = "cpu") -> str:
    """The pip extra that brings the backend for a device that it runs on."""
    return _module(backend).EXTRAS[device]


def precisions(backend: str) -> Sequence[str]:
    """What the backend can compute in; the first is the default."""
    return _module(backend).PRECISIONS


def distributions(backend: str) -> Sequence[str]:
    """The packages whose versions belong in a result of this backend."""
    return _module(backend).DISTRIBUTIONS


def first_line(error: Exception) -> str:
    """What a framework has to say, in one line: some add pages of advice."""
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__


def _module(backend: str) -> _BackendModule:
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; available: {', '.join(BACKENDS)}, null")
    return cast(_BackendModule, importlib.import_module(BACKENDS[backend]))
