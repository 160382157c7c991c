"""Metrics: the answers that they make of outputs, and how they judge them."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.errors import UserError
from drumfire.sut.models import metrics
from drumfire.sut.models.metrics import Metric, metric_of
from drumfire.sut.models.model import Accuracy

LOGITS = np.array([[0.1, 0.9, 0], [3, 2, 1], [0, 0, 1], [1, 0, 0]], np.float32)
"""Their best classes are 1, 0, 2, 0."""


def judge(
    text: str, labels: Any, tmp_path: Path, names: Sequence[str] = ("out",), bfloat16: Sequence[str] = ()
) -> Metric:
    path = tmp_path / "labels.npy"
    if isinstance(labels, np.ndarray):
        np.save(path, labels)
    elif isinstance(labels, dict):
        (path := tmp_path / "labels.json").write_text(json.dumps(labels))
    elif all(isinstance(label, str) for label in labels):
        (path := tmp_path / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    else:
        (path := tmp_path / "labels.jsonl").write_text("".join(f"{json.dumps(label)}\n" for label in labels))
    metric = metric_of(text, path)
    metric.of_outputs(names, frozenset(bfloat16))
    metric.prepare()
    return metric


def judged(metric: Metric, *outputs: np.ndarray) -> Accuracy:
    """Of samples in order, whose answers go the way of the log: bytes."""
    answers = metric.respond(outputs)
    indices = np.arange(len(answers))
    as_bytes = [answer if isinstance(answer, bytes) else answer.tobytes() for answer in metric.logged(indices, answers)]
    return metric.accuracy(indices, as_bytes)


def score(accuracy: Accuracy) -> tuple[int | None, int]:
    return accuracy.good, accuracy.total


# Classes.


def test_top1_is_what_the_named_classifiers_log(tmp_path: Path) -> None:
    metric = judge("top1", np.array([1, 0, 2, 1]), tmp_path)
    answers = metric.respond([LOGITS])
    assert isinstance(answers, np.ndarray)
    assert (answers.dtype, answers.tolist()) == (np.float32, [[1.0], [0.0], [2.0], [0.0]])
    accuracy = judged(metric, LOGITS)
    assert accuracy.lines == ["accuracy=75.000%, good=3, total=4"]
    assert (accuracy.metric, accuracy.target, accuracy.reached) == ("top-1", None, None)


@pytest.mark.parametrize(
    "output", [LOGITS[:, :, None, None], (LOGITS * 10).astype(np.uint8), LOGITS.astype(np.float16)]
)
def test_top1_of_other_forms(output: np.ndarray, tmp_path: Path) -> None:
    assert score(judged(judge("top1", ["1", "0", "2", "0"], tmp_path), output)) == (4, 4)


def test_top5_holds_the_best_five_in_order(tmp_path: Path) -> None:
    scores = np.random.default_rng(3).permuted(np.tile(np.arange(20, dtype=np.float32), (50, 1)), axis=1)
    order = np.argsort(-scores, axis=1)
    fifth, sixth = judge("top5", order[:, 4], tmp_path), judge("top5", order[:, 5], tmp_path)
    assert np.array_equal(fifth.respond([scores]), order[:, :5])
    assert score(judged(judge("top5", order[:, 4], tmp_path), scores)) == (50, 50)
    assert score(judged(sixth, scores)) == (0, 50)


@pytest.mark.parametrize("text", ["top1", "top5"])
def test_what_is_not_a_number_is_never_right(text: str, tmp_path: Path) -> None:
    scores = np.full((2, 8), np.nan, np.float32)
    scores[1] = np.arange(8)
    assert score(judged(judge(text, np.array([0, 7]), tmp_path), scores)) == (1, 2)


def test_bfloat16_scores_are_numbers_and_not_their_bits(tmp_path: Path) -> None:
    bits = (np.array([[-1, -2], [1, -3]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert score(judged(judge("top1", np.array([0, 0]), tmp_path, bfloat16=["out"]), bits)) == (2, 2)


@pytest.mark.parametrize(
    ("text", "output", "says"),
    [
        (
            "top1",
            np.zeros(4, np.int64),
            "int64 of shape [] for a sample: --metric top1 takes the scores of more than 1 class",
        ),
        ("top1", np.zeros((4, 1), np.float32), "--metric exact compares values as they are"),
        ("top1", np.zeros((4, 3, 2), np.float32), "float32 of shape [3, 2] for a sample"),
        ("top5", np.zeros((4, 5), np.float32), "takes the scores of more than 5 classes"),
        ("top1", np.array([[b"a", b"b"]], object), "object of shape [2]"),
    ],
)
def test_outputs_that_are_no_scores(text: str, output: np.ndarray, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        judge(text, np.zeros(4, int), tmp_path).respond([output])


def test_an_answer_of_another_length_and_one_outside_the_data(tmp_path: Path) -> None:
    metric = judge("top1", np.array([1, 0]), tmp_path)
    with pytest.raises(ValueError, match="the response to sample 0 has 8 bytes: a top-1 answer is 1 float32, 4 bytes"):
        metric.accuracy(np.array([0]), [bytes(8)])
    with pytest.raises(ValueError, match=r"outside the data's 0\.\.1"):
        metric.accuracy(np.array([2]), [bytes(4)])


def test_the_first_answer_to_a_sample_counts_and_unanswered_ones_do_not(tmp_path: Path) -> None:
    for text in ("top1", "exact"):
        metric = judge(text, np.array([0, 1, 2]), tmp_path)
        outputs = np.eye(3, dtype=np.float32) if text == "top1" else np.arange(3)
        right, _, wrong = metric.respond([outputs])
        assert score(metric.accuracy(np.array([0, 0]), [bytes(right), bytes(wrong)])) == (1, 1)
        assert metric.accuracy(np.array([], int), []).lines[-1].endswith("total=0") or text == "exact"


# Which output.


def test_the_judged_output(tmp_path: Path) -> None:
    names = ("boxes", "logits")
    assert score(judged(judge("top1:logits", np.array([1, 0, 2, 0]), tmp_path, names), LOGITS[::-1], LOGITS)) == (4, 4)
    with pytest.raises(UserError, match="gives boxes, logits: say which output --metric judges, such as top1:boxes"):
        judge("top1", np.zeros(4, int), tmp_path, names)
    with pytest.raises(UserError, match="--metric exact:scores: the model gives boxes, logits"):
        judge("exact:scores", np.zeros(4, int), tmp_path, names)


def test_names_that_are_not_known() -> None:
    for text in ("top2", "Top1", "", "to p:1", "top2:", "a b:c", "mean:9"):
        with pytest.raises(UserError, match=r"not known; available: top1, top5, exact, map, or MODULE:FUNCTION"):
            metric_of(text)
    with pytest.raises(UserError, match=r"\(did you mean exact\?\)"):
        metric_of("exct")


# Equality.


@pytest.mark.parametrize(
    ("labels", "output", "good"),
    [
        (np.array([1, 2, 3]), np.array([1, 2, 4]), 2),
        (np.array([1, 2, 3]), np.array([[1], [2], [4]], np.int32), 2),
        (["1", "2", "3"], np.array([1, 2, 4]), 2),
        (["0.5", "2", "3"], np.array([0.5, 2, 4], np.float32), 2),
        (np.array([True, False]), np.array([True, True]), 1),
        ([True, False], np.array([True, True]), 1),
        (["007", "7", "ß"], np.array(["007", "007", "ß"], object), 2),
        (["007", "7", "ß"], np.array([b"007", b"007", "ß".encode()], object), 2),
        (np.array(["ab", "ß"]), np.array([["ab"], ["ß"]], object), 2),
        (np.array([b"ab", b"c"]), np.array(["ab", "cd"], object), 1),
        (np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]]), 1),
        ([[1, 2], [3]], np.array([[1, 2], [3, 5]]), 1),
        ([[[1], [2]], [[3], [4]]], np.array([[[1], [2]], [[3], [4]]]), 2),
        (np.array([np.nan, 1]), np.array([np.nan, 1]), 1),
        ([[], []], np.zeros((2, 0)), 2),
    ],
)
def test_exact(labels: Any, output: np.ndarray, good: int, tmp_path: Path) -> None:
    accuracy = judged(judge("exact", labels, tmp_path), output)
    assert (accuracy.metric, *score(accuracy)) == ("exact", good, len(output))


def test_outputs_of_different_sizes(tmp_path: Path) -> None:
    metric = judge("exact", [[1, 2], [3]], tmp_path)
    answers = [*metric.respond([np.array([[1, 2]])]), *metric.respond([np.array([[3]])])]
    assert score(metric.accuracy(np.arange(2), answers)) == (2, 2)


@pytest.mark.parametrize(
    ("labels", "output", "says"),
    [
        (["cat", "dog"], np.array([1, 2]), "the model gives int64, and the label 'cat' is not a number"),
        ([1, 2], np.array(["a", "b"], object), "the model gives texts, and the label 1 is not a text"),
        (
            np.zeros((2, 3)),
            np.zeros((2, 4)),
            "float64 of shape [4] for a sample, and no label has that shape: the first has [3]",
        ),
        ([None, None], np.array([1, 2]), "the label None is not a value"),
        ([[1, [2]], 3], np.array([1, 2]), "the label [1, [2]] is not a value"),
    ],
)
def test_labels_that_no_output_can_equal(labels: Any, output: np.ndarray, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        judged(judge("exact", labels, tmp_path), output)


# Functions.

FUNCTIONS = """
import numpy as np

