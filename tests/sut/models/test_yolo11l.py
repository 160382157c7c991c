"""YOLO11l: its output becomes answers, and boxes in the square become boxes in the picture, whatever its shape."""

import json
from pathlib import Path

import numpy as np
import pytest

from drumfire.sut.data import DataError, coco
from drumfire.sut.models import WeightsError
from drumfire.sut.models.yolo11l import Yolo11l

SIZES = [(640, 480), (333, 501), (500, 375), (37, 29), (1024, 683), (640, 640), (2000, 3)]
"""Width and height."""
PLACES = 50


def rows(payload: bytes) -> np.ndarray:
    return np.frombuffer(payload, "<f4").reshape(-1, 7)


def output(*found: tuple[int, float, float, float, float, int, float], places: int = PLACES) -> np.ndarray:
    """Of one picture: at a place a box (centre x, centre y, width, height), a class and a score."""
    raw = np.zeros((1, 84, places), np.float32)
    for at, x, y, width, height, kind, score in found:
        raw[0, :4, at], raw[0, 4 + kind, at] = (x, y, width, height), score
    return raw


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Yolo11l:
    """On pictures of ``SIZES``, each with two boxes."""
    images = [
        {"id": 7 * at, "file_name": f"{at}.jpg", "width": width, "height": height}
        for at, (width, height) in enumerate(SIZES, 1)
    ]
    boxes = [
        (image["id"], kind, [image["width"] * a, image["height"] * b, image["width"] * c, image["height"] * d])
        for image in images
        for kind, (a, b, c, d) in ((1, (0, 0, 0.5, 0.5)), (90, (0.4, 0.25, 0.6, 0.75)))
    ]
    annotations = [
        {"id": at, "image_id": image, "category_id": kind, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for at, (image, kind, box) in enumerate(boxes, 1)
    ]
    categories = [{"id": number, "name": str(number)} for number in coco.COCO_CATEGORIES]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017_safe").mkdir()
    for image in images:
        (tmp_path / "val2017_safe" / str(image["file_name"])).touch()
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    model = Yolo11l()
    model.read(tmp_path, None)
    return model


def seen(width: int, height: int, box: list[float]) -> tuple[float, float, float, float]:
    """A box x, y, width, height of a picture as the network sees it: centre and size in the square's pixels."""
    scale = 640 / max(width, height)
    new = max(round(width * scale), 1), max(round(height * scale), 1)
    x, y = (640 - new[0]) // 2, (640 - new[1]) // 2
    across, down = new[0] / width, new[1] / height
    return x + (box[0] + box[2] / 2) * across, y + (box[1] + box[3] / 2) * down, box[2] * across, box[3] * down


def test_the_best_class_of_each_place_is_an_answer() -> None:
    raw = output((3, 100, 200, 40, 20, 11, 0.8), (9, 300, 310, 10, 30, 79, 0.5), (4, 10, 10, 4, 4, 0, 0.001))
    raw[0, 4 + 2, 3] = 0.79  # another class of the same place
    (payload,) = Yolo11l().respond([raw])
    np.testing.assert_allclose(
        rows(payload), [[0, 190, 80, 210, 120, 0.8, 13], [0, 295, 295, 325, 305, 0.5, 90]], rtol=1e-6
    )


def test_doubles_of_the_same_class_alone_are_suppressed() -> None:
    raw = output(
        (0, 100, 100, 50, 50, 5, 0.9),
        (1, 101, 100, 50, 50, 5, 0.8),  # a double
        (2, 101, 100, 50, 50, 6, 0.7),  # of another class
        (3, 113, 100, 50, 50, 5, 0.6),  # overlaps by 0.59
    )
    (payload,) = Yolo11l().respond([raw])
    np.testing.assert_allclose(rows(payload)[:, 5], [0.9, 0.7, 0.6], rtol=1e-6)


def test_a_batch_is_answered_as_its_pictures_are() -> None:
    draws = np.random.default_rng(1)
    raw = np.concatenate([draws.uniform(20, 600, (4, 4, 600)), draws.random((4, 80, 600)) ** 40], axis=1)
    raw = raw.astype(np.float32)
    raw[2, 4:] = 0
    model = Yolo11l()
    answers = model.respond([raw])
    assert answers == [model.respond([one[None]])[0] for one in raw]
    assert answers[2] == b""
    assert [len(rows(answer)) for answer in answers] == [300, 300, 0, 300]  # the most of a picture


def test_half_precision_is_decoded_in_single() -> None:
    (payload,) = Yolo11l().respond([output((3, 601, 200, 40.25, 20, 11, 0.5)).astype(np.float16)])
    np.testing.assert_array_equal(rows(payload), np.float32([[0, 190, 580.875, 210, 621.125, 0.5, 13]]))


def test_boxes_are_moved_into_the_picture_and_cut(model: Yolo11l) -> None:
    for index, (width, height) in enumerate(SIZES):
        box = [width * 0.25, height * 0.125, width * 0.5, height * 0.75]
        raw = output((0, *seen(width, height, box), 0, 0.9), (1, 320, 320, 5000, 5000, 1, 0.8))
        (payload,) = model.logged(np.array([index]), model.respond([raw]))
        np.testing.assert_allclose(
            rows(payload), [[index, 0.125, 0.25, 0.875, 0.75, 0.9, 1], [index, 0, 0, 1, 1, 0.8, 2]], atol=2e-6
        )


def test_perfect_outputs_have_a_perfect_precision(model: Yolo11l) -> None:
    pytest.importorskip("pycocotools")
    truth, everything = model.truth(), np.arange(len(SIZES))
    kinds = {kind: at for at, kind in enumerate(coco.COCO_CATEGORIES)}
    batch = []
    for image in truth.images:
        shown = [one for one in truth.annotations if one["image_id"] == image["id"]]
        places = [
            (at, *seen(image["width"], image["height"], one["bbox"]), kinds[one["category_id"]], 0.9)
            for at, one in enumerate(shown)
        ]
        batch.append(output(*places))
    answers = model.respond([np.concatenate(batch)])
    assert model.accuracy(everything, model.logged(everything, answers)).value == pytest.approx(1)
    rolled = model.logged(everything, answers[1:] + answers[:1])
    assert model.accuracy(everything, rolled).value < 0.7
    nothing = model.logged(everything, [b""] * len(SIZES))
    assert list(nothing) == [b""] * len(SIZES)
    assert model.accuracy(everything, nothing).value == 0


@pytest.mark.parametrize("shape", [(1, 300, 6), (84, 8400), (1, 8400, 84), (1, 85, 8400)])
def test_outputs_of_another_network_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"yolo11l gives \[pictures, 84, places\], .*export it without NMS"):
        Yolo11l().respond([np.zeros(shape, np.float32)])


