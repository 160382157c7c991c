"""Samples from arrays, one for each input of the model: a folder of .npy files, or an .npz file."""

from __future__ import annotations

import math
import zipfile
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.errors import UserError, one_line, printable
from drumfire.loadgen.files import check_file, mapped
from drumfire.loadgen.wording import counted
from drumfire.sut.data.inputs import InputError, Inputs, Sample, shape_text
from drumfire.sut.data.npy import check_npy, members, read_member
from drumfire.sut.data.ragged import Ragged
from drumfire.sut.kserve.messages.tensors import (
    DATATYPES,
    LEFT_OUT,
    ModelInterface,
    Shape,
    Tensor,
    TensorSpec,
    as_tensor,
)

Array = npt.NDArray[Any]
_PARTS = ("values", "offsets", "shapes")
_MOST_OTHERS = 5


class Arrays(Inputs):
    """Samples from ``INPUT.npy`` for each input: arrays of shape (n, *shape), read sample by sample.

    Samples of different lengths are ``INPUT.values.npy``, all elements of all samples in a row, and
    ``INPUT.offsets.npy``, where each sample begins and the last ends (n+1 integers); with more than one open size also
    ``INPUT.shapes.npy`` of (n, sizes of the input).  ``OUTPUT.npy``, for any of the outputs, holds the expected values.
    BYTES are fixed-width S or U arrays (numpy drops the NULs at an element's end).  Construction raises ``InputError``,
    and so does ``sample`` if a U array holds a code point that is not a character.
    """

    def __init__(self, path: Path, interface: ModelInterface, unread: Collection[str] = ()) -> None:
        """``unread``: names of outputs that may be there, and that nothing is compared with."""
        self._path = path
        files = self._files()
        taken = {spec.name for spec in interface.inputs}
        outputs = [spec for spec in interface.outputs if spec.name not in taken]  # one file cannot serve both
        specs = (*interface.inputs, *outputs)
        names = {form for spec in specs for form in _forms(spec.name)}
        skipped = sorted({form for name in unread if name not in taken for form in _forms(name)} & {*files})
        there = ", ".join(files) or "no .npy file"
        if unknown := [name for name in files if name not in names and name not in skipped]:
            listed = ", ".join(sorted(_file_name(spec.name) for spec in specs))
            raise InputError(f"{path} has {unknown[0]}, but may hold only {listed}")
        self._columns: dict[str, _Column] = {}
        for spec in specs:
            column = self._column(spec, files, is_input=spec.name in taken)
            if column is not None:
                self._columns[spec.name] = column
            elif spec.name in taken and not spec.optional:
                raise InputError(f"{path} has {there}, but lacks {_file_name(spec.name)}, the samples of {spec}")
        counts = {column.name: len(column) for column in self._columns.values()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            listed = ", ".join(f"{count} in {name}" for name, count in counts.items()) or "none"
            raise InputError(f"{path}: every file must hold the same number of samples, at least one, not {listed}")
        self.name, self.total_count = self._name(), next(iter(counts.values()))
        self.description = f"{counted(self.total_count, 'sample')} in {counted(len(files), self._kind)} of {path}"
        if others := self._others():
            more = f" and {len(others) - _MOST_OTHERS} more" if len(others) > _MOST_OTHERS else ""
            self.description += f" (not used: {', '.join(map(printable, others[:_MOST_OTHERS]))}{more})"
        self.unread = ", ".join(skipped)
        self._inputs = interface.inputs
        self._outputs = [spec for spec in outputs if spec.name in self._columns]

    _kind = "file"

    @abstractmethod
    def _files(self) -> Sequence[str]:
        """The names of all arrays, as files."""

    def _others(self) -> Sequence[str]:
        """The names of what there is besides, and is not looked at."""
        return ()

    @abstractmethod
    def _name(self) -> str: ...

    @abstractmethod
    def _read(self, file: str) -> Array: ...

    def shapes(self, index: int) -> Sequence[Shape]:
        columns = (self._columns.get(spec.name) for spec in self._inputs)
        return [() if column is None else column.shape(index) for column in columns]

    def sample(self, index: int) -> Sample:
        return tuple(self._row(spec, index) if spec.name in self._columns else LEFT_OUT for spec in self._inputs)

    def expected(self, index: int) -> Mapping[str, Tensor] | None:
        return {spec.name: self._row(spec, index) for spec in self._outputs} or None

    def _row(self, spec: TensorSpec, index: int) -> Tensor:
        column = self._columns[spec.name]
        row = column.row(index)
        if spec.datatype != "BYTES":
            return as_tensor(np.asarray(row, DATATYPES[spec.datatype]), spec)
        try:
            return as_tensor(row, spec)
        except (ValueError, SystemError):  # a U array may hold a surrogate or a number above the last code point
            raise InputError(f"{column.name}: sample {index} has text that is not Unicode") from None

    def _column(self, spec: TensorSpec, files: Collection[str], *, is_input: bool) -> _Column | None:
        """The samples of an input or output; None where there are none."""
        whole, *parts = _forms(spec.name)
        found = [part for part in parts if part in files]
        if whole in files and found:
            raise InputError(f"{self._path} has {whole} and {found[0]}, which are two forms of one: leave one out")
        if whole in files:
            return _Column(whole, _checked(self._at(whole), self._array(whole), spec, may_be_empty=not is_input))
        if not found:
            return None
        if lacking := [part for part in parts[:2] if part not in files]:
            raise InputError(f"{self._path} has {found[0]}, but lacks {lacking[0]}")
        arrays = {part: (self._at(part), self._array(part)) for part in found}
        return _RaggedColumn(found[0], _ragged(spec, arrays, may_be_empty=not is_input))

    def _array(self, file: str) -> Array:
        try:
            return self._read(file)
        except Exception as error:  # the header is a Python literal: a damaged one raises any of the parser's errors
            raise unreadable(self._at(file), error) from None

    def _at(self, file: str) -> str:
        return str(self._path / file)


def unreadable(at: str, error: Exception) -> InputError:
    """The error for what was raised where the array ``at`` was read."""
    if isinstance(error, UserError):
        return InputError(str(error))
    if isinstance(error, OSError):
        why = f"cannot be read: {error.strerror or error}"
    elif "object" in str(error).casefold():
        why = "holds Python objects, which are not read: save numbers, or texts as numpy's S or U"
    else:
        why = f"is not an array that numpy.save wrote: {one_line(error)}"
    return InputError(f"{at} {why}")


class ArrayFolder(Arrays):
    """A folder, whose files are mapped.  A / in a name becomes %2F in the file's name."""

    def _files(self) -> Sequence[str]:
        try:
            self._there = sorted(path.name for path in self._path.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise InputError(f"cannot read {self._path}: {error.strerror}") from None
        return [name for name in self._there if name.endswith(".npy")]

    def _others(self) -> Sequence[str]:
        return [name for name in self._there if not name.endswith(".npy")]

    def _name(self) -> str:
        return self._path.resolve().name

    def _read(self, file: str) -> Array:
        path = self._path / file
        check_file(path)
        with path.open("rb") as opened:
            check_npy(opened, path.stat().st_size)
        return mapped(path)


class ArrayFile(Arrays):
    """An .npz file, as ``numpy.savez`` writes it, held in memory."""

    _kind = "array"

    def _files(self) -> Sequence[str]:
        try:
            check_file(self._path, may_be_empty=False)
            with zipfile.ZipFile(self._path) as archive:
                names = members(archive)
        except UserError as error:
            raise InputError(str(error)) from None
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            raise InputError(f"{self._path} is not a file that numpy.savez wrote: {one_line(error)}") from None
        self._members = {name.replace("/", "%2F"): name for name in names}
        return list(self._members)

    def _name(self) -> str:
        return self._path.stem

    def _read(self, file: str) -> Array:
        with zipfile.ZipFile(self._path) as archive:
            return read_member(archive, self._members[file])

    def _at(self, file: str) -> str:
        return f"{self._path}: {file}"


class _Column:
    """The samples of an input or output: an array of shape (n, *shape)."""

    def __init__(self, name: str, array: Array) -> None:
        self.name, self._array = name, array

    def __len__(self) -> int:
        return len(self._array)

    def row(self, index: int) -> Array:
        row: Array = self._array[index, ...]
        return row

    def shape(self, index: int) -> Shape:
        return self._array.shape[1:]


class _RaggedColumn(_Column):
    """Samples of different shapes."""

    def __init__(self, name: str, samples: Ragged) -> None:
        super().__init__(name, samples.values)
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples.shapes)

    def row(self, index: int) -> Array:
        return self._samples.sample(index)

    def shape(self, index: int) -> Shape:
        return tuple(self._samples.shapes[index].tolist())


def _file_name(name: str, part: str = "") -> str:
    return f"{name.replace('/', '%2F')}{part and '.' + part}.npy"


def _forms(name: str) -> list[str]:
    """The files that an input or output may have: the only one, or the parts of samples of different shapes."""
    return [_file_name(name), *(_file_name(name, part) for part in _PARTS)]


def _check_type(at: str, array: Array, spec: TensorSpec) -> None:
    if spec.datatype == "BYTES":
        right, wanted = array.dtype.kind in "SU", "a fixed-width S or U array"
    else:
        right = array.dtype.newbyteorder("<") == DATATYPES[spec.datatype]
        wanted = "uint16, the upper halves of float32" if spec.datatype == "BF16" else str(DATATYPES[spec.datatype])
    if not right:
        raise InputError(f"{at} holds {array.dtype}: {spec.datatype} needs numpy's {wanted}")


def _checked(at: str, array: Array, spec: TensorSpec, *, may_be_empty: bool) -> Array:
    """An array of shape (n, *shape)."""
    _check_type(at, array, spec)
    if array.ndim < 1 or not spec.fits(array.shape[1:]):
        raise InputError(f"{at} has the shape {shape_text(array.shape)}: {spec} needs [samples, *its own shape]")
    if 0 in array.shape[1:] and not may_be_empty:
        raise InputError(f"{at} has the shape {shape_text(array.shape)}: its samples are empty")
    return array


def _ragged(spec: TensorSpec, parts: Mapping[str, tuple[str, Array]], *, may_be_empty: bool) -> Ragged:
    """The samples in ``parts``: the values, where each sample begins, and perhaps the shapes, by the files' names and
    each with its place.
    """
    (at, values), (at_offsets, offsets), *more = parts.values()
    name = next(iter(parts))
    _check_type(at, values, spec)
    if values.ndim != 1:
        raise InputError(f"{at} has the shape {shape_text(values.shape)}: it needs all elements in one row")
    whole = offsets.dtype.kind in "iu" and offsets.ndim == 1 and offsets.size > 1
    if not whole or offsets[0] != 0 or offsets[-1] != values.size or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise InputError(f"{at_offsets} needs n+1 integers that rise from 0 to {values.size}, the elements of {name}")
    offsets = offsets.astype(np.int64)
    counts = np.diff(offsets)
    open_sizes = [axis for axis, size in enumerate(spec.shape) if size < 0]
    if more:
        at_shapes, shapes = more[0]
        if shapes.dtype.kind not in "iu" or shapes.shape != (len(counts), len(spec.shape)):
            raise InputError(f"{at_shapes} needs integers of shape {shape_text((len(counts), len(spec.shape)))}")
        shapes = shapes.astype(np.int64)
    else:
        rest = math.prod(size for size in spec.shape if size >= 0)
        if len(open_sizes) > 1 or (counts % max(rest, 1)).any():
            raise InputError(f"{at}: {spec} needs {_file_name(spec.name, _PARTS[2])} too, the shape of each sample")
        shapes = np.tile(np.array(spec.shape, np.int64), (len(counts), 1))
        for axis in open_sizes:
            shapes[:, axis] = counts // rest
    fixed = [axis for axis, size in enumerate(spec.shape) if size >= 0]
    wrong = shapes.prod(axis=1) != counts
    wrong |= (shapes[:, fixed] != np.array([spec.shape[axis] for axis in fixed], np.int64)).any(axis=1)
    wrong |= (shapes < int(not may_be_empty)).any(axis=1)
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        shape = shape_text(shapes[index].tolist())
        raise InputError(f"{at}: sample {index} has {counts[index]} elements and the shape {shape}: {spec}")
    return Ragged(values, offsets, shapes)
