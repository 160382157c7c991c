"""Checks and reads files, which may be damaged, another's, or none: what is read of a saved run has the declared type.

Every function that reads raises ``UserError``, whose text names the file.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.errors import UserError, one_line
from drumfire.loadgen.schema import Schema, fault

_MOST_DIGITS = 300
"""A longer whole number is no figure, and has no floating-point form."""
_MOST_TEXT = 200
_KINDS: dict[Callable[[int], bool], str] = {
    stat.S_ISDIR: "it is a folder, not a file",
    stat.S_ISFIFO: "it is a pipe, not a file",
    stat.S_ISSOCK: "it is a socket, not a file",
    stat.S_ISCHR: "it is a device, not a file",
    stat.S_ISBLK: "it is a device, not a file",
}


def check_file(path: Path, what: str = "", *, may_be_empty: bool = True) -> None:
    """Raise ``UserError`` unless ``path`` is a readable file; never waits for a pipe or a device.

    ``what``: the file's use, for the message.
    """
    if why := _fault(path, may_be_empty):
        raise UserError(_unreadable(path, what, why))


def read_bytes(
    path: Path, what: str = "", *, may_be_empty: bool = True, most: int = -1, error: type[UserError] = UserError
) -> bytes:
    """A person's file without its byte order mark: all of it, or its first ``most`` bytes.

    Raises ``error`` where ``check_file`` raises, or where reading fails.
    """
    why = _fault(path, may_be_empty)
    if not why:
        try:
            with path.open("rb") as file:
                return file.read(most).removeprefix(codecs.BOM_UTF8)
        except OSError as failed:
            why = failed.strerror or one_line(failed, _MOST_TEXT)
    raise error(_unreadable(path, what, why))


def _unreadable(path: Path, what: str, why: str) -> str:
    return f"{what + ' ' if what else ''}{path} cannot be read: {why}"


def _fault(path: Path, may_be_empty: bool) -> str:
    """Why the file cannot be read; empty if it can."""
    try:
        found = path.stat()
        why = next((kind for is_kind, kind in _KINDS.items() if is_kind(found.st_mode)), "")
        if not why and not found.st_size and not may_be_empty:
            why = "it is empty"
        if not why and not os.access(path, os.R_OK):
            why = os.strerror(errno.EACCES)
    except FileNotFoundError:
        why = "there is no such file"
    except (OSError, ValueError) as error:  # a name with a null byte, for one
        why = getattr(error, "strerror", None) or one_line(error, _MOST_TEXT)
    return why


@contextlib.contextmanager
def in_one_step(path: Path) -> Iterator[BinaryIO]:
    """A file that becomes ``path`` when it is whole, so that nobody finds half of it; without it on an error."""
    half = path.with_name(f"{path.name}.partial")
    try:
        with half.open("wb") as file:
            yield file
        os.replace(half, path)
    except BaseException:
        with contextlib.suppress(OSError):
            half.unlink()
        raise


def write_array_head(file: BinaryIO, dtype: np.dtype[Any], size: int) -> None:
    """What comes before the values of an array in a file.

    Write these with ``file.write``: ``numpy.save`` does not say why they could not be written.
    """
    header = {"descr": dtype.str, "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, header)


def write_array(array: npt.NDArray[Any], file: BinaryIO) -> None:
    """An array of one axis, in one piece of memory."""
    write_array_head(file, array.dtype, array.size)
    file.write(array.data)


def read_text(path: Path) -> str:
    check_file(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error, _MOST_TEXT)}") from None


def read_json(path: Path, schema: Schema, *, whole: bool = False) -> Any:
    """A value of the types in ``schema``, with all its properties if ``whole`` (see ``drumfire.loadgen.schema``).

    All its numbers are finite.
    """
    try:
        value = parse_json(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON of a run: {one_line(error, _MOST_TEXT)}") from None
    if (wrong := fault(value, schema, whole=whole)) is not None:
        raise UserError(f"{path} does not hold what a run saves: {wrong[-_MOST_TEXT:]}")
    return value


def parse_json(text: str | bytes) -> Any:
    """A value of finite numbers.  Raises ``ValueError``, whose text says what is wrong."""
    try:
        return json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON.  Raises ``ValueError`` for a key that it has twice, of which JSON keeps the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"an object has {twice!r:.60} twice")
    return found


def mapped(path: Path) -> npt.NDArray[Any]:
    """The array that ``numpy.save`` wrote, mapped read-only.  A damaged file can raise nearly any ``Exception``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, for files that Python 2 wrote: they are read as well
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    return array


def read_array(path: Path, kind: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
    """An array of one axis and the type ``kind`` (or below it, as of ``np.integer``), mapped read-only."""
    check_file(path)
    try:
        array = mapped(path)
    except Exception as error:  # what a damaged header makes numpy raise can be nearly anything
        raise UserError(f"{path} cannot be read: {one_line(error, _MOST_TEXT)}") from None
    if array.ndim != 1:
        raise UserError(f"{path} is not a column of a run: its shape is {array.shape}, not (n,)")
    if kind is not None and not _is(array.dtype, kind):
        raise UserError(f"{path} is not that column of a run: its type is {array.dtype}, not {_name(kind)}")
    return array


def _is(found: np.dtype[Any], kind: npt.DTypeLike) -> bool:
    if isinstance(kind, np.dtype):
        return found == kind
    return np.issubdtype(found, kind)


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    """Also of ``NaN`` and ``Infinity``, which only Python takes for JSON."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]}")
    return value
