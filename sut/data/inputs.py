"""Where the samples of a model on a server come from: drawn values, .npy files, perf_analyzer's JSON, a named data set.

Knows tensors and what a model declares; must not know how samples travel, or which of them are asked for when.
"""

from __future__ import annotations

import base64
import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import SampleLibrary
from drumfire.sut.kserve.messages.tensors import (
    DATATYPES,
    ModelInterface,
    Shape,
    Tensor,
    TensorError,
    TensorSpec,
    as_tensor,
    check_size,
    pack_bytes,
)

Sample: TypeAlias = tuple[Tensor, ...]
"""One tensor for each input of the model, in the order of ``ModelInterface.inputs``; shapes without the batch."""

_LARGEST_DRAWN = 2**31  # bytes: what one protobuf message can hold
_FLOATING = ("FP16", "FP32", "FP64", "BF16")
_JSON_TYPES: Mapping[str, set[type]] = {
    "BYTES": {str},
    "BOOL": {bool, int},
    **{datatype: {int, float} for datatype in _FLOATING},
}
"""What an element may be in JSON; an ``int`` for the datatypes that are not here."""


class InputError(ValueError):
    """Samples that can not be had, or are not what the model takes.  The text is one line and names the mend."""


class Inputs(Protocol):
    """Samples that fit a model, by index 0 .. total_count-1."""

    name: str
    total_count: int
    description: str
    """A phrase for the result, such as ``random, seed 1``."""

    def sample(self, index: int) -> Sample:
        """The contents of one sample, the same in every call.  Reads or draws them: not for the hot path."""

    def expected(self, index: int) -> Mapping[str, Tensor] | None:
        """What the model should answer to this sample, by the output's name; None where nothing is expected."""
        return None


def parse_shapes(options: Sequence[str]) -> dict[str, Shape]:
    """Sizes by input, from ``NAME:SHAPE`` such as ``x:3,224,224``; a name may hold colons.  Raises ``InputError``."""
    shapes: dict[str, Shape] = {}
    for option in options:
        name, _, text = option.rpartition(":")
        sizes = [size.strip() for size in text.split(",")]
        if not name or not all(re.fullmatch("0*[1-9][0-9]{0,11}", size) for size in sizes):
            raise InputError(f"--input {option!r}: NAME:SHAPE is wanted, sizes of at least 1, such as INPUT0:3,224,224")
        if name in shapes:
            raise InputError(f"--input {option!r}: {name!r} is there twice")
        shapes[name] = tuple(map(int, sizes))
    return shapes


def resolve(interface: ModelInterface, shapes: Mapping[str, Shape]) -> ModelInterface:
    """The interface with these sizes in place of what its inputs leave open; sizes of no option stay as they are.

    Raises ``InputError`` for an input that the model does not have, and for a shape that it can not take.
    """
    known = {spec.name: spec for spec in interface.inputs}
    for name, shape in shapes.items():
        given = f"--input {name}:{','.join(map(str, shape))}"
        if name not in known:
            raise InputError(f"{given}: {_takes(interface)}")
        if len(shape) != len(known[name].shape):
            raise InputError(f"{given}: another number of sizes is wanted, without the batch: {_takes(interface)}")
        if min(shape, default=1) < 1:
            raise InputError(f"{given}: a size is at least 1: {_takes(interface)}")
        if not known[name].fits(shape):
            raise InputError(f"{given}: only the sizes shown as -1 are open: {_takes(interface)}")
    return replace(
        interface, inputs=tuple(replace(spec, shape=shapes.get(spec.name, spec.shape)) for spec in interface.inputs)
    )


def generated(interface: ModelInterface, *, kind: Literal["random", "zero"], count: int = 128, seed: int = 1) -> Inputs:
    """Samples that no file is needed for.  Raises ``InputError`` where the model leaves sizes open.

    Random: normal values for floats, 0 to 127 for integers, short strings.  Sample i of a seed is the same in every
    run, however many there are.
    """
    if count < 1 or seed < 0:
        raise InputError(f"{count} samples of seed {seed}: at least one sample and a seed of at least 0 are wanted")
    for spec in interface.inputs:
        if -1 in spec.shape:
            example = ",".join(str(size if size > 0 else 1) for size in spec.shape)
            raise InputError(
                f"input {spec} leaves sizes open: give them with --input NAME:SHAPE, such as {spec.name}:{example}"
            )
        size = math.prod(spec.shape) * (12 if spec.datatype == "BYTES" else DATATYPES[spec.datatype].itemsize)
        if size > _LARGEST_DRAWN:
            raise InputError(f"input {spec} has {size / 2**30:.1f} GiB a sample: give smaller sizes with --input")
    return _Random(interface, count, seed) if kind == "random" else _Zero(interface, count)


