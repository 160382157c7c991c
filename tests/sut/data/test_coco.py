"""Annotation files are checked, and the precision of detections is that of hand-made cases and of pycocotools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.errors import UserError
from drumfire.sut.data import DataError, coco
from drumfire.sut.data.coco import COCO, COCO_CATEGORIES, OPENIMAGES


def document(count: int = 3) -> dict[str, Any]:
    """Picture ``i`` (id 10 i) of 100 x 50 pixels shows boxes of categories 1 and 90, others than its neighbours."""
    boxes = [(1, [10.0, 10.0, 20.0, 20.0]), (90, [50.0, 20.0, 40.0, 10.0])]
    annotations = [
        {
            "image_id": 10 * i,
            "category_id": kind,
            "bbox": [box[0], box[1] + 8.0 * (i % 3) - 10, *box[2:]],
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for i in range(1, count + 1)
        for kind, box in boxes
    ]
    return {
        "images": [{"id": 10 * i, "file_name": f"{i}.jpg", "width": 100, "height": 50} for i in range(1, count + 1)],
        "annotations": [{"id": at, **annotation} for at, annotation in enumerate(annotations, 1)],
        "categories": [{"id": number, "name": str(number)} for number in COCO_CATEGORIES],
    }


def folder(path: Path, found: Any, layout: coco.Layout = COCO) -> Path:
    (path / layout.pictures).mkdir(parents=True)
    (path / layout.annotations).parent.mkdir(exist_ok=True)
    (path / layout.annotations).write_text(json.dumps(found))
    for image in found.get("images", ()):
        (path / layout.pictures / Path(image["file_name"]).name).touch()
    return path


def perfect(truth: coco.AnnotatedPictures) -> np.ndarray:
    index = {image["id"]: at for at, image in enumerate(truth.images)}
    rows = []
    for annotation in truth.annotations:
        at = index[annotation["image_id"]]
        image, (x, y, width, height) = truth.images[at], annotation["bbox"]
        box = [y / image["height"], x / image["width"], (y + height) / image["height"], (x + width) / image["width"]]
        rows.append([at, *box, 0.9, annotation["category_id"]])
    return np.array(rows, np.float32)


def test_the_categories() -> None:
    assert len(COCO_CATEGORIES) == 80
    assert (COCO_CATEGORIES[0], COCO_CATEGORIES[11], COCO_CATEGORIES[-1]) == (1, 13, 90)
    assert OPENIMAGES.categories[0] == 0
    assert OPENIMAGES.categories[-1] == 263


def test_pictures_come_in_the_files_order(tmp_path: Path) -> None:
    found = document()
    found["images"].reverse()
    truth = coco.read(folder(tmp_path, found), COCO)
    assert [file.name for file in truth.files] == ["3.jpg", "2.jpg", "1.jpg"]
    first = coco.read(tmp_path, COCO, count=1)
    assert [image["id"] for image in first.images] == [30]
    assert {annotation["image_id"] for annotation in first.annotations} == {30}


def test_openimages_names_with_and_without_the_folder(tmp_path: Path) -> None:
    found = document(2) | {"categories": [{"id": 0, "name": "a"}, {"id": 263, "name": "b"}], "annotations": []}
    found["images"][0]["file_name"] = "validation/data/1.jpg"
    truth = coco.read(folder(tmp_path, found, OPENIMAGES), OPENIMAGES)
    assert list(truth.files) == [tmp_path / "validation/data" / name for name in ("1.jpg", "2.jpg")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(images=[]), "lists no picture"),
        (lambda d: d["images"][1].update(id=10), "image 10: duplicate id"),
        (lambda d: d["annotations"][0].update(image_id=7), "annotation 1: image_id is 7, must be the id of an image"),
        (
            lambda d: d["annotations"][1].update(category_id=12),
            "annotation 2: category_id is 12, must be the id of a category",
        ),
        (lambda d: d["categories"].append({"id": 12}), "has the category 12, which coco lacks"),
        (
            lambda d: d["annotations"][0].update(bbox=[1, 2, 3]),
            r"annotation 1: bbox is \[1, 2, 3\], must be four numbers",
        ),
        (lambda d: d["images"][0].update(width=0), "image 10: width is 0, must be a whole number, 1 to 65,536"),
        (lambda d: d.pop("annotations"), "is not in COCO's format: annotations is missing"),
        (lambda d: d["annotations"][2].pop("iscrowd"), "annotation 3: iscrowd is missing, must be 0 or 1"),
        (lambda d: d["images"].__setitem__(0, "x"), "image number 0 is 'x': it must be an object"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, change: Any, says: str) -> None:
    found = document()
    folder(tmp_path, found)
    change(found)
    (tmp_path / COCO.annotations).write_text(json.dumps(found))
    with pytest.raises(UserError, match=says) as raised:
        coco.read(tmp_path, COCO)
    assert "\n" not in str(raised.value)


def test_missing_pictures_are_counted(tmp_path: Path) -> None:
    folder(tmp_path, document())
    for name in ("2.jpg", "3.jpg"):
        (tmp_path / COCO.pictures / name).unlink()
    with pytest.raises(DataError, match=r"^2 of the 3 pictures that .* lists are missing, first .*2\.jpg"):
        coco.read(tmp_path, COCO)
    assert len(coco.read(tmp_path, COCO, count=1).files) == 1
    (tmp_path / COCO.annotations).unlink()
    with pytest.raises(DataError, match=r"is missing: .* must hold .*drumfire prepare fake coco"):
        coco.read(tmp_path, COCO)


def test_precision_of_hand_made_answers(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    truth = coco.read(folder(tmp_path, document()), COCO)
    everything, right = np.arange(3), perfect(truth)
    assert coco.evaluate(truth, everything, right).mean == pytest.approx(1.0)
    assert coco.evaluate(truth, everything, right[:0]).mean == 0.0
    others = right.copy()
    others[:, 0] = (right[:, 0] + 1) % 3  # one picture on
    assert coco.evaluate(truth, everything, others).mean < 0.1
    shifted = right.copy()
    shifted[:, 6] = np.where(right[:, 6] == 1, 2, 89)  # one off
    assert coco.evaluate(truth, everything, shifted).mean == 0.0
    swapped = right[:, [0, 2, 1, 4, 3, 5, 6]]  # x for y
    assert coco.evaluate(truth, everything, swapped).mean < 0.1
    half = right[right[:, 6] == 1]
    assert coco.evaluate(truth, everything, half).mean == pytest.approx(0.5, abs=1e-6)
    # Of the pictures that were answered only.
    assert coco.evaluate(truth, np.array([1]), right[right[:, 0] == 1]).mean == pytest.approx(1)
    assert coco.evaluate(truth, everything, right[right[:, 0] == 1]).mean < 0.5


def test_precision_is_pycocotools_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO as GROUND
    from pycocotools.cocoeval import COCOeval

    truth = coco.read(folder(tmp_path, document(20)), COCO)
    draws = np.random.default_rng(1)
    rows = np.repeat(perfect(truth), 3, axis=0)
    rows[:, 1:5] += draws.normal(0, 0.03, (len(rows), 4))
    rows[:, 5] = draws.random(len(rows))
    found = coco.evaluate(truth, np.arange(20), rows.astype(np.float32))
    results = [
        {
            "image_id": truth.images[int(at)]["id"],
            "category_id": int(kind),
            "bbox": [left * 100.0, top * 50.0, (right - left) * 100.0, (bottom - top) * 50.0],
            "score": score,
        }
        for at, top, left, bottom, right, score, kind in rows.astype(np.float32).astype(float).tolist()
    ]
    ground = GROUND(tmp_path / COCO.annotations)
    evaluation = COCOeval(ground, ground.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    capsys.readouterr()
    evaluation.summarize()
    assert found.mean == evaluation.stats[0]
    assert list(found.table) == [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert 0.05 < found.mean < 0.95
