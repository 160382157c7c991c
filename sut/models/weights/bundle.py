"""Weights that come with the package as our own ONNX files, and their other forms, made when needed.

Does not depend on any particular model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from drumfire.sut.models.model import Form
from drumfire.sut.models.tensors import Tensors

if TYPE_CHECKING:
    from torch import nn

DATA = Path(__file__).parents[1] / "data"


def comes_as(name: str, form: Form) -> bool:
    """Whether the package holds the model's weights in this form."""
    return (DATA / name).with_suffix(form.value).exists()


def in_form(weights: Path, form: Form, cache: Path, network: Callable[[], nn.Module], tensors: Tensors) -> Path:
    """The weights in a form: the file of that form beside ``weights`` if bundled, else one made once in ``cache``.

    ``weights`` is the bundled ONNX file; ``network`` builds the architecture that it was exported from.  Raises
    ``MissingExtra``.
    """
    beside = weights.with_suffix(form.value)
    if beside.exists():
        return beside
    from drumfire.sut.models.weights import forms, onnx_state

    def filled() -> nn.Module:
        empty = network().eval()
        onnx_state.fill(empty, weights)
        return empty

    extra = "pytorch" if form is Form.TORCH else "vision"
    return forms.exported(weights, weights.stem, form, cache, filled, tensors, extra)
