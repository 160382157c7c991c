"""Pictures with their boxes and masks, as COCO stores them and as they are shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.extra
pytest.importorskip("mlperf_logging", reason="needs the extra train")

import torch  # noqa: E402

from drumfire.training import coco, pictures, prepare  # noqa: E402
from drumfire.training.batch import Batch  # noqa: E402
from drumfire.training.coco import Pictures, Sample, Unreadable  # noqa: E402
from drumfire.training.faults import InputError  # noqa: E402


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO's sizes and categories, with crowds and images without boxes."""
    folder = tmp_path_factory.mktemp("sample") / "coco"
    pictures.generate(folder, pictures.SAMPLE)
    return folder


def test_the_generated_sample_has_what_coco_has(sample: Path) -> None:
    found = coco.read(sample, coco.TRAIN)
    assert len(found.categories) == 80
    shapes = {(picture.width > picture.height) for picture in found.pictures}
    assert shapes == {True, False}
    crowds = [a for picture in found.pictures for a in picture.annotations if a["iscrowd"]]
    assert crowds
    assert all(isinstance(a["segmentation"]["counts"], list) for a in crowds)
    empty = [picture for picture in found.pictures if not picture.annotations]
    assert empty
    assert len(found.trainable()) == len(found.pictures) - len(empty)


def test_the_same_seed_draws_the_same_pictures(tmp_path: Path) -> None:
    recipe = pictures.Recipe(sizes=((64, 48),), train=3, validation=1, categories=(1, 3, 7))
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        pictures.generate(tmp_path / name, recipe, seed)
    one, again, other = (
        b"".join(path.read_bytes() for path in sorted((tmp_path / name).rglob("*.*")))
        for name in ("one", "again", "other")
    )
    assert one == again
    assert one != other


def test_masks_fill_their_boxes_and_crowds_are_left_out(sample: Path) -> None:
    found = coco.read(sample, coco.TRAIN)
    shown = Pictures(found.pictures, found.categories)
    for index, picture in enumerate(found.pictures):
        got = shown[0, index]
        assert isinstance(got, Sample)
        assert got.image.shape == (3, picture.height, picture.width)
        assert len(got.boxes) == sum(not a["iscrowd"] for a in picture.annotations)
        for box, mask in zip(got.boxes, got.masks, strict=True):
            ys, xs = torch.nonzero(mask, as_tuple=True)
            extent = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            torch.testing.assert_close(extent.float(), box, atol=1.5, rtol=0)


def test_half_are_mirrored_with_all_that_is_in_them(sample: Path) -> None:
    found = coco.read(sample, coco.TRAIN)
    plain, shown = Pictures(found.pictures, found.categories), Pictures(found.pictures, found.categories, seed=3)
    mirrored = 0
    for epoch in range(1, 6):
        for index, picture in enumerate(found.pictures[:6]):
            before, after = plain[0, index], shown[epoch, index]
            assert isinstance(before, Sample)
            assert isinstance(after, Sample)
            if torch.equal(before.image, after.image):
                assert torch.equal(before.boxes, after.boxes)
                continue
            mirrored += 1
            assert torch.equal(before.image.flip(-1), after.image)
            assert torch.equal(before.masks.flip(-1), after.masks)
            torch.testing.assert_close(picture.width - before.boxes[:, [2, 0]], after.boxes[:, [0, 2]])
    assert 5 < mirrored < 25


def test_a_batch_is_the_samples(sample: Path) -> None:
    found = coco.read(sample, coco.TRAIN)
    shown = Pictures(found.pictures, found.categories, seed=3)
    samples = [shown[1, index] for index in range(6)]
    batch = Batch.of(samples)
    device = torch.device("cpu")
    for one, image, target in zip(samples, batch.images(device), batch.targets(device), strict=True):
        assert isinstance(one, Sample)
        torch.testing.assert_close(image, one.image.float() / 255)
        assert torch.equal(target["boxes"], one.boxes)
        assert torch.equal(target["labels"], one.labels)
        assert torch.equal(target["masks"], one.masks)
    failed = Batch.of([samples[0], Unreadable("it is gone")])
    assert failed.fault == "it is gone"


def test_an_image_that_is_not_as_the_annotations_say(sample: Path, tmp_path: Path) -> None:
    found = coco.read(sample, coco.TRAIN)
    wrong = tmp_path / "wrong.jpg"
    Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8)).save(wrong)
    picture = coco.Picture(1, wrong, 640, 480, True, b"[]")
    got = Pictures([picture], found.categories)[0, 0]
    assert isinstance(got, Unreadable)
    assert "it is 30x20 and the annotations say 640x480" in got.fault


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.pop("images"), "images is missing"),
        (lambda d: d["annotations"][0].update(iscrowd=float("nan")), "iscrowd is nan, must be 0 or 1"),
        (lambda d: d["annotations"][0].update(segmentation=[]), "segmentation is an empty list, must have a polygon"),
        (lambda d: d["annotations"][0].pop("segmentation"), "segmentation is missing"),
    ],
)
def test_wrong_annotations_are_told_in_one_line(sample: Path, tmp_path: Path, change: object, told: str) -> None:
    found = json.loads(coco.annotation_file(sample, coco.TRAIN).read_text())
    change(found)  # type: ignore[operator]
    file = coco.annotation_file(tmp_path, coco.TRAIN)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(found))
    with pytest.raises(InputError) as error:
        coco.read(tmp_path, coco.TRAIN)
    assert str(error.value).startswith(f"{file}: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_checking_a_folder_names_what_is_missing(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["coco", "--check", "--data-dir", str(tmp_path / "none")]) == 2
    told = capsys.readouterr().err
    assert "instances_train2017.json" in told
    assert "val2017" in told
    assert prepare.main(["coco", "--check", "--data-dir", str(sample)]) == 2
    assert "R-50.pkl is missing" in capsys.readouterr().err
    (sample / "R-50.pkl").touch()
    assert prepare.main(["coco", "--check", "--data-dir", str(sample)]) == 0
    assert "train: 16 images, 13 of them" in capsys.readouterr().out
    gone = sorted((sample / "train2017").iterdir())[2]
    kept = gone.read_bytes()
    gone.unlink()
    assert prepare.main(["coco", "--check", "--data-dir", str(sample)]) == 2
    assert f"1 of 16 images are missing, first {gone}" in capsys.readouterr().err
    gone.write_bytes(kept)
