"""ImageNet's classifiers: labels with and without a background class, and what is told of the data."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from drumfire.sut import models
from drumfire.sut.data import fake, location
from drumfire.sut.models import Accuracy
from drumfire.sut.models.imagenet import ImageNetClassifier
from drumfire.sut.models.resnet50 import ResNet50

NAMES = ["resnet50", "mobilenet"]


def scores(classes: list[int], count: int) -> np.ndarray:
    found = np.random.default_rng(1).random((len(classes), count)).astype(np.float32)
    found[np.arange(len(classes)), classes] = 2
    return found


@pytest.mark.parametrize("name", NAMES)
def test_labels_with_and_without_a_background_class(name: str) -> None:
    model = models.get(name)
    assert np.asarray(model.respond([scores([0, 5, 999], 1000)])).tolist() == [[0], [5], [999]]
    assert np.asarray(model.respond([scores([1, 6, 1000], 1001)])).tolist() == [[0], [5], [999]]
    numbers = np.array([1, 6, 1000])
    for outputs in ([numbers], [numbers, scores([9, 9, 9], 1001)], [scores([9, 9, 9], 1001), numbers]):
        found = np.asarray(model.respond(outputs))
        assert found.dtype == np.float32
        assert found.tolist() == [[0], [5], [999]]


@pytest.mark.parametrize("shape", [(2, 10), (2, 91), (2, 1000, 1, 1), (2,)])
def test_scores_of_another_network_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="resnet50 gives scores of 1000 or 1001 classes"):
        models.get("resnet50").respond([np.zeros(shape, np.float32)])


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("cv2")
    pytest.importorskip("PIL")
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("DATA_DIR", raising=False)
    fake.generate("imagenet", tmp_path / "fake", 24)
    return tmp_path / "fake"


def seen(model: ImageNetClassifier, library: models.model.SampleLibrary, indices: np.ndarray) -> np.ndarray:
    """What a perfect network would answer: the class that each loaded picture shows."""
    library.load(indices)
    shown = [fake.shown_class(one.transpose(1, 2, 0)) for one in library.batch(indices)["input"]]
    return np.asarray(model.respond([scores(shown, 1000)]))


@pytest.mark.extra
@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_labels_belong_together(name: str, pictures: Path) -> None:
    model = type(models.get(name))()
    assert isinstance(model, ImageNetClassifier)
    library = model.library(pictures)
    assert (library.total_count, library.performance_count) == (24, 24)
    order = np.random.default_rng(1).permutation(24)
    answers = seen(model, library, order)
    assert model.accuracy(order, answers) == Accuracy("top-1", 1.0, 24, 24, model.quality_target)
    assert model.accuracy((order + 1) % 24, answers).value < 0.1  # one off
    assert list(model.reservations) == ["24 pictures, not the 50000 of ILSVRC 2012"]


@pytest.mark.extra
def test_counts(pictures: Path) -> None:
    library = ResNet50().library(pictures, count=10, performance_count=4)
    assert (library.total_count, library.performance_count) == (10, 4)


@pytest.mark.extra
def test_data_dir_is_honoured_before_pictures_are_generated(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(pictures))
    assert ResNet50().library().total_count == 24
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"nothing/val_map\.txt is missing"):
        ResNet50().library()
    monkeypatch.delenv("DATA_DIR")
    model = ResNet50()
    assert model.library(count=8).total_count == 8
    (told,) = model.reservations
    assert told.startswith(f"{location.COUNT} generated pictures (")
    assert "set DATA_DIR or --dataset-path" in told
    assert os.environ["MODEL_DIR"] in told


@pytest.mark.extra
def test_annotated_pictures_are_had_in_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("PIL")
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(location, "COUNT", 6)
    monkeypatch.delenv("DATA_DIR", raising=False)
    for name, shape in (
        ("ssd-mobilenet", (300, 300, 3)),
        ("ssd-resnet34", (3, 1200, 1200)),
        ("retinanet", (3, 800, 800)),
    ):
        model = models.get(name)
        library = model.library(count=2)
        indices = np.array([1, 0])
        library.load(indices)
        batch = library.batch(indices)
        found = {name: (array.shape, array.dtype) for name, array in batch.items()}
        assert found == {one.name: ((2, *one.sample_shape), one.dtype) for one in model.tensors.inputs}
        assert found["input"][0] == (2, *shape)
        assert "6 generated pictures" in model.reservations[0]
        annotated = json.loads(next((tmp_path / "cache").glob("fake-*/annotations/*.json")).read_text())
        assert len(annotated["images"]) == 6
