"""Writes a PyTorch network in the form that a backend takes: chooses the exporter.

Does not depend on any particular model.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from drumfire.sut.models.model import Form, WeightsError
from drumfire.sut.models.weights import onnx_export, tflite_export, torch_export

if TYPE_CHECKING:
    from torch import nn

_COPIES = 3
"""The largest number of copies of the weights on the disk during an export."""


def export(
    network: nn.Module,
    sample_shape: tuple[int, ...],
    path: Path,
    form: Form,
    *,
    outputs: Sequence[str] = ("logits",),
    dtype: npt.DTypeLike = np.float32,
) -> None:
    """Write ``network`` (in eval mode), which takes (N, *sample_shape), in one step.

    Raises ``ImportError`` for a missing package, and ``WeightsError`` if the file cannot be written or the form
    cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_room(network, path.parent)
        if form is Form.TORCH:
            torch_export.export(network, sample_shape, path, dtype=dtype)
        elif form is Form.TFLITE:
            tflite_export.export(network, sample_shape, path, outputs=outputs, dtype=dtype)
        else:
            onnx_export.export(network, sample_shape, path, outputs=outputs, dtype=dtype)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}; make room, or set MODEL_DIR") from None


def _check_room(network: nn.Module, folder: Path) -> None:
    """Raise ``WeightsError`` now if the disk is too full, as exporting takes minutes and then fails in various ways."""
    needed = _COPIES * sum(weights.numel() * weights.element_size() for weights in network.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WeightsError(
            f"{folder} has {free / 1e6:.0f} MB free, and exporting the network takes {needed / 1e6:.0f} MB: make room, "
            "or set MODEL_DIR to another disk"
        )


def exporter(form: Form) -> str:
    """The exporter of this form with its version, for file names.  Raises ``PackageNotFoundError``."""
    torch = f"torch{version('torch')}"
    if form is Form.TORCH:
        return torch
    if form is Form.TFLITE:
        return f"{torch}-{tflite_export.exporter()}"
    return f"{torch}-opset{onnx_export.OPSET}"
