"""Each value of an annotation file is checked when it is read; what is wrong is named, with what it must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drumfire.loadgen.annotations import read_annotations
from drumfire.loadgen.errors import UserError

NAN, HUGE = float("nan"), 10**400


def document() -> dict[str, Any]:
    about: dict[str, Any] = {"image_id": 7, "category_id": 3, "bbox": [1, 2.5, 3, 0], "area": 0.5, "iscrowd": 0}
    return {
        "images": [{"id": 7, "file_name": "7.jpg", "width": 4, "height": 3}],
        "annotations": [
            {"id": 1, **about, "segmentation": [[0, 0, 1, 0, 1, 1.5]]},
            {"id": 2, **about, "iscrowd": 1, "segmentation": {"size": [3, 4], "counts": [5, 4, 3]}},
            {"id": 3, **about, "segmentation": {"size": [3, 4], "counts": "543"}},
        ],
        "categories": [{"id": 3}],
    }


def refusal(tmp_path: Path, found: Any, *, masks: bool = True) -> str:
    file = tmp_path / "a.json"
    file.write_text(found if isinstance(found, str) else json.dumps(found))
    with pytest.raises(UserError) as raised:
        read_annotations(file, masks=masks)
    said = str(raised.value)
    assert "\n" not in said
    assert len(said) < 500
    assert str(file) in said
    assert "again" in said
    return said


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_what_is_right_is_read(tmp_path: Path, start: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(start + json.dumps(document()))
    assert read_annotations(file, masks=True) == document()
    without = document()
    for annotation in without["annotations"]:
        del annotation["segmentation"]
    file.write_text(json.dumps(without | {"licenses": NAN}))
    assert read_annotations(file, masks=False) == without


WRONG = {
    "image": {
        "id": [NAN, "7", 7.5, None, True, HUGE, [7]],
        "file_name": ["", 7, None, "a\0b", "\udcff", "/", ".."],
        "width": [0, -4, NAN, "4", 4.5, None, 70_000, True],
        "height": [0, float("inf")],
    },
    "category": {"id": ["3", None, 3.5, NAN]},
    "annotation": {
        "id": ["1", None, 1.5, NAN, HUGE],
        "image_id": ["7", 8, None, [7], {}, 7.5, NAN],
        "category_id": ["3", 4, None, [3], {}, NAN],
        "bbox": [
            [1, 2, 3],
            [1, 2, 3, NAN],
            [1, 2, -3, 4],
            [1, 2, 3, "4"],
            [float("-inf"), 2, 3, 4],
            None,
            {},
            "abcd",
            [1, 2, 3, HUGE],
            [[1], 2, 3, 4],
            [1, 2, 3, 4, 5],
            [1, 2, 3, True],
            [],
            1e300,
        ],
        "area": [NAN, -1, "1", None, float("inf"), HUGE, []],
        "iscrowd": [NAN, 2, "0", None, -1, [], 0.5, HUGE],
    },
}
CASES = [(part, key, value) for part, keys in WRONG.items() for key, values in keys.items() for value in values]


@pytest.mark.parametrize(("part", "key", "value"), CASES, ids=lambda value: str(value)[:20])
def test_a_wrong_value_is_named(tmp_path: Path, part: str, key: str, value: Any) -> None:
    found = document()
    found["categories" if part == "category" else f"{part}s"][0][key] = value
    said = refusal(tmp_path, found, masks=False)
    assert f"{part} " in said
    assert f": {key} is " in said or "number" in said
    if key != "id":
        assert f"{part} {7 if part == 'image' else 1}: {key} is " in said
    del found["categories" if part == "category" else f"{part}s"][0][key]
    assert f": {key} is missing, must be " in refusal(tmp_path, found, masks=False)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "is an empty list, must have a polygon"),
        ([[]], "has [], must have polygons"),
        ([[1, 2, 3, 4]], "has [1, 2, 3, 4], must have polygons of at least 3 points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "must have polygons"),
        ([[1, 2, 3, 4, 5, NAN]], "must have polygons"),
        ([1, 2, 3, 4, 5, 6], "has 1, must have polygons"),
        ("x", "is 'x', must be polygons, or size and counts"),
        ({"size": [3, 4]}, "must be polygons, or size and counts"),
        ({"size": [4, 3], "counts": [12]}, "is of the size [4, 3], must be of the image's, [3, 4]"),
        ({"size": [3, 4], "counts": [13]}, "covers 13 pixels, must cover the image's 12"),
        ({"size": [3, 4], "counts": [-1, 13]}, "must have run lengths"),
        ({"size": [3, 4], "counts": None}, "must have run lengths"),
        ({"size": [3, 4], "counts": "5 4"}, "must have run lengths"),
        ({"size": [3, 4], "counts": "o" * 50}, "must have run lengths"),
        (None, "is missing"),
    ],
)
def test_a_wrong_segmentation_is_named(tmp_path: Path, value: Any, says: str) -> None:
    found = document()
    found["annotations"][1]["segmentation"] = value
    said = refusal(tmp_path, found)
    assert "annotation 2: segmentation " in said
    assert says in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["images"].append(d["images"][0]), "image 7: duplicate id"),
        (lambda d: d["categories"].append(d["categories"][0]), "category 3: duplicate id"),
        (lambda d: d["annotations"][2].update(id=1), "annotation 1: duplicate id"),
        (lambda d: d["annotations"].insert(0, None), "annotation number 0 is None: it must be an object"),
        (lambda d: d.update(images=[], annotations=[]), "it lists no pictures"),
        (lambda d: d.update(categories={}), "categories must be a list"),
    ],
)
def test_a_wrong_list_is_named(tmp_path: Path, change: Callable[[Any], None], says: str) -> None:
    found = document()
    change(found)
    assert says in refusal(tmp_path, found)


def test_further_faults_are_counted(tmp_path: Path) -> None:
    found = document()
    for annotation in found["annotations"]:
        annotation["iscrowd"] = NAN
    assert "annotation 1: iscrowd is nan, must be 0 or 1 (and 2 more such faults)" in refusal(tmp_path, found)


@pytest.mark.parametrize("text", ["", "[", "{}", "[]", "7", "[" * 100_000, "9" * 5000, '{"images": 1}'])
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: str) -> None:
    refusal(tmp_path, text)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, content in ((tmp_path, None), (tmp_path / "none", None), (tmp_path / "bytes", b'{"images": "\xff"}')):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match="fetch it again"):
            read_annotations(path, masks=False)
