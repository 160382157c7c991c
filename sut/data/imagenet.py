"""ImageNet's layout: the pictures, and ``val_map.txt`` with a picture's path and its class on each line.

Checks the list against the files.  Does not read pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.files import read_bytes
from drumfire.sut.data import DataError

LIST = "val_map.txt"
CLASSES = 1000
VALIDATION_COUNT = 50_000
"""Number of pictures in the ILSVRC 2012 validation set, which the published figures refer to."""
_MOST_DIGITS = 20
_ENDINGS = {".jpeg", ".jpg", ".png"}


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures of a list with their classes, in its order."""

    files: Sequence[Path]
    labels: npt.NDArray[np.int64]
    """Classes 0..999, shape (len(files),)."""


def read(folder: Path, count: int | None = None) -> LabelledPictures:
    """Read the list of ``folder``, or its first ``count`` lines.  Raises ``DataError`` for the first fault."""
    listing = folder / LIST
    if not listing.exists():
        raise DataError(
            f"{listing} is missing: write a line 'path class' for each picture (caffe_ilsvrc12's val.txt has them), or "
            "generate pictures with 'drumfire prepare fake imagenet'"
        )
    try:
        lines = read_bytes(listing, error=DataError).decode().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{listing} cannot be read: {error}") from None
    pairs = [_pair(line, f"{listing} line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not pairs:
        raise DataError(f"{listing} lists no pictures: write a line 'path class' for each")
    files = [folder / name for name, _ in pairs]
    _check_files(files, listing)
    kept = slice(None, count)
    return LabelledPictures(files[kept], np.array([label for _, label in pairs[kept]], np.int64))


def _pair(line: str, where: str) -> tuple[str, int]:
    name, label = ["", *line.rsplit(maxsplit=1)][-2:]
    if not name or not label.isascii() or not label.isdigit():
        raise DataError(f"{where} is {line.strip()[:60]!r}: it must be 'path class'")
    if len(label) > _MOST_DIGITS or int(label) >= CLASSES:
        raise DataError(
            f"{where} has the class {label[:_MOST_DIGITS]}: classes are 0..{CLASSES - 1}, without a background class"
        )
    return name.strip(), int(label)


def _check_files(files: Sequence[Path], listing: Path) -> None:
    """Raise ``DataError`` unless each line has a picture and each picture of these folders has exactly one line."""
    there = {
        folder / file.name
        for folder in sorted({file.parent for file in files})
        if folder.is_dir()
        for file in folder.iterdir()
        if file.suffix.lower() in _ENDINGS
    }
    absent = [file for file in files if file not in there and not file.is_file()]
    if absent:
        raise DataError(
            f"{len(absent)} of the {len(files)} pictures that {listing} lists are missing, first {absent[0]}: "
            "put them there, or correct the list"
        )
    twice = [file for file, times in Counter(files).items() if times > 1]
    if twice:
        raise DataError(f"{listing} lists {twice[0]} more than once: remove the second line")
    unlisted = sorted(there - set(files))
    if unlisted:
        raise DataError(
            f"{listing} has {len(files)} lines and lacks {len(unlisted)} pictures of its folders, first {unlisted[0]}: "
            "add a line for each or remove them (--count N uses the first N lines)"
        )
