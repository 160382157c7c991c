"""A user's file of labels: the correct answer to each sample, in the order of the samples.

.npy, .npz, JSON lines, or text with a label a line.  Does not depend on how answers are judged by them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.errors import one_line
from drumfire.loadgen.files import check_file, parse_json, read_bytes
from drumfire.sut.data import DataError
from drumfire.sut.data.json_file import LINES
from drumfire.sut.data.npy import members, read_member, read_npy

Labels: TypeAlias = npt.NDArray[Any] | Sequence[Any]
"""One label for each sample: an array of shape (n, ...), or what lines hold, as ``str`` (text) or as JSON's values."""

_MEMBER = "labels.npy"
_MOST_TEXT = 60


def read_labels(path: Path) -> Labels:
    """The file's labels, at least one.  Raises ``DataError`` for the first fault; never unpickles."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        raise DataError(
            f"{path}: labels in JSON have one on each line, in a file named .jsonl (only --metric map takes a .json "
            "file, COCO's annotations)"
        )
    labels = _array(path) if suffix in (".npy", ".npz") else _lines(path, json=suffix in LINES)
    if not len(labels):
        raise DataError(f"{path} holds no label: give one for each sample")
    return labels


def class_numbers(labels: Labels, path: Path) -> npt.NDArray[np.int64]:
    """The labels as numbers of classes from 0, shape (n,).  Raises ``DataError``, which names the first fault."""
    if isinstance(labels, np.ndarray):
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DataError(
                f"{path} holds {labels.dtype} of shape {list(labels.shape)}: a class is a whole number, one for each "
                "sample"
            )
        return _from_zero(labels, path)
    numbers = [_whole(label) for label in labels]
    if None in numbers:
        wrong = numbers.index(None)
        raise DataError(
            f"{path} line {wrong + 1}: {_shown(labels[wrong])} is not the number of a class, such as 0: give the place "
            "of the right class among the model's scores (texts can be compared with --metric exact)"
        )
    return _from_zero(np.array(numbers, object), path)


def plain(labels: Labels) -> Labels:
    """Lines of text as numbers, where all of them are: an array of int64 or float64.  Other labels are unchanged."""
    if isinstance(labels, np.ndarray) or not all(isinstance(label, str) for label in labels):
        return labels
    for kind in (int, float):
        try:
            return np.array([kind(label) for label in labels], np.dtype(kind))
        except (ValueError, OverflowError):
            continue
    return labels


def _from_zero(numbers: npt.NDArray[Any], path: Path) -> npt.NDArray[np.int64]:
    strange = np.flatnonzero((numbers < 0) | (numbers >= 2**24))
    if strange.size:
        at = int(strange[0])
        raise DataError(f"{path}: label {at + 1} is {numbers[at]}: classes count from 0, at most to {2**24 - 1:,}")
    return numbers.astype(np.int64)


def _whole(label: Any) -> int | None:
    if isinstance(label, str):
        try:
            return int(label)
        except ValueError:
            return None
    return label if type(label) is int else None


def _array(path: Path) -> npt.NDArray[Any]:
    check_file(path, "the file of labels", may_be_empty=False)
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                found = read_member(archive, _member(archive, path))
        else:
            with path.open("rb") as file:
                found = read_npy(file, path.stat().st_size)
    except DataError:
        raise
    except (Exception, SystemError) as error:  # a damaged file can make numpy and zipfile raise nearly anything
        reason = (
            "it holds Python objects, which are never read" if "allow_pickle" in str(error) else one_line(error, 200)
        )
        if isinstance(error, zipfile.BadZipFile | EOFError):
            reason = "it is damaged or cut short"
        raise DataError(
            f"the file of labels {path} cannot be read: {reason}: write numbers or texts with NumPy"
        ) from None
    if found.dtype.hasobject or found.dtype.kind not in "biufSU":
        raise DataError(f"{path} holds {found.dtype}: labels are numbers or texts")
    if found.ndim == 0:
        raise DataError(f"{path} holds a single value, not an array with a label for each sample")
    return found.astype(found.dtype.newbyteorder("="), copy=False)  # a file may be in the other byte order


def _member(archive: zipfile.ZipFile, path: Path) -> str:
    """The name of the array in the archive."""
    names = members(archive)
    if _MEMBER in names or len(names) == 1:
        return _MEMBER if _MEMBER in names else names[0]
    shown = ", ".join(name.removesuffix(".npy") for name in names[:5])
    raise DataError(f"{path} holds {shown or 'no array'}: keep one array, or call one {_MEMBER.removesuffix('.npy')!r}")


def _lines(path: Path, *, json: bool) -> Sequence[Any]:
    try:
        text = read_bytes(path, "the file of labels", error=DataError).decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in UTF-8, at byte {error.start}: labels are text with one on each line, .jsonl, .npy "
            "or .npz"
        ) from None
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    if not json:
        return lines
    labels = []
    for number, line in enumerate(lines, 1):
        try:
            label = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path} line {number}: {_shown(line)} is not JSON: {one_line(error, 100)}") from None
        if isinstance(label, dict):
            raise DataError(f"{path} line {number}: {_shown(line)} is no label: give the value alone, or a list")
        labels.append(label)
    return labels


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}..."