def half(outputs, labels):
    return 0.5

def sign(outputs, labels):
    assert isinstance(labels, np.ndarray) and labels.dtype == np.int64
    (scores, flags) = outputs
    assert scores.shape == (3, 2) and flags.shape == (3,)
    return (scores.sum(1) > 0) == (labels > 0)

def alone(outputs, labels):
    (flags,) = outputs
    return flags == labels

def raises(outputs, labels):
    raise KeyError("no\\nsuch")

def wrong(outputs, labels):
    return np.ones(2)

number = 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_metric_{abs(hash(str(tmp_path))):x}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    return name


SCORES, FLAGS = np.array([[1, 1], [-1, -1], [2, 2]], np.float32), np.array([1, 0, 0])


def test_functions_of_the_current_folder(module: str, tmp_path: Path) -> None:
    labels = np.array([1, -1, -1])

    def found(function: str) -> Accuracy:
        return judged(judge(f"{module}:{function}", labels, tmp_path, ("scores", "flags")), SCORES, FLAGS)

    assert found("half").lines == ["half=50.000%"]
    assert found("sign").lines == ["accuracy=66.667%, good=2, total=3"]
    assert score(found("alone:flags")) == (1, 3)
    with pytest.raises(
        UserError, match=f"--metric {module}:raises cannot judge the answers, first with sample 0: KeyError: 'no.*such'"
    ):
        found("raises")
    with pytest.raises(
        UserError, match=r"returned float64 of shape \[2\]: it must return 3 values of bool, or a number"
    ):
        found("wrong")
    with pytest.raises(UserError, match="is not a function"):
        found("number")
    with pytest.raises(UserError, match="cannot be imported: AttributeError"):
        found("nothing")
    with pytest.raises(UserError, match="--metric no_such_module_x:f cannot be imported: ModuleNotFoundError"):
        judge("no_such_module_x:f", labels, tmp_path)


