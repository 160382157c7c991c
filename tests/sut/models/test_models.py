"""The models' data is whole, their weights reach the quality target, and answers are judged as MLPerf does."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from drumfire.loadgen import installation
from drumfire.sut import models
from drumfire.sut.models import Accuracy, Model, UnknownModel, digits
from drumfire.sut.models.model import Form
from drumfire.sut.models.weights import bundle
from tests.support.packages import EFFICIENTNET, need


def measured(model: Model, cache: Path, batch_size: int) -> Accuracy:
    """The accuracy over the whole data set, run by onnxruntime."""
    library = model.library()
    everything = np.arange(model.total_count)
    library.load(everything)
    session = onnxruntime.InferenceSession(model.weights(cache), providers=["CPUExecutionProvider"])
    batches = np.split(everything, range(batch_size, everything.size, batch_size))
    responses = [model.respond(session.run(None, library.batch(batch))) for batch in batches]
    return model.accuracy(everything, np.concatenate(responses))


def test_digits_data() -> None:
    data = digits.read()
    assert data.inputs.shape == (500, 1, 8, 8)
    assert data.train_inputs.shape == (1297, 1, 8, 8)
    assert data.inputs.dtype == data.train_inputs.dtype == np.float32
    assert (data.inputs.min(), data.inputs.max()) == (0, 1)
    assert np.unique(data.labels).tolist() == np.unique(data.train_labels).tolist() == list(range(10))
    with np.load(digits.DATA) as file:
        assert np.unique(file["held_out"]).size == 500


def test_the_forms_that_are_bundled() -> None:
    bundled = [(name, form) for name in ("digits", "shapes") for form in Form if bundle.comes_as(name, form)]
    assert bundled == [("digits", Form.ONNX), ("digits", Form.TFLITE), ("shapes", Form.ONNX)]


def test_no_held_out_digit_was_trained_on() -> None:
    data = digits.read()
    trained = {image.tobytes() for image in data.train_inputs}
    assert not any(image.tobytes() in trained for image in data.inputs)


@pytest.mark.parametrize("batch_size", [1, 8, 500])
def test_digits_accuracy(tmp_path: Path, batch_size: int) -> None:
    accuracy = measured(models.get("digits"), tmp_path, batch_size)
    assert accuracy.total == 500
    assert accuracy.reached
    assert not list(tmp_path.iterdir())


@pytest.mark.extra
def test_efficientnet_lite0_accuracy(tmp_path: Path) -> None:
    need(*EFFICIENTNET)
    model = models.get("efficientnet-lite0")
    for batch_size in (1, 8):
        assert measured(model, tmp_path, batch_size) == Accuracy("top-1", 0.9, 18, 20, 0.9)
    assert len(list(tmp_path.iterdir())) == 1  # exported once


def test_a_missing_extra_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    how = re.escape(installation.command("efficientnet"))
    says = rf"^efficientnet-lite0 needs \w+, which is not installed: {how}$"
    with pytest.raises(models.MissingExtra, match=says):
        models.get("efficientnet-lite0").weights(tmp_path)
    with pytest.raises(models.MissingExtra, match=says):
        type(models.get("efficientnet-lite0"))().library()


def test_unknown_models() -> None:
    with pytest.raises(UnknownModel, match=r"^model 'resnet51' is not known; available: digits, shapes, .*resnet50"):
        models.get("resnet51")


def test_library_sizes() -> None:
    model = models.get("digits")
    assert (model.library().total_count, model.library().performance_count) == (500, 500)
    assert (model.library(count=40).total_count, model.library(count=40).performance_count) == (40, 40)
    assert model.library(performance_count=8).performance_count == 8
    assert model.library(count=40, performance_count=99).performance_count == 40
    for count, performance_count in ((0, None), (501, None), (None, 0)):
        with pytest.raises(ValueError, match="count"):
            model.library(count=count, performance_count=performance_count)
    with pytest.raises(ValueError, match="digits has its own data"):
        model.library(Path("elsewhere"))


def test_accuracy_counts_the_first_answer_to_a_sample() -> None:
    model, labels = models.get("digits"), digits.read().labels
    indices = np.array([7, 3, 7, 3, 9])
    given = labels[indices].astype(np.float32)[:, None]
    given[1] += 1  # the first answer to sample 3 is wrong
    given[2] += 1  # a later one to sample 7
    expected = Accuracy("top-1", 2 / 3, 2, 3, 0.98)
    assert model.accuracy(indices, given) == expected
    assert model.accuracy(indices, [row.tobytes() for row in given]) == expected
    assert not expected.reached


def test_accuracy_of_nothing_and_of_nonsense() -> None:
    model = models.get("digits")
    assert model.accuracy(np.array([], int), []) == Accuracy("top-1", 0.0, 0, 0, 0.98)
    assert model.accuracy(np.array([0]), np.array([[np.nan]], np.float32)).good == 0
    with pytest.raises(ValueError, match="the response to sample 1 has 8 bytes: a label is 1 float32"):
        model.accuracy(np.array([0, 1]), [b"\0" * 4, b"\0" * 8])
    with pytest.raises(ValueError, match="a label is 1 float32"):
        model.accuracy(np.array([0, 1]), np.zeros((2, 10), np.float32))
    with pytest.raises(ValueError, match="1 responses for 2 samples"):
        model.accuracy(np.array([0, 1]), [b"\0" * 4])
    with pytest.raises(ValueError, match="outside"):
        model.accuracy(np.array([500]), [b"\0" * 4])


def test_importing_the_models_costs_no_framework() -> None:
    heavy = {"torch", "onnx", "onnxruntime", "PIL", "cv2", "pycocotools", "sklearn"}
    code = f"import sys, drumfire.sut.models; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(models.__file__).parents[2])
