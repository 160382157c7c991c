"""A backend and a model of another package: ONNX Runtime that waits before each batch, and the first digits.

The module is the backend, which an entry point ``patient`` of ``drumfire.backends`` names.  ``FewDigits`` is the model,
which ``few-digits`` of ``drumfire.models`` names.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.options import option
from drumfire.sut.local.backends import Backend, BackendOptions, onnxruntime
from drumfire.sut.models.digits import Digits

DISTRIBUTIONS, FORM, EXTRAS = onnxruntime.DISTRIBUTIONS, onnxruntime.FORM, {"cpu": "onnx-cpu"}
PRECISIONS = onnxruntime.PRECISIONS


@dataclass(frozen=True)
class PatientOptions(BackendOptions):
    """The options of this backend."""

    pause: float = option(1.0, metavar="MS", least=0, help="wait before each batch, ms")


OPTIONS = PatientOptions


class Patient:
    def __init__(self, backend: Backend, pause_ms: float) -> None:
        self._backend, self._pause_ms = backend, pause_ms
        self.description = f"{pause_ms:g} ms of patience, then {backend.description}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        time.sleep(self._pause_ms * 1e-3)
        return self._backend.run(batch)


def load(model: Path, device: str, threads: int, options: PatientOptions) -> Patient:
    return Patient(onnxruntime.load(model, device, threads, options), options.pause)


class FewDigits(Digits):
    """The first hundred of the digits."""

    name = "few-digits"
    total_count = 100
    target_latency_ms = 70
    quality_target = 0.9

    def labels(self) -> npt.NDArray[np.int64]:
        return super().labels()[: self.total_count]
