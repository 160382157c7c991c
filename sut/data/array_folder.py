"""Samples from a folder of .npy files, one for each input of the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import check_file, mapped
from drumfire.loadgen.wording import counted
from drumfire.sut.data.inputs import InputError, Inputs, Sample, shape_text
from drumfire.sut.kserve.messages.tensors import DATATYPES, LEFT_OUT, ModelInterface, Tensor, TensorSpec, as_tensor


class ArrayFolder(Inputs):
    """Samples from ``INPUT.npy`` for each input: arrays of shape (n, *shape), mapped and read sample by sample.

    ``OUTPUT.npy``, for any of the outputs, holds the expected values.  A / in a name becomes %2F in the file's name.
    BYTES are fixed-width S or U arrays (numpy drops the NULs at an element's end).  Construction raises ``InputError``,
    and so does ``sample`` if a U array holds a code point that is not a character.
    """

    def __init__(self, folder: Path, interface: ModelInterface) -> None:
        try:
            files = sorted(path for path in folder.iterdir() if path.suffix == ".npy")
        except OSError as error:
            raise InputError(f"cannot read {folder}: {error.strerror}") from None
        taken = {spec.name for spec in interface.inputs}
        outputs = [spec for spec in interface.outputs if spec.name not in taken]  # one file cannot serve both
        names = {_file_name(spec) for spec in (*interface.inputs, *outputs)}
        there = ", ".join(path.name for path in files) or "no .npy file"
        if unknown := [path.name for path in files if path.name not in names]:
            raise InputError(f"{folder} has {unknown[0]}, but may hold only {', '.join(sorted(names))}")
        for spec in interface.inputs:
            if folder / _file_name(spec) not in files and not spec.optional:
                raise InputError(f"{folder} has {there}, but lacks {_file_name(spec)}, the samples of {spec}")
        self._arrays = {
            spec: _mapped(folder / _file_name(spec), spec)
            for spec in (*interface.inputs, *outputs)
            if folder / _file_name(spec) in files
        }
        counts = {_file_name(spec): len(array) for spec, array in self._arrays.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            listed = ", ".join(f"{count} in {name}" for name, count in counts.items()) or "none"
            raise InputError(f"{folder}: every file must hold the same number of samples, at least one, not {listed}")
        self.name, self.total_count = folder.resolve().name, next(iter(counts.values()))
        self.description = f"{counted(len(files), 'file')} of {folder}"
        self._inputs = interface.inputs
        self._outputs = [spec for spec in outputs if spec in self._arrays]

    def sample(self, index: int) -> Sample:
        return tuple(self._row(spec, index) if spec in self._arrays else LEFT_OUT for spec in self._inputs)

    def expected(self, index: int) -> Mapping[str, Tensor] | None:
        return {spec.name: self._row(spec, index) for spec in self._outputs} or None

    def _row(self, spec: TensorSpec, index: int) -> Tensor:
        row = self._arrays[spec][index, ...]
        if spec.datatype != "BYTES":
            return as_tensor(np.asarray(row, DATATYPES[spec.datatype]), spec)
        try:
            return as_tensor(row, spec)
        except (ValueError, SystemError):  # a U array may hold a surrogate or a number above the last code point
            raise InputError(f"{_file_name(spec)}: sample {index} has text that is not Unicode") from None


def _file_name(spec: TensorSpec) -> str:
    return f"{spec.name.replace('/', '%2F')}.npy"


def _mapped(path: Path, spec: TensorSpec) -> npt.NDArray[Any]:
    """The array in a file, of shape (n, *shape), mapped but not read."""
    try:
        check_file(path)
        array = mapped(path)
    except UserError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # the header is a Python literal: a damaged one raises any of the parser's errors
        raise InputError(f"{path} is not an array that numpy.save wrote: {' '.join(str(error).split())}") from None
    if spec.datatype == "BYTES":
        right, wanted = array.dtype.kind in "SU", "a fixed-width S or U array"
    else:
        right = array.dtype.newbyteorder("<") == DATATYPES[spec.datatype]
        wanted = "uint16, the upper halves of float32" if spec.datatype == "BF16" else str(DATATYPES[spec.datatype])
    if not right:
        raise InputError(f"{path} holds {array.dtype}: {spec.datatype} needs numpy's {wanted}")
    if array.ndim < 1 or not spec.fits(array.shape[1:]):
        raise InputError(f"{path} has the shape {shape_text(array.shape)}: {spec} needs [samples, *its own shape]")
    return array
