"""What the user says of a file's open sizes: those that are fixed, those that are drawn, and those that remain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drumfire.sut.data.inputs import InputError
from drumfire.sut.data.options import InputOptions
from drumfire.sut.kserve.messages.tensors import TensorError
from drumfire.sut.models.fitted import Fitted, fitted
from drumfire.sut.models.tensors import Input, Tensors

F4 = np.dtype(np.float32)
IMAGE = Tensors((Input("x", (3, None, None), F4, dims=("", "H", "W")), Input("y", (None,), F4)), ("z",), "N")


def fit(*, file: Tensors = IMAGE, dim: tuple[str, ...] = (), shape: tuple[str, ...] = ()) -> Fitted:
    return fitted(Path("m.onnx"), file, InputOptions(dim=dim, shape=shape))


def test_sizes_are_fixed_or_drawn_or_remain_open() -> None:
    made = fit(dim=("H=8",), shape=("x=3x8x4..9",))
    assert [one.sample_shape for one in made.tensors.inputs] == [(3, 8, None), (None,)]
    assert made.ranges == {"x": {2: (4, 9)}}
    assert [spec.name for spec in made.chosen.open] == ["y"]
    assert made.file is IMAGE


def test_a_named_batch_is_a_size_of_the_sample() -> None:
    made = fit(dim=("N=2", "W=5"))
    assert [one.sample_shape for one in made.tensors.inputs] == [(2, 3, None, 5), (2, None)]
    assert not made.file.has_batch


def test_what_the_file_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="--dim D=2: the model has the open sizes H, W, and N for its batch"):
        fit(dim=("D=2",))
    with pytest.raises(TensorError):
        fit(file=Tensors((Input("c", (2,), np.dtype(np.complex64)),), ("z",)))
