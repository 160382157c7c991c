"""Files of labels: every form, and what is wrong with one in a line."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.errors import UserError
from drumfire.sut.models.metrics.labels import class_numbers, plain, read_labels

CLASSES = np.array([2, 0, 1])


def write(path: Path, content: bytes | str | np.ndarray | dict[str, Any]) -> Path:
    if isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", CLASSES),
        ("a.npy", CLASSES.astype(">i4")),
        ("a.npy", CLASSES.astype(np.uint8)[:, None]),
        ("a.npz", {"y": CLASSES}),
        ("a.npz", {"x": np.zeros(9), "labels": CLASSES}),
        ("a.txt", "2\n0\n1\n"),
        ("a.txt", "\ufeff2\r\n0\r\n1"),
        ("labels", " 2\n0 \n1"),
        ("a.jsonl", "2\n0\n1\n"),
    ],
)  # fmt: skip
def test_classes(name: str, content: Any, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    found = class_numbers(read_labels(path), path)
    assert (found.tolist(), found.dtype, found.dtype.isnative) == ([2, 0, 1], np.int64, True)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "2\ncat\n1\n", "a.txt line 2: 'cat' is not the number of a class"),
        ("a.txt", "2\n\n1\n", "line 2: '' is not the number"),
        ("a.txt", "2\n1.0\n", "line 2: '1.0' is not the number"),
        ("a.txt", "ILSVRC2012_val_00000001.JPEG 65\n", "line 1: 'ILSVRC2012_val_00000001.JPEG 65' is not the number"),
        ("a.txt", "2\n-1\n", "label 2 is -1: classes count from 0"),
        ("a.txt", "9" * 30, "classes count from 0, at most to 16,777,215"),
        ("a.npy", np.array([1, 2**60]), "label 2 is 1152921504606846976: classes count from 0"),
        ("a.npy", np.array([1.0, 2.0]), "holds float64 of shape [2]: a class is a whole number"),
        ("a.npy", np.zeros((3, 4), int), "of shape [3, 4]: a class is a whole number"),
        ("a.npy", np.array([True, False]), "holds bool of shape [2]"),
        ("a.jsonl", '1\n{"label": 2}\n', "line 2: '{\"label\": 2}' is no label"),
        ("a.jsonl", "1\ntrue\n", "line 2: True is not the number"),
    ],
)  # fmt: skip
def test_what_is_no_class(name: str, content: Any, says: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UserError) as raised:
        class_numbers(read_labels(path), path)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def damaged() -> bytes:
    return zipped("labels")[:-30]


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, that one is there
        for name in names:
            archive.writestr(f"{name}.npy", saved(CLASSES))
    return file.getvalue()


def saved(array: np.ndarray) -> bytes:
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npy", np.array([1, None], object), "it holds Python objects, which are never read"),
        ("a.npz", {"labels": np.array([[1], None], object)}, "it holds Python objects, which are never read"),
        ("a.npy", np.array(3), "a single value"),
        ("a.npy", np.array([1j]), "holds complex128: labels are numbers or texts"),
        ("a.npy", np.array(["2020"], "datetime64[Y]"), "labels are numbers or texts"),
        ("a.npy", np.zeros((0,)), "holds no label"),
        ("a.npz", {"x": CLASSES, "y": CLASSES}, "holds x, y: keep one array, or call one 'labels'"),
        ("a.npz", {}, "holds no array"),
        ("a.npz", damaged(), "it is damaged or cut short"),
        ("a.npy", b"", "it is empty"),
        ("a.npy", b"no array", "cannot be read"),
        ("a.npz", b"no archive", "cannot be read"),
        ("a.txt", "", "holds no label"),
        ("a.npy", saved(CLASSES) + b"more", f"{CLASSES.nbytes + 4} bytes follow its header, which says"),
        ("a.npz", zipped("labels", "labels"), "it has labels.npy twice"),
        ("a.txt", b"1\n\xff\xfe1", "a.txt is not text in UTF-8, at byte 2"),
        ("a.json", "[1, 2]", "have one on each line, in a file named .jsonl"),
        ("a.jsonl", '1\n{"a": [1, 2\n', "a.jsonl line 2: '{\"a\": [1, 2' is not JSON"),
        ("a.jsonl", "1\nNaN\n", "line 2: 'NaN' is not JSON"),
        ("a.jsonl", '1\n{"a": 1, "a": 2}\n', "an object has 'a' twice"),
        ("a.jsonl", '1\n{"a": 1}\n', "a.jsonl line 2: '{\"a\": 1}' is no label: give the value alone, or a list"),
        ("a.jsonl", "1\n\n2\n", "line 2: '' is not JSON"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_told_in_a_line(name: str, content: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        read_labels(write(tmp_path / name, content))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.npy", "no such file"), (tmp_path, "it is a folder")):
        with pytest.raises(UserError, match=f"the file of labels .* cannot be read: .*{why}"):
            read_labels(path)


def test_lines_are_numbers_only_where_all_are() -> None:
    assert plain(["1", "2"]).tolist() == [1, 2]  # type: ignore[union-attr]
    assert plain(["1", "2.5"]).tolist() == [1.0, 2.5]  # type: ignore[union-attr]
    assert plain(["1", "two"]) == ["1", "two"]
    assert plain(["9" * 40, "1"]).tolist() == [1e40, 1.0]  # type: ignore[union-attr]
    assert plain([[1], [2, 3]]) == [[1], [2, 3]]
