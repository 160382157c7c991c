"""Weights that come with the package as our own ONNX file, in the other forms that backends take.

Knows the cache and how the forms are made; must not know any one model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.sut.models.model import Form, MissingExtra

if TYPE_CHECKING:
    from torch import nn

_DATA = Path(__file__).parent / "data"


def comes_as(name: str, form: Form) -> bool:
    """Whether the package holds the model's weights in this form."""
    return (_DATA / name).with_suffix(form.value).exists()


def in_form(
    weights: Path,
    form: Form,
    cache: Path,
    network: Callable[[], nn.Module],
    sample_shape: tuple[int, ...],
    *,
    outputs: Sequence[str] = ("logits",),
    dtype: npt.DTypeLike = np.float32,
) -> Path:
    """The file ``weights`` itself for ONNX, else one that comes beside it, else one made of it in ``cache``, once.

    ``network`` builds the architecture that ``weights`` was exported from.  Raises ``MissingExtra``.
    """
    beside = weights.with_suffix(form.value)
    if beside.exists():
        return beside
    from drumfire.sut.models.weights import forms, onnx_state

    try:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
        path = cache / f"{weights.stem}-{digest}-{forms.exporter(form)}{form.value}"
        if not path.exists():
            filled = network().eval()
            onnx_state.fill(filled, weights)
            forms.export(filled, sample_shape, path, form, outputs=outputs, dtype=dtype)
    except (ImportError, PackageNotFoundError) as error:
        needs = error.name or "a package"
        extra = forms.extra_with(error.name, "vision")
        raise MissingExtra(
            f"{weights.stem} as {form.value} needs {needs}, which is not installed: {installation.command(extra)}"
        ) from None
    return path
