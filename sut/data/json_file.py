"""Samples from a JSON file in the format of perf_analyzer's ``--input-data``, or from lines of such samples."""

from __future__ import annotations

import base64
import json
import math
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen.files import read_bytes, unique
from drumfire.loadgen.wording import counted
from drumfire.sut.data.inputs import FLOATING, InputError, Inputs, Sample, bfloat16, inputs_text, shape_text
from drumfire.sut.kserve.errors import one_line
from drumfire.sut.kserve.messages.tensors import (
    DATATYPES,
    LEFT_OUT,
    ModelInterface,
    Shape,
    Tensor,
    TensorError,
    TensorSpec,
    check_size,
    pack_bytes,
)

LINES = (".jsonl", ".ndjson")
"""Suffixes of files with one JSON value a line."""
_Pair = tuple[dict[str, Any], dict[str, Any], str, str]
"""A sample, its expected outputs, and where each of them stands."""


class _Constant(float):
    """NaN or an infinity that the file says in words; a number such as 1e400 is too large instead."""


_JSON_TYPES: Mapping[str, set[type]] = {
    "BYTES": {str},
    "BOOL": {bool, int},
    **{datatype: {int, float, _Constant} for datatype in FLOATING},
}
"""Python types of a datatype's elements in JSON; ``int`` for the other datatypes."""


class JsonFile(Inputs):
    """Samples from a file in the format of perf_analyzer's ``--input-data``, held in memory.

    Beyond that format, nested contents may state their shape by their nesting, FP16 and BF16 may be numbers, and a
    single element needs no list.
    Refuses sequences (lists of steps).
    """

    def __init__(self, path: Path, interface: ModelInterface, unread: Collection[str] = ()) -> None:
        """``unread``: names of outputs that may be there, and that nothing is compared with.  Raises ``InputError``."""
        pairs, skipped = self._pairs(path, interface, unread)
        self.name, self.total_count = path.stem, len(pairs)
        self.description = f"{counted(len(pairs), 'sample')} of {path}"
        self.unread = ", ".join(sorted(skipped))
        self._samples: list[Sample] = []
        self._expected: list[Mapping[str, Tensor] | None] = []
        self._places = [where for _, _, where, _ in pairs]
        for entry, answer, where, where_answer in pairs:
            tensors = _tensors(entry, interface.inputs, where)
            for spec in interface.inputs:
                if spec.name not in tensors and not (spec.optional and tensors):
                    raise InputError(f"{where} lacks {one_line(spec.name, 60)}: {inputs_text(interface)}")
            self._samples.append(tuple(tensors.get(spec.name, LEFT_OUT) for spec in interface.inputs))
            self._expected.append(_tensors(answer, interface.outputs, where_answer) or None)

    def _pairs(self, path: Path, interface: ModelInterface, unread: Collection[str]) -> tuple[list[_Pair], set[str]]:
        """The samples, each with its expected outputs, and the names of outputs that are not read."""
        document = _document(path)
        entries = _entries(document, "data", path)
        answers = _entries(document, "validation_data", path) if "validation_data" in document else [{}] * len(entries)
        if not entries or len(answers) != len(entries):
            raise InputError(
                f"{path}: data has {len(entries)} entries and validation_data {len(answers)}: "
                "both need the same number, at least 1"
            )
        skipped = {name for answer in answers for name in answer if name in unread}
        return [
            (entry, _without(skipped, answer), f"{path}: data[{at}]", f"{path}: validation_data[{at}]")
            for at, (entry, answer) in enumerate(zip(entries, answers, strict=True))
        ], skipped

    def shapes(self, index: int) -> Sequence[Shape]:
        return [tensor.shape for tensor in self._samples[index]]

    def sample(self, index: int) -> Sample:
        return self._samples[index]

    def place(self, index: int) -> str:
        return self._places[index]

    def expected(self, index: int) -> Mapping[str, Tensor] | None:
        return self._expected[index]


