"""Backends: each loads a model for a device and runs batches.  One file each; found here by name.

A backend refuses what it can not do: asked for a GPU it never falls back to the CPU in silence.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy.typing as npt

BACKENDS = {"onnxruntime": "sut.backends.onnxruntime"}
PLANNED = ("pytorch", "tf", "tflite", "tvm-onnx", "tvm-pytorch")
DEVICES = ("cpu", "gpu")


class BackendError(RuntimeError):
    """A backend or model that can not be used.  The text is one line and names the mend."""


class Backend(Protocol):
    """A loaded model.  One thread runs it at a time."""

    description: str
    """What really computes: library and provider."""
    sample_shape: tuple[int | None, ...]
    """Shape of one sample, without the batch; None where the model takes any size."""
    sample_dtype: npt.DTypeLike
    fixed_batch_size: int | None
    """The only batch size that the model takes; None where it takes any."""

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        """All outputs for a batch of shape (n, *sample_shape), each of shape (n, ...)."""

    def close(self) -> None: ...


class _BackendModule(Protocol):
    DISTRIBUTIONS: Sequence[str]

    def load(self, model: Path, device: str, threads: int) -> Backend: ...


def load(backend: str, model: Path, device: str, threads: int) -> Backend:
    """Load the model file on ``device`` (cpu or gpu) with ``threads`` threads.  Raises ``BackendError``."""
    return _module(backend).load(model, device, threads)


def distributions(backend: str) -> Sequence[str]:
    """The packages whose versions belong in a result of this backend."""
    return _module(backend).DISTRIBUTIONS


def _module(backend: str) -> _BackendModule:
    if backend in PLANNED:
        raise BackendError(
            f"backend {backend!r} is not part of this version yet; available: {', '.join(BACKENDS)}, null"
        )
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; available: {', '.join(BACKENDS)}, null")
    return cast(_BackendModule, importlib.import_module(BACKENDS[backend]))
