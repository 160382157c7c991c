"""Writes a PyTorch network in the form that a backend takes: chooses the exporter.

Does not depend on any particular model.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from drumfire.sut.models.model import Form, WeightsError, missing_extra
from drumfire.sut.models.tensors import Tensors
from drumfire.sut.models.weights import onnx_export, tflite_export, torch_export

if TYPE_CHECKING:
    from torch import nn

_COPIES = 3
"""The largest number of copies of the weights on the disk during an export."""


def export(network: nn.Module, tensors: Tensors, path: Path, form: Form) -> None:
    """Write ``network`` (in eval mode) to ``path``, replacing the file in one step.

    Raises ``ImportError`` for a missing package, and ``WeightsError`` if the file cannot be written or the form
    cannot be made.
    """

    def write(part: Path) -> None:
        if form is Form.TORCH:
            torch_export.export(network, tensors, part)
        elif form is Form.TFLITE:
            tflite_export.export(network, tensors, part)
        else:
            onnx_export.export(network, tensors, part)

    weights = sum(weights.numel() * weights.element_size() for weights in network.parameters())
    put(path, write, _COPIES * weights)


def put(path: Path, write: Callable[[Path], object], room: int) -> None:
    """Have ``write`` make a file, which takes ``room`` bytes on the disk meanwhile; it becomes ``path`` in one step.

    Raises ``WeightsError`` if the file cannot be written, and what ``write`` raises.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_room(room, path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            part = Path(folder, path.name)
            write(part)
            os.replace(part, path)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}; make room, or set MODEL_DIR") from None


def exported(
    source: Path, name: str, form: Form, cache: Path, network: Callable[[], nn.Module], tensors: Tensors, extra: str
) -> Path:
    """The export of ``network``, which holds the weights of ``source``; made once in ``cache``.

    Its file name holds the hash of ``source`` and the exporter.  Raises ``MissingExtra``, naming the pip extra
    ``extra``, and as ``export`` does.
    """
    try:
        digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
        path = cache / f"{name}-{digest}-{exporter(form)}{form.value}"
        if not path.exists():
            export(network(), tensors, path, form)
    except (ImportError, PackageNotFoundError) as error:
        raise missing_extra(f"{name} as {form.value}", error.name, extra) from None
    return path


def _check_room(needed: int, folder: Path) -> None:
    """Raise ``WeightsError`` now if the disk is too full, as exporting takes minutes and then fails in various ways."""
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
