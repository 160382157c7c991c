"""Small ONNX files of every kind, on onnxruntime: what they take, and what comes out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drumfire.loadgen.system import Batch
from drumfire.sut.data.inputs import InputError
from drumfire.sut.data.options import InputOptions
from drumfire.sut.local import backends
from drumfire.sut.local.backends.arranged import arranged, with_outputs
from drumfire.sut.models.file import FileModel
from tests.support.onnx_file import write_identity

pytest.importorskip("onnxruntime")
FILES = Path(__file__).parents[3] / "data" / "onnx"


def loaded(name: str) -> backends.Backend:
    """The file's backend, with open sizes of 5."""
    backend = backends.load("onnxruntime", FILES / f"{name}.onnx", "cpu", 1)
    inputs = tuple(
        one._replace(sample_shape=tuple(size or 5 for size in one.sample_shape)) for one in backend.tensors.inputs
    )
    return arranged(backend, with_outputs(backend, replace(backend.tensors, inputs=inputs)))


@pytest.mark.parametrize(
    ("name", "takes", "largest", "axes"),
    [
        ("two_inputs", "input_ids int64 of shape [sequence], attention_mask int64 of shape [sequence]", None, (0,)),
        ("open_image", "float32 of shape [3, height, width]", None, (0,)),
        ("text_length", "int32 of shape [sequence]", None, (0,)),
        ("bool", "bool of shape [4]", None, (0,)),
        ("string", "text of shape [4]", None, (0,)),
        ("bfloat16", "bfloat16 of shape [4]", None, (0,)),
        ("float16", "float16 of shape [4]", None, (0,)),
        ("uint8", "uint8 of shape [4]", None, (0,)),
        ("scalar_output", "float32 of shape [4]", 1, (None,)),
        ("output_without_batch", "float32 of shape [4]", 1, (None,)),
        ("several_outputs", "float32 of shape [4]", None, (0, 0, 0)),
        ("state", "x float32 of shape [4], state float32 of shape [2, 4], rate int64 of shape []", None, (0, 1)),
    ],
)
def test_what_a_file_takes(name: str, takes: str, largest: int | None, axes: tuple[int | None, ...]) -> None:
    assert str(backends.load("onnxruntime", FILES / f"{name}.onnx", "cpu", 1).tensors) == takes
    tensors = loaded(name).tensors
    assert tensors.batch_size == largest
    assert (tensors.output_axes or (0,) * len(tensors.outputs)) == axes
    for rows in (1,) if largest else (1, 3):
        assert all(len(output) == rows for output in loaded(name).run(tensors.zeros(rows)))


def test_an_optional_input() -> None:
    backend = loaded("optional_input")
    bias = backend.tensors.inputs[-1]
    assert (bias.name, bias.optional, bias.sample_shape, bias.batch_axis) == ("bias", True, (8,), None)
    batch = {name: np.ones_like(zeros) for name, zeros in backend.tensors.zeros(2).items()}
    assert "bias" not in batch
    (with_its_own,) = backend.run(batch)
    (given,) = backend.run(batch | {"bias": np.full((2, 8), 2, np.float32)})
    np.testing.assert_allclose(given - with_its_own, 1.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "batch", "expected"),
    [
        ("scalar_output", lambda: {"x": np.ones((1, 4), np.float32)}, [[4]]),
        ("output_without_batch", lambda: {"x": np.ones((1, 4), np.float32)}, [[[1, 1, 1, 1]]]),
        (
            "several_outputs",
            lambda: {"x": np.array([[1, 5, 2, 3], [9, 0, 0, 1]], np.float32)},
            [[[2, 10, 4, 6], [18, 0, 0, 2]], [5, 9], [1, 0]],
        ),
        (
            "string",
            lambda: {"x": np.array([[b"a", "ö".encode(), b"", b"d"]], object)},
            [[[b"a", "ö".encode(), b"", b"d"]]],
        ),
    ],
)
def test_what_comes_out(name: str, batch: Callable[[], Batch], expected: list[object]) -> None:
    for output, right in zip(loaded(name).run(batch()), expected, strict=True):
        assert output.tolist() == right


@pytest.mark.parametrize(("sizes", "shape"), [((), ()), (("N", 3), (3,))])
def test_an_input_whose_number_of_sizes_is_known(
    sizes: tuple[str | int, ...], shape: tuple[int, ...], tmp_path: Path
) -> None:
    (one,) = backends.load("onnxruntime", write_identity(tmp_path / "x.onnx", 1, sizes), "cpu", 1).tensors.inputs
    assert one.sample_shape == shape


def test_an_input_of_any_number_of_sizes_is_refused(tmp_path: Path) -> None:
    file = write_identity(tmp_path / "x.onnx", 1, None)
    with pytest.raises(backends.BackendError, match="the model's input 'x' may have any number of sizes: export it"):
        backends.load("onnxruntime", file, "cpu", 1)


def test_a_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (texts := tmp_path / "texts").mkdir()
    (texts / "a.txt").write_bytes("fine: ü".encode())
    (texts / "b.txt").write_bytes(b"not \xff")
    model = FileModel(write_identity(tmp_path / "x.onnx", 8, ("N", 1)), InputOptions(input_data=str(texts)))
    backend = backends.load("onnxruntime", model.path, "cpu", 1)
    model.learn(backend)
    library = model.library()
    library.load(np.array([0]))
    with pytest.raises(InputError, match=re.escape(f"{texts}/b.txt: byte 4 is not UTF-8")):
        library.load(np.array([0, 1]))
