"""Opens the samples that ``--input-data`` names, for a model here, on a server, or served."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from drumfire.loadgen.options import path as as_path
from drumfire.loadgen.system import SampleLibrary
from drumfire.sut.data.arrays import ArrayFile, ArrayFolder
from drumfire.sut.data.data_set import DataSet
from drumfire.sut.data.inputs import InputError, Inputs
from drumfire.sut.data.json_file import LINES, JsonFile, JsonLines
from drumfire.sut.data.options import Values
from drumfire.sut.data.random_values import generated
from drumfire.sut.data.raw_files import RawFiles, takes
from drumfire.sut.data.sizes import Chosen


def open_inputs(
    source: str | None,
    chosen: Chosen,
    *,
    data_set: SampleLibrary | None = None,
    known: Mapping[str, Values] | None = None,
    unread: Collection[str] = (),
) -> Inputs:
    """The samples of a source: ``random``, ``zero``, a file or a folder; None: random ones.  Raises ``InputError``.

    ``data_set``: that of the source's name, if it is a data set's.  ``known``: values that integer inputs can have.
    ``unread``: names of outputs that files may have, and that nothing is compared with.
    """
    if source in (None, "random"):
        return generated(chosen, kind="random", known=known)
    _check_undrawn(str(source), chosen)
    if source == "zero":
        return generated(chosen, kind="zero")
    if data_set is not None:
        return DataSet(data_set, chosen.interface)
    try:
        path = as_path(str(source))
    except ValueError as error:
        raise InputError(f"--input-data: {error}") from None
    if path.is_dir():
        if takes(chosen.interface) and not _has_arrays(path):
            return RawFiles(path, chosen.interface)
        return ArrayFolder(path, chosen.interface, unread)
    if not path.exists():
        raise InputError(
            f"--input-data {source}: no such file or folder; give random, zero, a named data set, an .npz file, a "
            "folder of .npy files, a JSON file or a file of JSON lines (.jsonl)"
        )
    kind = ArrayFile if path.suffix.lower() == ".npz" else JsonLines if path.suffix.lower() in LINES else JsonFile
    return kind(path, chosen.interface, unread)


def _check_undrawn(source: str, chosen: Chosen) -> None:
    """Raise ``InputError`` for what the user says of random values only."""
    if chosen.values:
        name, values = next(iter(chosen.values.items()))
        raise InputError(f"--range {name}={values} is for random values, not for --input-data {source}: leave one out")
    if chosen.drawn and source != "zero":
        raise InputError(
            f"--input-data {source}: its samples have their own sizes, so none are drawn: give fixed sizes or none"
        )


def _has_arrays(folder: Path) -> bool:
    try:
        return any(path.suffix == ".npy" for path in folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from None
