"""The accuracy of gathered answers, against pycocotools."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.extra
pytest.importorskip("mlperf_logging", reason="needs the extra train")
pytest.importorskip("pycocotools")

from pycocotools.coco import COCO  # noqa: E402
from pycocotools.cocoeval import COCOeval  # noqa: E402

from drumfire.training import coco, evaluation, maskrcnn, pictures  # noqa: E402
from drumfire.training.evaluation import RankDetections  # noqa: E402
from drumfire.training.sampler import evaluation_share  # noqa: E402


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "coco"
    recipe = pictures.Recipe(
        sizes=((120, 90), (90, 120)),
        train=1,
        validation=41,
        categories=tuple(range(2, 20, 3)),
        crowd_every=6,
        empty_every=9,
    )
    pictures.generate(folder, recipe)
    return coco.annotation_file(folder, coco.VALIDATION)


def noisy_answers(file: Path, seed: int) -> dict[int, list[dict[str, Any]]]:
    """The truth, moved, doubled, of another category or left out, by image."""
    draws = np.random.default_rng(seed)
    truth = COCO_silently(file)
    found: dict[int, list[dict[str, Any]]] = {image: [] for image in truth.imgs}
    for annotation in truth.anns.values():
        for _ in range(draws.integers(0, 4)):
            shift = np.rint(draws.normal(0, 3, 2)).astype(int)
            mask = np.roll(truth.annToMask(annotation), tuple(shift[::-1]), axis=(0, 1))
            x, y, width, height = annotation["bbox"]
            box = [float(x + shift[0]), float(y + shift[1]), float(width * draws.normal(1, 0.1)), float(height)]
            category = annotation["category_id"] if draws.random() < 0.8 else int(draws.choice(list(truth.cats)))
            runs = evaluation.masks.encode(np.asfortranarray(mask))
            found[annotation["image_id"]].append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": category,
                    "score": float(draws.random()),
                    "bbox": box,
                    "segmentation": {"size": runs["size"], "counts": runs["counts"].decode()},
                }
            )
    return found


def COCO_silently(file: Path) -> Any:  # noqa: N802
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(file))


def by_pycocotools(file: Path, detections: list[dict[str, Any]], kind: str) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        judge = COCOeval(truth, truth.loadRes(detections), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_together_as_pycocotools(file: Path, world: int) -> None:
    answers = noisy_answers(file, seed=world)
    images = sorted(answers)
    of_ranks = []
    for rank in range(world):
        mine = [images[at] for at in evaluation_share(len(images), rank, world)]
        of_ranks.append(RankDetections(mine, [detection for image in mine for detection in answers[image]]))
    # An image that a second rank looked at too, as padding would make it.
    of_ranks.append(RankDetections(images[:3], [detection for image in images[:3] for detection in answers[image]]))
    found = evaluation.score(file, of_ranks)
    gathered = [detection for image in images for detection in answers[image]]
    assert found["box"] == pytest.approx(by_pycocotools(file, gathered, "bbox"), abs=5e-5)
    assert found["mask"] == pytest.approx(by_pycocotools(file, gathered, "segm"), abs=5e-5)
    assert 0.05 < found["mask"] < found["box"] + 0.5 < 1.5


def test_no_answer_at_all(file: Path) -> None:
    assert evaluation.score(file, [RankDetections([1, 2], [])]) == {"box": 0.0, "mask": 0.0}


def test_both_targets_must_be_reached() -> None:
    reached = maskrcnn.TASK.reached
    assert reached({"box": 0.377, "mask": 0.339})
    assert not reached({"box": 0.3769, "mask": 0.5})
    assert not reached({"box": 0.5, "mask": 0.3389})
