"""ImageNet's layout: ``val_map.txt``, a picture's path and its class a line, with the pictures beside it.

Knows the list and which files there are; must not know pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from drumfire.sut.data import DataError

LIST = "val_map.txt"
CLASSES = 1000
VALIDATION_COUNT = 50_000
"""Pictures of the ILSVRC 2012 validation set, on which the published figures stand."""
_ENDINGS = {".jpeg", ".jpg", ".png"}


@dataclass(frozen=True)
class LabelledPictures:
    """The pictures of a list with their classes, in its order."""

    files: Sequence[Path]
    labels: npt.NDArray[np.int64]
    """Classes 0..999, shape (len(files),)."""


def read(folder: Path, count: int | None = None) -> LabelledPictures:
    """The list of ``folder``, or its first ``count`` lines.  Raises ``DataError`` with the first fault."""
    listing = folder / LIST
    try:
        lines = listing.read_text().splitlines()
    except FileNotFoundError:
        raise DataError(
            f"{listing} is missing: a line 'path class' for each picture (the val.txt of caffe_ilsvrc12 will do), or "
            f"generate pictures with 'drumfire prepare fake imagenet'"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {listing}: {error}") from None
    pairs = [_pair(line, f"{listing} line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not pairs:
        raise DataError(f"{listing} lists no picture: a line 'path class' for each is needed")
    files = [folder / name for name, _ in pairs]
    _check_files(files, listing)
    kept = slice(None, count)
    return LabelledPictures(files[kept], np.array([label for _, label in pairs[kept]], np.int64))


def _pair(line: str, where: str) -> tuple[str, int]:
    name, label = ["", *line.rsplit(maxsplit=1)][-2:]
    if not name or not label.isascii() or not label.isdigit():
        raise DataError(f"{where} is {line.strip()[:60]!r}: 'path class' is needed")
    if int(label) >= CLASSES:
        raise DataError(f"{where} has the class {label}: classes are 0..{CLASSES - 1}, without a background class")
    return name.strip(), int(label)


def _check_files(files: Sequence[Path], listing: Path) -> None:
    """Each line has its picture, and each picture of the same folders has a line: a list cut short is not taken."""
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
            f"{listing} has {len(files)} lines and {len(unlisted)} further pictures are there, first {unlisted[0]}: "
            "give each a line or take them away (--count N uses the first N lines)"
        )