def test_a_function_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (about := tmp_path / "meter-1.dist-info").mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: meter\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[drumfire.metrics]\nagree = operator:eq\nkind = json:JSONEncoder\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    metrics.METRICS.__dict__.pop("_others", None)  # those of this process are known by now
    try:
        assert metric_of("agree:out").name == "agree"
        with pytest.raises(UserError, match=r"kind comes from meter, which cannot be used.*is not a function"):
            metric_of("kind")
    finally:
        metrics.METRICS.__dict__.pop("_others", None)


# Boxes.

ANNOTATIONS = {
    "images": [
        {"id": 10, "file_name": "a.jpg", "width": 200, "height": 100},
        {"id": 11, "file_name": "b.jpg", "width": 100, "height": 100},
    ],
    "annotations": [
        {"id": 1, "image_id": 10, "category_id": 3, "bbox": [20, 10, 100, 50], "area": 5000, "iscrowd": 0},
        {"id": 2, "image_id": 11, "category_id": 7, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
}
BOXES = np.array([[[0.1, 0.1, 0.6, 0.6], [0, 0, 0, 0]], [[0.1, 0.2, 0.4, 0.6], [0.1, 0.2, 0.4, 0.6]]], np.float32)
"""Of both pictures, as x1, y1, x2, y2; the second of the first picture is filling, that of the second a double."""
BOX_SCORES, CATEGORIES = np.array([[0.9, 0], [0.8, 0.7]], np.float32), np.array([[3, 0], [7, 7]])
THREE = "boxes", "scores", "labels"


def test_map(tmp_path: Path) -> None:
    metric = judge("map", ANNOTATIONS, tmp_path, THREE)
    assert metric.count == 2
    accuracy = judged(metric, BOXES, BOX_SCORES, CATEGORIES)
    assert (accuracy.metric, accuracy.good, accuracy.total, accuracy.target) == ("mAP", None, 2, None)
    assert accuracy.lines[-1] == "mAP=100.000%"
    assert judged(metric, CATEGORIES, BOXES, BOX_SCORES).value == pytest.approx(1)
    assert judged(metric, BOXES, BOX_SCORES, CATEGORIES[::-1]).value < 0.5


def test_map_of_pixels_and_of_doubles(tmp_path: Path) -> None:
    pixels = BOXES * np.array([640, 480, 640, 480], np.float32)
    for text, boxes in (("map:480x640", pixels), ("map:800", BOXES * 800)):
        metric = judge(text, ANNOTATIONS, tmp_path, THREE)
        assert judged(metric, boxes, BOX_SCORES, CATEGORIES).value == pytest.approx(1)
    for text, rows in (("map", 2), ("map:1:0.5", 1), ("map::.5", 1)):
        answers = judge(text, ANNOTATIONS, tmp_path, THREE).respond([BOXES, BOX_SCORES, CATEGORIES])
        assert [len(answer) // 28 for answer in answers] == [1, rows]
    with pytest.raises(UserError, match="the model's boxes are pixels, up to 384: --metric map:HEIGHTxWIDTH says"):
        judge("map", ANNOTATIONS, tmp_path, THREE).respond([pixels, BOX_SCORES, CATEGORIES])


def test_map_refuses_what_it_cannot_judge(tmp_path: Path) -> None:
    metric = judge("map", ANNOTATIONS, tmp_path, THREE)
    with pytest.raises(UserError, match=r"the model gives float32 \[4, 3\]: --metric map takes boxes"):
        metric.respond([LOGITS])
    with pytest.raises(UserError, match=r"no detection has a category of .*: the model's are 1, 2, the file's 3, 7"):
        judged(metric, BOXES, BOX_SCORES, np.array([[1, 1], [2, 2]]))
    for text in ("map:0", "map:a", "map:640x", "map:640:1.5", "map:640x0"):
        with pytest.raises(UserError, match="write map for boxes as fractions"):
            metric_of(text)
    with pytest.raises(UserError, match="images is missing"):
        judge("map", {"annotations": []}, tmp_path, THREE)


# As many as samples.


@pytest.mark.parametrize(("labels", "samples", "asked"), [(5, 5, None), (5, 3, 3), (3, 3, 3), (5, 5, 9)])
def test_enough_labels(labels: int, samples: int, asked: int | None, tmp_path: Path) -> None:
    judge("top1", np.zeros(labels, int), tmp_path).check(samples, asked)


@pytest.mark.parametrize(
    ("labels", "samples", "asked", "says"),
    [
        (5, 4, None, "has 5 labels for 4 samples: give one for each, in the order of the samples"),
        (1, 4, None, r"has 1 label for 4 samples: .* \(--count 1 uses the first 1 samples\)"),
        (2, 4, 4, "has 2 labels for 4 samples"),
        (9, 5, 7, "has 9 labels for 5 samples"),
    ],
)
def test_other_than_enough_labels(labels: int, samples: int, asked: int | None, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        judge("top1", np.zeros(labels, int), tmp_path).check(samples, asked)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "not JSON",
            "is not JSON: Expecting value: line 1 column 1 (char 0); COCO's annotations are an object of images (",
        ),
        ("", "cannot be read: it is empty; COCO's annotations are"),
        ('{"images": []}', "annotations is missing: correct it (COCO's annotations are"),
    ],
)
def test_a_file_of_ones_own_that_holds_no_annotations(text: str, fault: str, tmp_path: Path) -> None:
    """It cannot be fetched again."""
    (file := tmp_path / "labels.json").write_text(text)
    pytest.importorskip("pycocotools")
    with pytest.raises(UserError, match=re.escape(fault)) as raised:
        metric_of("map", file).prepare()
    assert "fetch" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "labels", "shape", "why"),
    [
        ("top1", ["0", "2", "3"], (3,), "label 3 is 3, and the model has 3 classes, 0 to 2"),
        ("top1", ["0", "2", "3"], (3, 1, 1), "label 3 is 3"),
        ("top1", ["0", "2", "3"], (4,), ""),
        ("top1", ["0", "2", "3"], (None,), ""),
        ("top1", ["0", "2", "3"], None, ""),
        ("exact", [[1, 2], [1, 2], [1]], (2,), "label 3 has the shape [1], and the model's output [2]"),
        ("exact", [[1, 2], [1, 2], [1]], (None,), ""),
        ("exact", ["1", "2", "3"], (1,), ""),
        ("exact", [[[1], [2]]] * 3, (2,), ""),
        ("exact", [[1, 2], None, [1, 2]], (2,), "None is not a value"),
        ("exact:second", [[1], [2], [3]], (3,), ""),
    ],
)  # fmt: skip
def test_labels_are_checked_where_the_shape_is_known(
    text: str, labels: Any, shape: Any, why: str, tmp_path: Path
) -> None:
    metric, names = judge(text, labels, tmp_path, ("out", "second") if ":" in text else ("out",)), ("out", "second")
    metric.of_outputs(names if ":" in text else names[:1], shapes=(shape, (1,)))
    if not why:
        metric.check(3, None)
        return
    with pytest.raises(UserError, match=re.escape(why)):
        metric.check(3, None)
