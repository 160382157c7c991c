"""Pictures are read in order, through a cache that follows content and recipe; broken ones are counted and named."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest

from drumfire.sut.data import DataError, pictures
from drumfire.sut.data.pictures import PictureReader
from drumfire.sut.data.recipes import RECIPES

cv2 = pytest.importorskip("cv2")
pytest.importorskip("PIL")
pytestmark = pytest.mark.extra

RECIPE = RECIPES["coco-300"]


def picture(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def kept(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_inputs_come_in_the_order_asked_for(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{n}.png", n) for n in range(20)]
    block = PictureReader(RECIPE, tmp_path / "cache").read([files[n] for n in (7, 3, 7, 19)])
    assert block.flags.c_contiguous
    assert block.shape == (4, 300, 300, 3)
    np.testing.assert_array_equal(block[0], block[2])
    one_by_one = [PictureReader(RECIPE, tmp_path / "other").read([files[n]])[0] for n in (7, 3, 7, 19)]
    np.testing.assert_array_equal(block, one_by_one)


@pytest.mark.parametrize("name", RECIPES)
def test_the_cache_gives_what_was_computed(tmp_path: Path, name: str) -> None:
    files = [picture(tmp_path / f"{n}.png", n) for n in range(2)]
    first = PictureReader(RECIPES[name], tmp_path / "cache").read(files)
    decoded = pictures.decoded
    pictures.decoded = None  # type: ignore[assignment]  # nothing is decoded a second time
    try:
        again = PictureReader(RECIPES[name], tmp_path / "cache").read(files)
    finally:
        pictures.decoded = decoded
    np.testing.assert_array_equal(first, again)


def test_a_changed_picture_is_not_taken_from_the_cache(tmp_path: Path) -> None:
    reader = PictureReader(RECIPE, tmp_path / "cache")
    file = picture(tmp_path / "one.png", 1)
    before = reader.read([file])
    picture(file, 2)
    assert (reader.read([file]) != before).any()
    assert len(kept(tmp_path / "cache")) == 2


def test_another_library_version_is_another_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = picture(tmp_path / "one.png", 1)
    PictureReader(RECIPE, tmp_path / "cache").read([file])
    monkeypatch.setattr(cv2, "__version__", "0.0")
    PictureReader(RECIPE, tmp_path / "cache").read([file])
    assert len(kept(tmp_path / "cache")) == 2


def test_a_cut_cache_file_is_made_anew(tmp_path: Path) -> None:
    reader = PictureReader(RECIPE, tmp_path / "cache")
    file = picture(tmp_path / "one.png", 1)
    before = reader.read([file])
    (place,) = kept(tmp_path / "cache")
    place.write_bytes(place.read_bytes()[:1000])
    np.testing.assert_array_equal(reader.read([file]), before)
    assert place.stat().st_size == 300 * 300 * 3


def test_broken_pictures_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{n}.jpg", n) for n in range(5)]
    files[1].write_bytes(files[1].read_bytes()[:-200])
    files[2].write_bytes(b"no picture")
    files[3].unlink()
    files[4].write_bytes(b"")
    says = r"^cannot read 4 of 5 pictures, first .*1\.jpg \(the JPEG is truncated\): fetch them again$"
    with pytest.raises(DataError, match=says):
        PictureReader(RECIPE, tmp_path / "cache").read(files)
    with pytest.raises(DataError, match=r"3\.jpg \(No such file or directory\)"):
        PictureReader(RECIPE, tmp_path / "cache").read(files[3:])
    with pytest.raises(DataError, match=r"4\.jpg \(the file is empty\)"):
        PictureReader(RECIPE, tmp_path / "cache").read(files[4:])


def test_a_disk_without_room_is_told_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = picture(tmp_path / "one.png", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(DataError, match=r"has 0\.0 GB free, but resized pictures may need 0\.0 GB there: make room"):
        PictureReader(RECIPE, tmp_path / "cache").read([file])


def test_a_disk_that_fills_up_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = picture(tmp_path / "one.png", 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pictures.os, "replace", full)
    with pytest.raises(
        DataError, match=r"^cannot keep resized pictures in .*: No space left on device; set MODEL_DIR$"
    ):
        PictureReader(RECIPE, tmp_path / "cache").read([file])


def test_a_cache_in_the_way_of_a_file_is_one_line(tmp_path: Path) -> None:
    file = picture(tmp_path / "one.png", 1)
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match=r"^cannot keep resized pictures in"):
        PictureReader(RECIPE, tmp_path / "cache").read([file])