def test_what_only_its_own_library_reads_is_refused(tmp_path: Path) -> None:
    for name in ("yolo11l.pt", "yolo11l.pth"):
        with pytest.raises(WeightsError, match=rf"export it as ONNX .*model={name} format=onnx"):
            Yolo11l().weights(tmp_path, tmp_path / name)
    assert Yolo11l().weights(tmp_path, tmp_path / "yolo11l.onnx") == tmp_path / "yolo11l.onnx"


def licensed(folder: Path, licences: list[int | None]) -> Path:
    images = [
        {"id": at, "file_name": f"{at}.jpg", "width": 10, "height": 10} | ({} if one is None else {"license": one})
        for at, one in enumerate(licences, 1)
    ]
    (folder / "annotations").mkdir()
    (folder / "val2017").mkdir()
    for at, one in enumerate(licences, 1):
        if one in (None, *range(4, 9)):  # pictures of other licences need not be there
            (folder / "val2017" / f"{at}.jpg").touch()
    document = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "one"}]}
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return folder


def test_only_pictures_of_mlperfs_subset_count(tmp_path: Path) -> None:
    folder = licensed(tmp_path, [1, 4, 2, 5, 3, 6, 7, 8, None])
    assert [file.stem for file in Yolo11l().read(folder, None)] == ["2", "4", "6", "7", "8", "9"]
    assert [file.stem for file in Yolo11l().read(folder, 2)] == ["2", "4"]


def test_a_file_without_such_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no picture has one of COCO's licences \[4, 5, 6, 7, 8\]"):
        Yolo11l().read(licensed(tmp_path, [1, 2, 3]), None)
