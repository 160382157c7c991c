"""val_map.txt is read whole and in order, and each thing that may be wrong with it or its pictures is one line."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drumfire.sut.data import DataError, imagenet


def folder(path: Path, lines: list[str], files: list[str]) -> Path:
    (path / "val").mkdir()
    for file in files:
        (path / file).touch()
    (path / imagenet.LIST).write_text("".join(line + "\n" for line in lines))
    return path


def test_the_list_is_read_in_its_order(tmp_path: Path) -> None:
    names = ["val/b.jpg", "val/a.JPEG", "val/c.png"]
    found = imagenet.read(folder(tmp_path, ["val/b.jpg 999", "val/a.JPEG\t0", "", "  val/c.png   17  "], names))
    assert list(found.files) == [tmp_path / name for name in names]
    assert found.labels.tolist() == [999, 0, 17]
    first = imagenet.read(tmp_path, count=2)
    assert (len(first.files), first.labels.tolist()) == (2, [999, 0])


@settings(max_examples=50)
@given(name=st.text(st.characters(categories=["L", "N", "P"]), min_size=1), label=st.integers(0, 999))
def test_any_name_and_label(name: str, label: int) -> None:
    assert imagenet._pair(f" {name}  {label}\n", "line 1") == (name, label)
    assert imagenet._pair(f"a b/{name} {label}", "line 1") == (f"a b/{name}", label)


@pytest.mark.parametrize(
    ("lines", "files", "says"),
    [
        ([], [], "lists no picture"),
        (["val/a.jpg"], ["val/a.jpg"], r"val_map.txt line 1 is 'val/a.jpg': it must be 'path class'"),
        (["val/a.jpg 1", "val/b.jpg x"], ["val/a.jpg", "val/b.jpg"], "line 2 is 'val/b.jpg x'"),
        (["val/a.jpg -1"], ["val/a.jpg"], "line 1 is"),
        (["val/a.jpg " + "9" * 5000], ["val/a.jpg"], "has the class 99999999999999999999: classes are 0..999"),
        (["val/a.jpg 1000"], ["val/a.jpg"], "has the class 1000: classes are 0..999, without a background class"),
        (["val/a.jpg 1", "val/b.jpg 2"], [], "2 of the 2 pictures that .*val_map.txt lists are missing, first .*a.jpg"),
        (["val/a.jpg 1", "val/a.jpg 2"], ["val/a.jpg"], "lists .*a.jpg more than once"),
        (["val/a.jpg 1"], ["val/a.jpg", "val/b.jpg", "val/c.png"], "has 1 lines and lacks 2 pictures of its folders, "),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, lines: list[str], files: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says) as raised:
        imagenet.read(folder(tmp_path, lines, files))
    assert "\n" not in str(raised.value)


def test_a_byte_order_mark_is_skipped_and_names_are_utf_8(tmp_path: Path) -> None:
    folder(tmp_path, [], ["val/é.jpg"])
    (tmp_path / imagenet.LIST).write_bytes("\ufeffval/é.jpg 3\n".encode())
    found = imagenet.read(tmp_path)
    assert (list(found.files), found.labels.tolist()) == ([tmp_path / "val/é.jpg"], [3])


def test_a_missing_list_names_the_mend(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"val_map\.txt is missing: .*drumfire prepare fake imagenet"):
        imagenet.read(tmp_path)
    (tmp_path / imagenet.LIST).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="cannot be read"):
        imagenet.read(tmp_path)
