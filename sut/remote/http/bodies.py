"""What is sent to an HTTP service: values, lines or files, each a body of its own or a part of a template.

Does not depend on how bodies travel.
"""

from __future__ import annotations

import json
import mimetypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen.files import mapped, read_bytes
from drumfire.loadgen.wording import counted
from drumfire.sut.data.arrays import unreadable
from drumfire.sut.data.inputs import InputError, Inputs, Sample
from drumfire.sut.data.json_file import LINES, numbered_lines
from drumfire.sut.data.random_values import generated
from drumfire.sut.data.sizes import Chosen
from drumfire.sut.kserve.messages.tensors import ModelInterface, Tensor, TensorSpec, as_array

PLACE = b"$input"
"""Where a template holds the sample."""
JSON, BYTES = "application/json", "application/octet-stream"
INTERFACE = ModelInterface(
    "body", "", "", (TensorSpec("body", "UINT8", (-1,)),), (TensorSpec("reply", "UINT8", (-1,)),), 0
)
"""A body as a model's input, and the reply as its output."""
_DRAWN = {"float": "FP32", "int": "INT64", "bool": "BOOL", "text": "BYTES", "bytes": "UINT8"}
"""Datatypes of drawn values by their names in ``--input``."""
_DECIMALS = 6
"""Of drawn numbers: more would only make bodies longer."""
_COUNT = 128


@dataclass(frozen=True)
class Source:
    """Samples as bytes."""

    name: str
    total_count: int
    description: str
    """A phrase for the result."""
    content_type: str
    """Of a sample that is sent as it is."""
    read: Callable[[int], bytes]


class Bodies(Inputs):
    """The samples of ``source``, each in its place in ``template``, or as they are without one."""

    def __init__(self, source: Source, template: bytes | None) -> None:
        self.name, self.total_count, self.description = source.name, source.total_count, source.description
        self._read, self._template = source.read, template

    def sample(self, index: int) -> Sample:
        body = self._read(index)
        if self._template is not None:
            body = self._template.replace(PLACE, body)
        return (Tensor((len(body),), body),)


def open_source(data: str | None, drawn: Sequence[str], template: bytes | None) -> Source:
    """The samples that ``--input-data`` and ``--input`` name.  Raises ``InputError``."""
    if len(drawn) > 1:
        raise InputError("--input: give one shape")
    if data not in (None, "random") and drawn:
        raise InputError(f"--input is the shape of random values, which --input-data {data} replaces: leave one out")
    if template is not None and PLACE not in template:
        if data is not None or drawn:
            raise InputError("the body has no $input, so the samples would not be sent: put it in, or leave them out")
        return Source("body", 1, "one body", JSON if _is_json(template) else BYTES, lambda index: b"")
    if data is None and not drawn and template is None:
        raise InputError("say what to send: --body, --input-data or --input")
    source = _drawn(drawn[0] if drawn else "float") if data in (None, "random") else _in_path(str(data), template)
    if template is not None and source.content_type != JSON:
        raise InputError(f"$input is a sample as JSON, and these are bytes ({source.description}): leave the body out")
    return source


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _in_path(data: str, template: bytes | None) -> Source:
    path = Path(data)
    try:
        if path.is_dir():
            return _folder(path)
        if not path.is_file():
            raise InputError(
                f"--input-data {data}: no such file or folder; give random, a JSON file, a file of JSON lines "
                f"({', '.join(LINES)}), a .npy file or a folder of files"
            )
        if path.suffix == ".npy":
            return _array(path, as_json=template is not None)
    except OSError as error:
        raise InputError(f"cannot read {data}: {error.strerror or error}") from None
    text = read_bytes(path, "--input-data", error=InputError)
    return _lines(path, text) if path.suffix.lower() in LINES else _document(path, text)


def _drawn(written: str) -> Source:
    shape_text, _, kind = written.rpartition("/") if "/" in written or written in _DRAWN else (written, "", "float")
    sizes = [size.strip() for size in shape_text.split(",")] if shape_text else []
    if kind not in _DRAWN or not all(re.fullmatch("0*[1-9][0-9]{0,11}", size) for size in sizes):
        raise InputError(
            f"--input {written}: use SHAPE, KIND or SHAPE/KIND, such as 3,224,224 or 16/int; "
            f"the kinds are {', '.join(_DRAWN)}"
        )
    shape, datatype = tuple(map(int, sizes)), _DRAWN[kind]
    interface = ModelInterface("http", "", "", (TensorSpec("input", datatype, shape),), (), 0)
    values = generated(Chosen(interface), kind="random", count=_COUNT)

    def read(index: int) -> bytes:
        (tensor,) = values.sample(index)
        if kind == "bytes":
            return bytes(tensor.data)
        array = as_array(datatype, tensor.shape, tensor.data)
        if kind == "text":
            return _dumped(np.array([text.decode() for text in array.reshape(-1)]).reshape(shape).tolist())
        return _dumped((array.astype(np.float64).round(_DECIMALS) if kind == "float" else array).tolist())

    what = f"{kind} {list(shape)}" if shape else kind
    return Source("random", _COUNT, f"{values.description}: {what}", BYTES if kind == "bytes" else JSON, read)


def _document(path: Path, text: bytes) -> Source:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = f"; a file of one JSON value a line ends in {' or '.join(LINES)}" if b"\n" in text.strip() else ""
        raise InputError(f"{path} is not JSON: {error}{hint}") from None
    samples = document if isinstance(document, list) else [document]
    return _source(path, len(samples), "sample", JSON, lambda index: _dumped(samples[index]))


def _lines(path: Path, text: bytes) -> Source:
    lines = []
    for number, line in numbered_lines(text):
        if not _is_json(line):
            raise InputError(f"{path}: line {number} is not JSON: {line[:60].decode('utf-8', 'replace')}")
        lines.append(line)
    return _source(path, len(lines), "line", JSON, lines.__getitem__)


def _array(path: Path, *, as_json: bool) -> Source:
    try:
        array: Any = mapped(path)
    except Exception as error:  # the header is a Python literal: a damaged one raises any of the parser's errors
        raise unreadable(str(path), error) from None
    if array.ndim < 1 or (as_json and array.dtype.kind not in "biufU"):
        raise InputError(f"{path} holds {array.dtype} of shape {list(array.shape)}: it needs numbers, a row a sample")
    if as_json:
        return _source(path, len(array), "row", JSON, lambda index: _dumped(array[index].tolist()))
    return _source(path, len(array), "row", BYTES, lambda index: np.ascontiguousarray(array[index]).tobytes())


def _folder(path: Path) -> Source:
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    types = {mimetypes.guess_type(file.name)[0] for file in files}
    only = types.pop() if len(types) == 1 else None

    def read(index: int) -> bytes:
        try:
            return files[index].read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {files[index]}: {error.strerror}") from None

    # Bytes of a file are sent as they are, JSON included.
    return _source(path, len(files), "file", only or BYTES, read)


def _source(path: Path, count: int, what: str, content_type: str, read: Callable[[int], bytes]) -> Source:
    if not count:
        raise InputError(f"{path} has no samples")
    name = path.resolve().name if path.is_dir() else path.stem

    def checked(index: int) -> bytes:
        try:
            return read(index)
        except UnicodeEncodeError:
            raise InputError(f"{path}: {what} {index} holds half of a surrogate pair, which is no text") from None

    return Source(name, count, f"{counted(count, what)} of {path}", content_type, checked)


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
