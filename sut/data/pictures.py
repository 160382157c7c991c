"""Reads pictures from files into one block of inputs, in parallel, and caches the resized pictures.

The cache's key is the recipe, the libraries that compute it and the picture's content, so an entry is never stale.
Handles files and recipes.  Does not depend on what the pictures show.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from drumfire.loadgen import installation
from drumfire.sut.data import EXTRA, DataError, recipes
from drumfire.sut.data.recipes import Pixels, Recipe

_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_ROOM_LEFT_BYTES = 1 << 28
"""Disk space that the cache leaves free."""


class _Unreadable(Exception):
    """One picture cannot be read; the text says why."""


class PictureReader:
    """Reads pictures by one recipe, and keeps each resized picture in a file under ``cache``."""

    def __init__(self, recipe: Recipe, cache: Path) -> None:
        """Raises ``DataError`` if the imaging libraries are not installed."""
        self.recipe = recipe
        self._folder = cache / "preprocessed" / f"{recipe.name}-{_fingerprint()}"

    def read(self, files: Sequence[Path]) -> Pixels:
        """The inputs of these pictures, in their order: shape (n, *recipe.shape), dtype ``recipe.dtype``.

        Raises ``DataError`` if pictures cannot be read (with their number and the first of them) or the disk is full.
        """
        self._make_folder(len(files))
        block = np.empty((len(files), *self.recipe.shape), self.recipe.dtype)
        faults: list[str | None] = [None] * len(files)

        def fill(position: int) -> None:
            try:
                self.recipe.fill(block[position], self._kept(files[position]))
            except _Unreadable as error:
                faults[position] = str(error)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(fill, range(len(files))):
                pass
        bad = {file: fault for file, fault in zip(files, faults, strict=True) if fault}
        if bad:
            file, fault = next(iter(bad.items()))
            total = len(set(files))
            raise DataError(f"cannot read {len(bad)} of {total} pictures, first {file} ({fault}): fetch them again")
        return block

    def _make_folder(self, count: int) -> None:
        needed = count * int(np.prod(self.recipe.kept_shape)) * self.recipe.kept_dtype.itemsize
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise DataError(f"cannot keep resized pictures in {self._folder}: {_why(error)}; set MODEL_DIR") from None
        if free < needed + _ROOM_LEFT_BYTES:
            raise DataError(
                f"{self._folder} has {free / 1e9:.1f} GB free, but resized pictures may need {needed / 1e9:.1f} GB "
                "there: make room, or set MODEL_DIR to another disk"
            )

    def _kept(self, file: Path) -> Pixels:
        """The resized picture, from the cache if it is there."""
        try:
            content = file.read_bytes()
        except OSError as error:
            raise _Unreadable(_why(error)) from None
        name = hashlib.sha256(content).hexdigest()
        place = self._folder / name[:2] / name
        shape, dtype = self.recipe.kept_shape, self.recipe.kept_dtype
        try:
            values = np.fromfile(place, dtype)
            if values.size == np.prod(shape):
                return values.reshape(shape)
        except OSError:  # it is not there, or it is not a file, which storing it will report
            pass
        resized = np.ascontiguousarray(self.recipe.resized(decoded(content), self.recipe.size))
        if resized.shape != shape:  # its recipe is chosen by its annotated size
            raise _Unreadable("it has another shape than its annotation says")
        _store(resized, place)
        return resized


def decoded(content: bytes) -> Pixels:
    """Decode a file's ``content``: uint8 of shape (height, width, 3) in the order RGB; grey pictures become RGB."""
    import cv2

    if not content:
        raise _Unreadable("the file is empty")
    if content.startswith(b"\xff\xd8") and content.rfind(_END_OF_IMAGE) < content.rfind(_START_OF_SCAN):
        raise _Unreadable("the JPEG is truncated")  # OpenCV would fill the rest with grey
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise _Unreadable(" ".join(str(error).split())[:100]) from None
    if pixels is None:
        raise _Unreadable("not a picture")
    coloured: Pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return coloured


def _store(resized: Pixels, place: Path) -> None:
    try:
        place.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".", delete=False) as file:
            try:
                resized.tofile(file)
            except BaseException:
                os.unlink(file.name)
                raise
        os.replace(file.name, place)
    except OSError as error:
        raise DataError(f"cannot keep resized pictures in {place.parent}: {_why(error)}; set MODEL_DIR") from None


def _fingerprint() -> str:
    """A hash of the code and of the libraries' versions that resize pictures."""
    try:
        import cv2
        import PIL
    except ImportError as error:
        raise DataError(f"reading pictures needs {error.name}: {installation.command(EXTRA)}") from None
    code = Path(recipes.__file__).read_bytes()
    return hashlib.sha256(code + f"{cv2.__version__} {PIL.__version__}".encode()).hexdigest()[:12]


def _why(error: OSError) -> str:
    return error.strerror or str(error)
