"""The accuracy that a result tells is the one that its log holds, read and judged as MLPerf's own scripts do."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.sut.models import digits
from drumfire.sut.models.shapes import SIDE, Shapes
from tests.support.command import here


def run(tmp_path: Path, model: str, *more: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result of an accuracy run, and its log."""
    words = ["run", "onnxruntime", model, "--scenario", "Offline", "--accuracy", *more, "--json", "--no-dashboard"]
    done = here(*words, "--output", tmp_path / "out")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout), json.loads((tmp_path / "out" / "mlperf_log_accuracy.json").read_text())


def test_top_1(tmp_path: Path) -> None:
    result, log = run(tmp_path, "digits")
    labels, seen, good = digits.read().labels, set[int](), 0
    for entry in log:
        if entry["qsl_idx"] in seen:
            continue
        seen.add(entry["qsl_idx"])
        (answer,) = struct.unpack("<f", bytes.fromhex(entry["data"]))
        good += int(answer) == labels[entry["qsl_idx"]]
    accuracy = result["accuracy"]
    assert (accuracy["good"], accuracy["total"], accuracy["value"]) == (good, len(seen), good / len(seen))
    assert len(seen) == 500
    # One off, and next to nothing would be right.
    assert np.mean([struct.unpack("<f", bytes.fromhex(e["data"]))[0] + 1 == labels[e["qsl_idx"]] for e in log]) < 0.2


def test_precision(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    result, log = run(tmp_path, "shapes", "--count", "60")
    annotations = [
        {
            "id": number,
            "image_id": picture + 1,
            "category_id": int(kind) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }
        for number, (picture, (x1, y1, x2, y2), kind) in enumerate(
            (
                (picture, box, kind)
                for picture, scene in enumerate(Shapes()._data.scenes[:60])
                for box, kind in zip(scene.boxes.astype(float).tolist(), scene.kinds, strict=True)
            ),
            1,
        )
    ]
    truth = {
        "images": [{"id": number, "width": SIDE, "height": SIDE} for number in range(1, 61)],
        "annotations": annotations,
        "categories": [{"id": number, "name": str(number)} for number in (1, 2, 3)],
    }
    found = []
    for entry in log:
        for index, top, left, bottom, right, score, category in struct.iter_unpack("<7f", bytes.fromhex(entry["data"])):
            assert index == entry["qsl_idx"]
            box = [left * SIDE, top * SIDE, (right - left) * SIDE, (bottom - top) * SIDE]
            found.append({"image_id": int(index) + 1, "category_id": int(category), "bbox": box, "score": score})
    ground = COCO()
    ground.dataset = truth
    ground.createIndex()
    evaluation = COCOeval(ground, ground.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert result["accuracy"]["value"] == pytest.approx(evaluation.stats[0], abs=1e-9)
    assert 0.5 < result["accuracy"]["value"] < 1
    assert (result["accuracy"]["total"], result["accuracy"]["expected"]) == (60, 60)
