"""Weights that come with the package as our own ONNX files, and their other forms, made when needed.

Does not depend on any particular model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from drumfire.sut.models.model import Form, missing_extra

if TYPE_CHECKING:
    from torch import nn

DATA = Path(__file__).parents[1] / "data"


def comes_as(name: str, form: Form) -> bool:
    """Whether the package holds the model's weights in this form."""
    return (DATA / name).with_suffix(form.value).exists()


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
    """The weights in a form: the file of that form beside ``weights`` if bundled, else one made once in ``cache``.

    ``weights`` is the bundled ONNX file; ``network`` builds the architecture that it was exported from.  Raises
    ``MissingExtra``.
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
        raise missing_extra(f"{weights.stem} as {form.value}", error.name, "vision") from None
    return path
