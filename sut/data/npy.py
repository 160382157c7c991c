"""NumPy's files: an array is read only where its file has the bytes that its header says, and none after them.

A header that says more than there is would take memory for it first.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import IO, Any
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def check_npy(file: IO[bytes], size: int) -> None:
    """Raise ``ValueError`` unless the ``size`` bytes of a .npy file are a header and its array.

    Arrays of Python objects are left to NumPy, which refuses them.  A damaged header can raise nearly any error.
    """
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError("it holds structured values")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, for files that Python 2 wrote: they are read as well
        shape, _, dtype = _HEADERS[version](file)
    wanted, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if wanted != found and not dtype.hasobject:
        raise ValueError(
            f"{found:,} bytes follow its header, which says {dtype} of shape {list(shape)}, {wanted:,} bytes"
        )


def read_npy(file: IO[bytes], size: int) -> npt.NDArray[Any]:
    """The array of a .npy file of so many bytes, in memory.  Raises what ``check_npy`` raises."""
    check_npy(file, size)
    file.seek(0)
    array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def read_member(archive: ZipFile, name: str) -> npt.NDArray[Any]:
    """The array of an .npz file's member.  Raises what ``check_npy`` raises."""
    with archive.open(name) as member:
        return read_npy(member, archive.getinfo(name).file_size)


def members(archive: ZipFile) -> Sequence[str]:
    """The names of an .npz file's members.  Raises ``ValueError`` for one that appears twice: / and %2F are alike."""
    names, known = archive.namelist(), set[str]()
    for name in names:
        if (one := name.replace("/", "%2F")) in known:
            raise ValueError(f"it has {name} twice")
        known.add(one)
    return names
