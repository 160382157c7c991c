"""Generated data sets: the same each time, of several sizes, grey ones among them, whole in their layouts."""

from pathlib import Path

import pytest

from drumfire.sut.data import DataError, coco, fake, imagenet
from drumfire.sut.data.pictures import PictureReader
from drumfire.sut.data.recipes import RECIPES

cv2 = pytest.importorskip("cv2")
pytest.importorskip("PIL")
pytestmark = pytest.mark.extra


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", fake.KINDS)
def test_the_same_every_time(tmp_path: Path, kind: str) -> None:
    for name in ("one", "other"):
        fake.generate(kind, tmp_path / name, 12)
    fake.generate(kind, tmp_path / "seeded", 12, seed=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "other") != contents(tmp_path / "seeded")
    assert len(list((tmp_path / "one").rglob("*.jpg"))) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "seeded"]  # nothing partial is left


def test_imagenet_pictures_show_their_classes(tmp_path: Path) -> None:
    fake.generate("imagenet", tmp_path / "fake", 30)
    found = imagenet.read(tmp_path / "fake")
    sizes = {cv2.imread(str(file), cv2.IMREAD_UNCHANGED).shape for file in found.files}
    assert len(sizes) >= 9
    assert {len(size) for size in sizes} == {2, 3}  # grey and colour
    for name in ("imagenet", "imagenet_mobilenet", "imagenet_pytorch"):
        block = PictureReader(RECIPES[name], tmp_path / "cache").read(found.files)
        assert [fake.shown_class(one.transpose(1, 2, 0)) for one in block] == found.labels.tolist()


@pytest.mark.parametrize("layout", [coco.COCO, coco.OPENIMAGES], ids=lambda layout: layout.name)
def test_annotated_pictures(tmp_path: Path, layout: coco.Layout) -> None:
    fake.generate(layout.name, tmp_path / "fake", 40)
    truth = coco.read(tmp_path / "fake", layout)
    for file, image in zip(truth.files, truth.images, strict=True):
        assert cv2.imread(str(file)).shape[:2] == (image["height"], image["width"])
    annotated = {annotation["image_id"] for annotation in truth.annotations}
    assert 0 < 40 - len(annotated) < 10  # some show nothing
    assert sum(annotation["iscrowd"] for annotation in truth.annotations) > 0
    for annotation in truth.annotations:
        image = truth.images[annotation["image_id"] - 1]
        x, y, width, height = annotation["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + width <= image["width"] + 0.02
        assert y + height <= image["height"] + 0.02
        assert min(width, height) > 0


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(DataError, match="exists already: remove it"):
        fake.generate("coco", tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_place_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^cannot write"):
        fake.generate("coco", tmp_path / "file" / "fake", 3)