def from_npy(folder: Path, interface: ModelInterface) -> Inputs:
    """Samples from a folder that holds ``INPUT.npy`` for each input: arrays of shape (n, *shape), read as asked for.

    ``OUTPUT.npy``, for any of the outputs, says what is expected.  A / in a name is written %2F.  BYTES are fixed-width
    S or U arrays (numpy drops the NULs at an element's end).  Raises ``InputError``; so does ``sample`` where a U array
    holds what is no character.
    """
    return _Folder(folder, interface)


def from_json(path: Path, interface: ModelInterface) -> Inputs:
    """Samples from a file in the format of perf_analyzer's ``--input-data``, held in memory.  Raises ``InputError``.

    Beyond that format, contents may be nested as the shape is, and then also tell it; FP16 and BF16 may be numbers.
    Sequences (lists of steps) are refused.
    """
    return _Listed(path, interface)


def from_library(library: SampleLibrary, interface: ModelInterface) -> Inputs:
    """The samples of a data set, for a model of one input, whatever its name.  Raises ``InputError`` for a misfit.

    Each sample is loaded when it is asked for, and let go of: the library must not be used for anything else meanwhile.
    """
    return _DataSet(library, interface)


class _Random(Inputs):
    def __init__(self, interface: ModelInterface, count: int, seed: int) -> None:
        self.name, self.total_count, self.description = "random", count, f"random, seed {seed}"
        self._specs, self._seed = interface.inputs, seed

    def sample(self, index: int) -> Sample:
        return tuple(
            as_tensor(_drawn(spec, np.random.default_rng((self._seed, position, index))), spec)
            for position, spec in enumerate(self._specs)
        )


class _Zero(Inputs):
    def __init__(self, interface: ModelInterface, count: int) -> None:
        self.name, self.total_count, self.description = "zero", count, "zeros"
        self._sample = tuple(
            as_tensor(np.zeros(spec.shape, DATATYPES.get(spec.datatype, np.dtype("S1"))), spec)
            for spec in interface.inputs
        )

    def sample(self, index: int) -> Sample:
        return self._sample