class JsonLines(JsonFile):
    """Samples from a file with one object a line: inputs and perhaps outputs by name, in the form of ``JsonFile``."""

    def _pairs(self, path: Path, interface: ModelInterface, unread: Collection[str]) -> tuple[list[_Pair], set[str]]:
        inputs = {spec.name for spec in interface.inputs}
        outputs = {spec.name for spec in interface.outputs} - inputs
        pairs: list[_Pair] = []
        skipped: set[str] = set()
        for number, line in numbered_lines(read_bytes(path, "--input-data", error=InputError)):
            where = f"{path}: line {number}"
            entry = _parsed(line, where)
            if not isinstance(entry, dict):
                raise InputError(f"{where} must be an object of tensors, not {reprlib.repr(entry)}")
            skipped |= entry.keys() & {*unread} - inputs
            answer = {name: entry.pop(name) for name in outputs & entry.keys()}
            pairs.append((_without(skipped, entry), answer, where, where))
        if not pairs:
            raise InputError(f"{path} has no samples")
        return pairs, skipped


def numbered_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, without white space at their ends, with their numbers from 1."""
    for number, line in enumerate(content.split(b"\n"), 1):
        if stripped := line.strip():
            yield number, stripped


def _without(names: Collection[str], entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in names}


def _parsed(content: bytes, where: str) -> Any:
    """A JSON document."""
    try:
        return json.loads(content, parse_constant=_Constant, object_pairs_hook=_unique)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error.msg}, line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not JSON: byte {error.start} is not {error.encoding}") from None
    except RecursionError:
        raise InputError(f"{where} is nested too deep for a tensor") from None
    except ValueError:  # Python's limit of 4300 digits for int()
        raise InputError(f"{where} has a number with too many digits for any datatype") from None


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return unique(pairs)
    except ValueError as error:
        raise InputError(f"{error}: leave one out") from None


def _document(path: Path) -> dict[str, Any]:
    document = _parsed(read_bytes(path, error=InputError), str(path))
    known = {"data", "validation_data"}
    if not isinstance(document, dict) or "data" not in document or not document.keys() <= known:
        raise InputError(f'{path} must be an object with "data", optionally "validation_data", and nothing else')
    return document


def _entries(document: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = document[key]
    if not isinstance(entries, list):
        raise InputError(f"{path}: {key} must be a list of objects, one a sample")
    for position, entry in enumerate(entries):
        if isinstance(entry, list):
            raise InputError(
                f"{path}: {key}[{position}] is a list, the steps of a sequence: sequences are not sent in order, "
                f"so list the steps in {key} itself if they can stand alone"
            )
        if not isinstance(entry, dict):
            raise InputError(f"{path}: {key}[{position}] must be an object of tensors, not {reprlib.repr(entry)}")
    return entries


def _tensors(entry: Mapping[str, Any], specs: Sequence[TensorSpec], where: str) -> dict[str, Tensor]:
    names = [spec.name for spec in specs]
    for name in entry:
        if name not in names and name != "model":  # perf_analyzer allows "model", which other tools write
            raise InputError(f"{where}: {reprlib.repr(name)} is not one of {', '.join(names) or 'nothing'}")
    return {spec.name: _tensor(entry[spec.name], spec, f"{where} {spec.name}") for spec in specs if spec.name in entry}


def _tensor(value: Any, spec: TensorSpec, where: str) -> Tensor:
    """A tensor from its JSON form: contents, or an object of ``content`` or ``b64`` and optionally ``shape``.

    Contents are a list, or the element itself where there is one.
    """
    content, given = value, None
    if isinstance(value, dict):
        if not value.keys() <= {"content", "b64", "shape"} or ("content" in value) == ("b64" in value):
            raise InputError(f'{where}: an object needs either "content" or "b64", optionally "shape"')
        if "shape" in value:
            given = _given_shape(value["shape"], where)
        content = value["content"] if "content" in value else {"b64": value["b64"]}
    if isinstance(content, str | int | float):
        content = [content]
        given = tuple(1 if size < 0 else size for size in spec.shape) if given is None else given
    if isinstance(content, list):
        elements, nesting = _flat(content, where)
        shape = _resolved(spec, given, nesting, where)
        if len(elements) != math.prod(shape):
            count = counted(len(elements), "element")
            if not shape:
                raise InputError(
                    f"{where}: {count}, but {spec} has one a sample (the first size in a file is the batch)"
                )
            raise InputError(f"{where}: {count}, but the shape {shape_text(shape)} has {math.prod(shape)}")
        return Tensor(shape, _packed_or_refused(elements, spec.datatype, where))
    if not isinstance(content, dict) or content.keys() != {"b64"} or not isinstance(content["b64"], str):
        raise InputError(f'{where}: use a list of elements, or {{"b64": "..."}}, not {reprlib.repr(content)}')
    shape = _resolved(spec, given, None, where)
    try:
        raw = base64.b64decode("".join(content["b64"].split()), validate=True)
        check_size(spec.datatype, shape, raw)
    except TensorError as error:
        raise InputError(f"{where}: {error}") from None
    except ValueError:
        raise InputError(f"{where}: b64 is not Base64") from None
    return Tensor(shape, raw)


def _given_shape(value: Any, where: str) -> Shape:
    if not isinstance(value, list) or not all(type(size) is int for size in value):
        raise InputError(f"{where}: a shape must be a list of integers, not {reprlib.repr(value)}")
    return tuple(value)


def _resolved(spec: TensorSpec, given: Shape | None, nesting: Shape | None, where: str) -> Shape:
    """The shape of a tensor: ``given``, else the nesting of its contents, else the declared one."""
    nested = nesting is not None and len(nesting) > 1
    if given is not None:
        shape = given
    elif nesting is not None and (nested or len(spec.shape) == 1):
        shape = nesting
    elif -1 in spec.shape:
        raise InputError(
            f'{where}: {spec} has open sizes: write {{"content": ..., "shape": [...]}}, or set them with --shape'
        )
    else:
        shape = spec.shape
    if not spec.fits(shape) or min(shape, default=1) < 1:
        raise InputError(f"{where}: the shape {reprlib.repr(list(shape))} does not fit {spec}")
    if nested and nesting != shape:
        raise InputError(f"{where}: nested as {shape_text(nesting or ())}, but the shape is {shape_text(shape)}")
    return shape


def _flat(content: list[Any], where: str) -> tuple[list[Any], Shape]:
    """The elements in row-major order, and the lengths of the nested lists."""
    elements, nesting = content, [len(content)]
    while elements and isinstance(elements[0], list):
        nesting.append(len(elements[0]))
        if not all(isinstance(part, list) and len(part) == nesting[-1] for part in elements):
            raise InputError(f"{where}: nested lists differ in length")
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
                raise InputError(f"{where}: element {position} is {shown}, which is not a valid {datatype}") from None
        raise


def _packed(elements: list[Any], datatype: str) -> bytes:
    """The contents of a tensor from JSON's elements.  Raises ``ValueError`` or ``OverflowError`` for an invalid one."""
    if not set(map(type, elements)) <= _JSON_TYPES.get(datatype, {int}):
        raise ValueError
    if datatype == "BYTES":
        return pack_bytes(elements)
    wanted = DATATYPES[datatype]
    if datatype in FLOATING:
        with np.errstate(over="ignore"):  # checked below
            numbers = np.array(elements, np.float64).astype("<f4" if datatype == "BF16" else wanted)
        finite = np.isfinite(numbers)
        if datatype == "BF16":
            numbers = bfloat16(numbers)
            finite = (numbers & 0x7F80) != 0x7F80
        if not finite.all() and not all(
            type(elements[place]) is _Constant for place in np.flatnonzero(~finite).tolist()
        ):  # too large for the datatype
            raise ValueError
        return numbers.tobytes()
    limits = (0, 1) if datatype == "BOOL" else (np.iinfo(wanted).min, np.iinfo(wanted).max)
    if elements and not limits[0] <= min(elements) <= max(elements) <= limits[1]:
        raise ValueError
    return np.array(elements, wanted).tobytes()
