"""A PyTorch network written in the form that a backend takes.

Knows which exporter makes which form; must not know any one model.
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
"""Of the weights, that lie on the disk while they are exported, at most."""


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

    Raises ``ImportError`` for what lacks, ``WeightsError`` where the file can not be kept or the form not be had.
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
    """Before minutes of exporting: the exporters' own errors of a full disk are of any kind."""
    needed = _COPIES * sum(one.numel() * one.element_size() for one in network.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WeightsError(
            f"{folder} has {free / 1e6:.0f} MB free, and exporting the network takes {needed / 1e6:.0f} MB: make room, "
            "or set MODEL_DIR to another disk"
        )


def exporter(form: Form) -> str:
    """What makes this form, with its version, for the names of files.  ``PackageNotFoundError`` where it lacks."""
    torch = f"torch{version('torch')}"
    if form is Form.TORCH:
        return torch
    if form is Form.TFLITE:
        return f"{torch}-{tflite_export.exporter()}"
    return f"{torch}-opset{onnx_export.OPSET}"


def extra_with(package: str | None, usual: str | None) -> str:
    """The pip extra that brings a missing package; ``usual`` is the model's own."""
    return "tflite-export" if package and package.startswith("tensorflow") else usual or "vision"