class _Folder(Inputs):
    def __init__(self, folder: Path, interface: ModelInterface) -> None:
        try:
            files = sorted(path for path in folder.iterdir() if path.suffix == ".npy")
        except OSError as error:
            raise InputError(f"{folder} can not be read: {error.strerror}") from None
        taken = {spec.name for spec in interface.inputs}
        outputs = [spec for spec in interface.outputs if spec.name not in taken]  # one file can not be of both
        names = {_file_name(spec) for spec in (*interface.inputs, *outputs)}
        there = ", ".join(path.name for path in files) or "no .npy file"
        if unknown := [path.name for path in files if path.name not in names]:
            raise InputError(f"{folder} has {unknown[0]}, but its files have to be of {', '.join(sorted(names))}")
        for spec in interface.inputs:
            if folder / _file_name(spec) not in files:
                raise InputError(f"{folder} has {there}: {_file_name(spec)} is missing, the samples of {spec}")
        self._arrays = {
            spec: _mapped(folder / _file_name(spec), spec)
            for spec in (*interface.inputs, *outputs)
            if folder / _file_name(spec) in files
        }
        counts = {_file_name(spec): len(array) for spec, array in self._arrays.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            listed = ", ".join(f"{count} in {name}" for name, count in counts.items()) or "none"
            raise InputError(f"{folder}: every file has to hold the same number of samples, at least one, not {listed}")
        self.name, self.total_count = folder.resolve().name, next(iter(counts.values()))
        self.description = f"{len(files)} file{'s' * (len(files) > 1)} of {folder}"
        self._inputs = interface.inputs
        self._outputs = [spec for spec in outputs if spec in self._arrays]

    def sample(self, index: int) -> Sample:
        return tuple(self._row(spec, index) for spec in self._inputs)

    def expected(self, index: int) -> Mapping[str, Tensor] | None:
        return {spec.name: self._row(spec, index) for spec in self._outputs} or None

    def _row(self, spec: TensorSpec, index: int) -> Tensor:
        row = self._arrays[spec][index, ...]
        if spec.datatype != "BYTES":
            return as_tensor(np.asarray(row, DATATYPES[spec.datatype]), spec)
        try:
            return as_tensor(row, spec)
        except (ValueError, SystemError):  # a U array may hold a surrogate, and numbers that are no character at all
            raise InputError(f"{_file_name(spec)}: sample {index} has text that is not Unicode") from None


class _Listed(Inputs):
    def __init__(self, path: Path, interface: ModelInterface) -> None:
        document = _document(path)
        entries = _entries(document, "data", path)
        answers = _entries(document, "validation_data", path) if "validation_data" in document else [{}] * len(entries)
        if not entries or len(answers) != len(entries):
            raise InputError(
                f"{path}: data has {len(entries)} entries and validation_data {len(answers)}: "
                "at least one is wanted, and as many of the one as of the other"
            )
        self.name, self.total_count = path.stem, len(entries)
        self.description = f"{len(entries)} sample{'s' * (len(entries) > 1)} of {path}"
        self._samples: list[Sample] = []
        for position, entry in enumerate(entries):
            where = f"{path}: data[{position}]"
            tensors = _tensors(entry, interface.inputs, where)
            for spec in interface.inputs:
                if spec.name not in tensors:
                    raise InputError(f"{where} lacks {spec.name}: {_takes(interface)}")
            self._samples.append(tuple(tensors[spec.name] for spec in interface.inputs))
        self._expected = [
            _tensors(answer, interface.outputs, f"{path}: validation_data[{position}]") or None
            for position, answer in enumerate(answers)
        ]

    def sample(self, index: int) -> Sample:
        return self._samples[index]

    def expected(self, index: int) -> Mapping[str, Tensor] | None:
        return self._expected[index]


class _DataSet(Inputs):
    def __init__(self, library: SampleLibrary, interface: ModelInterface) -> None:
        self.name, self.total_count, self.description = library.name, library.total_count, f"data set {library.name}"
        self._library = library
        row = self._row(0)
        samples = f"{library.name} has samples of {row.dtype} {_text(row.shape)}"
        if len(interface.inputs) != 1:
            raise InputError(f"{samples}, which is one input: {_takes(interface)}")
        self._spec = spec = interface.inputs[0]
        self._shape = row.shape
        if interface.max_batch_size == 0 and spec.fits((1, *row.shape)):
            # A model that the server does not batch may have a batch among its own sizes.
            self._shape = (1, *row.shape)
        # BF16 is uint16 to numpy, but pixels of 16 bits are no floats.
        right_type = spec.datatype != "BF16" and row.dtype.newbyteorder("<") == DATATYPES.get(spec.datatype)
        if not right_type or not spec.fits(self._shape):
            raise InputError(f"{samples} and the server's model takes {spec}")

    def sample(self, index: int) -> Sample:
        row = np.asarray(self._row(index), DATATYPES[self._spec.datatype])
        return (as_tensor(row.reshape(self._shape), self._spec),)

    def _row(self, index: int) -> npt.NDArray[Any]:
        indices = np.array([index])
        self._library.load(indices)
        row: npt.NDArray[Any] = np.array(self._library.batch(indices)[0])
        self._library.unload(indices)
        return row


def _takes(interface: ModelInterface) -> str:
    return f"the model {interface.name} takes {', '.join(map(str, interface.inputs)) or 'nothing'}"


def _text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _drawn(spec: TensorSpec, generator: np.random.Generator) -> npt.NDArray[Any]:
    if spec.datatype == "BYTES":
        digits = generator.bytes(4 * math.prod(spec.shape)).hex()
        return np.array([digits[at : at + 8] for at in range(0, len(digits), 8)], "U8").reshape(spec.shape)
    if spec.datatype == "BF16":
        return _bfloat16(generator.standard_normal(spec.shape, np.float32))
    if spec.datatype == "FP64":
        return generator.standard_normal(spec.shape)
    if spec.datatype in _FLOATING:
        return np.asarray(generator.standard_normal(spec.shape, np.float32), DATATYPES[spec.datatype])
    return np.asarray(
        generator.integers(0, 2 if spec.datatype == "BOOL" else 128, spec.shape), DATATYPES[spec.datatype]
    )


def _bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of finite float32 values as bfloat16, rounded to the nearest, ties to even."""
    bits = np.asarray(values, "<f4").view("<u4")
    return np.asarray((bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) >> 16, "<u2")


def _file_name(spec: TensorSpec) -> str:
    return f"{spec.name.replace('/', '%2F')}.npy"


def _mapped(path: Path, spec: TensorSpec) -> npt.NDArray[Any]:
    """The array in a file, not read yet, of shape (n, *shape)."""
    try:
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise InputError(f"{path} can not be read: {error.strerror or error}") from None
    except (
        Exception
    ) as error:  # the header is Python, and numpy lets through whatever its parser makes of a damaged one
        raise InputError(f"{path} is not an array that numpy.save wrote: {' '.join(str(error).split())}") from None
    if spec.datatype == "BYTES":
        right, wanted = array.dtype.kind in "SU", "a fixed-width S or U array"
    else:
        right = array.dtype.newbyteorder("<") == DATATYPES[spec.datatype]
        wanted = "uint16, the upper halves of float32" if spec.datatype == "BF16" else str(DATATYPES[spec.datatype])
    if not right:
        raise InputError(f"{path} holds {array.dtype}: {spec.datatype} is wanted, in numpy {wanted}")
    if array.ndim < 1 or not spec.fits(array.shape[1:]):
        raise InputError(
            f"{path} has the shape {_text(array.shape)}: samples of {spec} are wanted, behind their number"
        )
    return array


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} can not be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: {error.msg}, line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not JSON: byte {error.start} is not {error.encoding}") from None
    except RecursionError:
        raise InputError(f"{path} is nested too deep for a tensor") from None
    except ValueError:  # Python's limit, of some thousand digits
        raise InputError(f"{path} has a number of too many digits for any datatype") from None
    known = {"data", "validation_data"}
    if not isinstance(document, dict) or "data" not in document or not document.keys() <= known:
        raise InputError(
            f'{path} has to be an object of "data" and, if need be, "validation_data", and of nothing else'
        )
    return document


def _entries(document: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = document[key]
    if not isinstance(entries, list):
        raise InputError(f"{path}: {key} has to be a list of objects, one a sample")
    for position, entry in enumerate(entries):
        if isinstance(entry, list):
            raise InputError(
                f"{path}: {key}[{position}] is a list, the steps of a sequence: sequences are not sent in order, "
                f"so list the steps in {key} itself if they can stand alone"
            )
        if not isinstance(entry, dict):
            raise InputError(f"{path}: {key}[{position}] has to be an object of tensors, not {reprlib.repr(entry)}")
    return entries


def _tensors(entry: Mapping[str, Any], specs: Sequence[TensorSpec], where: str) -> dict[str, Tensor]:
    names = [spec.name for spec in specs]
    for name in entry:
        if name not in names and name != "model":  # perf_analyzer's own exception: other tools write it into each entry
            raise InputError(f"{where}: {reprlib.repr(name)} is none of {', '.join(names) or 'nothing'}")
    return {spec.name: _tensor(entry[spec.name], spec, f"{where} {spec.name}") for spec in specs if spec.name in entry}


def _tensor(value: Any, spec: TensorSpec, where: str) -> Tensor:
    """A tensor as JSON has it: contents, or an object of ``content`` or ``b64`` and of ``shape``."""
    content, given = value, None
    if isinstance(value, dict):
        if not value.keys() <= {"content", "b64", "shape"} or ("content" in value) == ("b64" in value):
            raise InputError(f'{where}: an object has either "content" or "b64" and, if need be, "shape"')
        if "shape" in value:
            given = _given_shape(value["shape"], where)
        content = value["content"] if "content" in value else {"b64": value["b64"]}
    if isinstance(content, list):
        elements, nesting = _flat(content, where)
        shape = _settled(spec, given, nesting, where)
        if len(elements) != math.prod(shape):
            raise InputError(f"{where}: {len(elements)} elements where the shape {_text(shape)} has {math.prod(shape)}")
        return Tensor(shape, _packed_or_refused(elements, spec.datatype, where))
    if not isinstance(content, dict) or content.keys() != {"b64"} or not isinstance(content["b64"], str):
        raise InputError(f'{where}: a list of elements is wanted, or {{"b64": "..."}}, not {reprlib.repr(content)}')
    shape = _settled(spec, given, None, where)
    try:
        raw = base64.b64decode("".join(content["b64"].split()), validate=True)
        check_size(spec.datatype, shape, raw)
    except TensorError as error:
        raise InputError(f"{where}: {error}") from None
    except ValueError:
        raise InputError(f"{where}: its b64 is not Base64") from None
    return Tensor(shape, raw)


def _given_shape(value: Any, where: str) -> Shape:
    if not isinstance(value, list) or not all(type(size) is int for size in value):
        raise InputError(f"{where}: a shape is a list of whole numbers, not {reprlib.repr(value)}")
    return tuple(value)


def _settled(spec: TensorSpec, given: Shape | None, nesting: Shape | None, where: str) -> Shape:
    """The shape of a tensor: as given, else as its contents are nested, else as declared."""
    nested = nesting is not None and len(nesting) > 1
    if given is not None:
        shape = given
    elif nesting is not None and (nested or len(spec.shape) == 1):
        shape = nesting
    elif -1 in spec.shape:
        raise InputError(
            f'{where}: {spec} leaves sizes open: write {{"content": ..., "shape": [...]}}, or give --input'
        )
    else:
        shape = spec.shape
    if not spec.fits(shape) or min(shape, default=1) < 1:
        raise InputError(f"{where}: the shape {reprlib.repr(list(shape))} is not one of {spec}")
    if nested and nesting != shape:
        raise InputError(f"{where}: contents nested as {_text(nesting or ())} where the shape is {_text(shape)}")
    return shape


def _flat(content: list[Any], where: str) -> tuple[list[Any], Shape]:
    """The elements in row-major order, and the sizes of the lists that they lie in."""
    elements, nesting = content, [len(content)]
    while elements and isinstance(elements[0], list):
        nesting.append(len(elements[0]))
        if not all(isinstance(part, list) and len(part) == nesting[-1] for part in elements):
            raise InputError(f"{where}: its nested lists are not all of one length")
        elements = [element for part in elements for element in part]
    return elements, tuple(nesting)


def _packed_or_refused(elements: list[Any], datatype: str, where: str) -> bytes:
    try:
        return _packed(elements, datatype)
    except (ValueError, OverflowError):
        for position, element in enumerate(elements):
            try:
                _packed([element], datatype)
            except (ValueError, OverflowError):
                shown = reprlib.repr(element)
                raise InputError(f"{where}: element {position} is {shown}, which is no {datatype}") from None
        raise


def _packed(elements: list[Any], datatype: str) -> bytes:
    """Elements from JSON as contents.  Raises ``ValueError`` or ``OverflowError`` where one is not of the datatype."""
    if not set(map(type, elements)) <= _JSON_TYPES.get(datatype, {int}):
        raise ValueError
    if datatype == "BYTES":
        return pack_bytes(elements)
    wanted = DATATYPES[datatype]
    if datatype in _FLOATING:
        with np.errstate(over="ignore"):  # it is looked for below
            numbers = np.array(elements, np.float64).astype("<f4" if datatype == "BF16" else wanted)
        if not np.isfinite(numbers).all():
            raise ValueError
        if datatype == "BF16":
            numbers = _bfloat16(numbers)
            if ((numbers & 0x7F80) == 0x7F80).any():  # rounded up to infinity
                raise ValueError
        return numbers.tobytes()
    limits = (0, 1) if datatype == "BOOL" else (np.iinfo(wanted).min, np.iinfo(wanted).max)
    if elements and not limits[0] <= min(elements) <= max(elements) <= limits[1]:
        raise ValueError
    return np.array(elements, wanted).tobytes()
