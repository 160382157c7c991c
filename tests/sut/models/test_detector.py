"""Answers of detectors: the payload of the reference's harness, coordinates, labels and pictures not off by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.sut import models
from drumfire.sut.data.coco import COCO_CATEGORIES
from drumfire.sut.models.shapes import Shapes

BOXES = np.array(
    [[[0.1, 0.2, 0.5, 0.6], [0.1, 0.2, 0.5, 0.61], [0.0, 0.0, 0.2, 0.1], [0.7, 0.7, 0.9, 0.9]]], np.float32
)
"""x1, y1, x2, y2; the second is a double of the first."""
SCORES = np.array([[0.9, 0.8, 0.3, 0.001]], np.float32)
LABELS = np.array([[1, 1, 2, 3]], np.int64)


def rows(payload: bytes) -> np.ndarray:
    return np.frombuffer(payload, "<f4").reshape(-1, 7)


def detector(name: str) -> Any:
    return models.get(name)


def test_the_payload_of_candidates() -> None:
    (payload,) = Shapes().respond([BOXES, SCORES, LABELS])
    np.testing.assert_allclose(
        rows(payload), [[0, 0.2, 0.1, 0.6, 0.5, 0.9, 1], [0, 0.0, 0.0, 0.1, 0.2, 0.3, 2]], rtol=1e-6
    )
    assert Shapes().respond([LABELS, BOXES, SCORES]) == [payload]  # whatever the order
    assert Shapes().respond([BOXES[0], SCORES[0], LABELS[0]]) == [payload]  # a network for single pictures


def test_no_detection_is_an_empty_payload() -> None:
    assert Shapes().respond([BOXES, SCORES * 0, LABELS]) == [b""]
    assert Shapes().respond([BOXES[:, :0], SCORES[:, :0], LABELS[:, :0]]) == [b""]


def test_pixels_become_fractions() -> None:
    (payload,) = detector("retinanet").respond([BOXES * 800, SCORES, LABELS - 1])
    np.testing.assert_allclose(rows(payload)[0], [0, 0.2, 0.1, 0.6, 0.5, 0.9, 0], rtol=1e-6)


@pytest.mark.parametrize(("label", "category"), [(1, 1), (11, 11), (12, 13), (26, 28), (80, 90)])
def test_contiguous_labels_become_coco_categories(label: int, category: int) -> None:
    (payload,) = detector("ssd-resnet34").respond([BOXES, SCORES, np.full_like(LABELS, label)])
    assert set(rows(payload)[:, 6].tolist()) == {category}
    assert COCO_CATEGORIES[label - 1] == category


@pytest.mark.parametrize("label", [0, 81])
def test_a_label_that_is_none_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match=r"a label outside 1\.\.80: are these ssd-resnet34's weights"):
        detector("ssd-resnet34").respond([BOXES, SCORES, np.full_like(LABELS, label)])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)])
def test_tensorflows_four_outputs(order: tuple[int, ...]) -> None:
    boxes = np.array([[[0.2, 0.1, 0.6, 0.5], [0.0, 0.0, 0.1, 0.2], [0.5, 0.5, 0.6, 0.6]]] * 2, np.float32)
    scores = np.array([[0.9, 0.3, 0.2]] * 2, np.float32)
    classes, counts = np.array([[90.0, 1.0, 1.0]] * 2, np.float32), np.array([2.0, 0.0], np.float32)
    outputs = [counts, boxes, scores, classes]
    first, second = detector("ssd-mobilenet").respond([outputs[at] for at in order])
    np.testing.assert_allclose(
        rows(first), [[0, 0.2, 0.1, 0.6, 0.5, 0.9, 90], [0, 0.0, 0.0, 0.1, 0.2, 0.3, 1]], rtol=1e-6
    )
    assert second == b""


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [BOXES],
        [BOXES, SCORES],
        [BOXES, SCORES, SCORES],
        [BOXES, LABELS, LABELS],
        [SCORES, SCORES, LABELS],
        [np.zeros((1, 1000), np.float32)],
        [BOXES, SCORES, LABELS, SCORES],
    ],
)
def test_outputs_of_another_network_are_refused(outputs: Any) -> None:
    with pytest.raises(ValueError, match="shapes gives boxes, scores and labels; are these its weights"):
        Shapes().respond(outputs)


def test_what_is_logged_names_the_picture() -> None:
    model = Shapes()
    (payload,) = model.respond([BOXES, SCORES, LABELS])
    first, second, third = model.logged(np.array([41, 7, 9], np.uint32), [payload, b"", payload])
    assert rows(first)[:, 0].tolist() == [41, 41]
    assert rows(third)[:, 0].tolist() == [9, 9]
    assert second == b""
    np.testing.assert_array_equal(rows(first)[:, 1:], rows(payload)[:, 1:])


def perfect(model: Shapes, count: int) -> list[bytes]:
    answers = []
    for number in range(count):
        scene = model._data.scenes[number]
        scores, labels = np.full((1, len(scene.kinds)), 0.9, np.float32), scene.kinds[None] + 1
        answers += model.respond([scene.boxes[None] / 128, scores, labels])
    return answers


def test_perfect_answers_and_such_as_are_off_by_one() -> None:
    pytest.importorskip("pycocotools")
    model = Shapes()
    everything = np.arange(60)
    answers = perfect(model, 60)
    found = model.accuracy(everything, model.logged(everything, answers))
    assert (found.metric, found.value, found.total, found.good) == ("mAP", pytest.approx(1.0), 60, None)
    shifted = model.logged(everything, answers[1:] + answers[:1])
    assert model.accuracy(everything, shifted).value < 0.2
    swapped = [rows(one).copy() for one in model.logged(everything, answers)]
    for one in swapped:
        one[:, 6] = one[:, 6] % 3 + 1
    assert model.accuracy(everything, [one.tobytes() for one in swapped]).value < 0.01


def test_the_first_answer_to_a_picture_counts() -> None:
    pytest.importorskip("pycocotools")
    model = Shapes()
    answers = perfect(model, 2)
    indices = np.array([0, 0, 1, 1])
    good_first = model.logged(indices, [answers[0], b"", answers[1], b""])
    assert model.accuracy(indices, good_first).value == pytest.approx(1)
    assert model.accuracy(indices, good_first).total == 2
    bad_first = model.logged(indices, [b"", answers[0], b"", answers[1]])
    assert model.accuracy(indices, bad_first).value == 0


def test_nonsense_is_refused() -> None:
    model = Shapes()
    (payload,) = model.respond([BOXES, SCORES, LABELS])
    with pytest.raises(ValueError, match="the response to sample 3 has 27 bytes"):
        model.accuracy(np.array([3]), [payload[:27]])
    with pytest.raises(ValueError, match="a detection of picture 0 in the answer to 3"):
        model.accuracy(np.array([3]), [payload])
    with pytest.raises(ValueError, match=r"outside shapes's 0\.\.199"):
        model.accuracy(np.array([200]), [payload])
    with pytest.raises(ValueError, match="1 responses for 2 samples"):
        model.accuracy(np.array([0, 1]), [payload])


def test_nothing_answered_is_an_accuracy_of_nothing() -> None:
    assert Shapes().accuracy(np.array([], int), []).value == 0


def test_a_data_path_and_a_count_that_can_not_be() -> None:
    with pytest.raises(ValueError, match="shapes has its own data"):
        Shapes().library(Path("elsewhere"))
    with pytest.raises(ValueError, match="the count must be 1 to 200, not 201"):
        Shapes().library(count=201)
    library = Shapes().library(count=10, performance_count=4)
    assert (library.total_count, library.performance_count) == (10, 4)
