"""Tensors of the KServe v2 protocol: datatypes, shapes and raw contents, and the inputs and outputs of a model.

Does not depend on how tensors travel.
Source: KServe's "Open Inference Protocol (v2)" and Triton's binary tensor extension.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.sut.kserve.errors import one_line

Shape = tuple[int, ...]

DATATYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16; these are its bits
}
"""Datatypes of a fixed size.  The only other datatype is BYTES, whose elements have any length."""

_BY_DTYPE = {dtype: name for name, dtype in DATATYPES.items() if name != "BF16"}
MOST_DIMENSIONS = 32
MOST_ELEMENTS_OF_BYTES = 1 << 20
"""The most elements of a BYTES tensor that is checked: finding them takes time for each."""
_MOST_ELEMENTS = 1 << 60
_TEXTS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_NOT_FINITE: Mapping[str, float] = {text: float(number) for number, text in _TEXTS.items()}


class TensorError(ValueError):
    """A tensor is wrong.  The text is one line and says what was expected."""


def datatype_of(dtype: npt.DTypeLike) -> str:
    """The protocol's name of a type of numpy's; objects are texts.  Raises ``TensorError`` if it has none."""
    kind = np.dtype(dtype)
    name = "BYTES" if kind.hasobject else _BY_DTYPE.get(kind.newbyteorder("<"))
    if name is None:
        raise TensorError(f"KServe has no name for the type {kind}")
    return name


class Tensor(NamedTuple):
    """One tensor's contents as they travel: row-major, little-endian; each BYTES element follows a 4-byte length."""

    shape: Shape
    data: bytes | memoryview
    """A view has items of one byte."""


LEFT_OUT = Tensor((), b"")
"""In place of an optional input that a sample does not have; no tensor of this shape has 0 bytes."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output that a model declares."""

    name: str
    datatype: str
    shape: Shape
    """Of one sample, without the batch; -1 for any size."""
    optional: bool = False
    """A request may leave this input out."""
    dims: tuple[str, ...] = field(default=(), compare=False)
    """The names of the sizes, "" for one without, where a model's file is at hand; no server says them."""

    def __post_init__(self) -> None:
        if self.datatype not in DATATYPES and self.datatype != "BYTES":
            raise TensorError(f"tensor {one_line(self.name, 60)!r} has the unknown datatype {self.datatype[:40]!r}")

    @property
    def size_names(self) -> tuple[str, ...]:
        """``dims``, of all sizes."""
        return self.dims or ("",) * len(self.shape)

    def __str__(self) -> str:
        sizes = (dim if size < 0 and dim else str(size) for size, dim in zip(self.shape, self.size_names, strict=True))
        return f"{one_line(self.name, 100)} {self.datatype}[{one_line(','.join(sizes), 200)}]"

    def fits(self, shape: Shape) -> bool:
        """Whether a sample may have this shape."""
        return len(shape) == len(self.shape) and all(
            declared in (-1, size) for declared, size in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class ModelInterface:
    """The inputs and outputs of a model on a server."""

    name: str
    version: str
    """Empty: the server chooses."""
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    """0: the model does not batch, and a request's tensors have no batch dimension."""


def as_tensor(array: npt.NDArray[Any], spec: TensorSpec) -> Tensor:
    """The contents of ``spec`` for one sample, from an array.  Raises ``TensorError`` for another shape or datatype."""
    if not spec.fits(array.shape):
        raise TensorError(f"{spec} received the shape [{','.join(map(str, array.shape))}]")
    if spec.datatype == "BYTES":
        return Tensor(array.shape, pack_bytes(array.reshape(-1).tolist()))
    wanted = DATATYPES[spec.datatype]
    if array.dtype != wanted:
        raise TensorError(f"{spec} received {array.dtype}; it needs {wanted}")
    return Tensor(array.shape, np.ascontiguousarray(array).tobytes())


def as_array(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> npt.NDArray[Any]:
    """Contents as an array of ``shape``; BYTES become an object array of ``bytes``.  Raises ``TensorError``."""
    check_size(datatype, shape, data)
    if datatype == "BYTES":
        array = np.empty(math.prod(shape), np.object_)
        array[:] = unpack_bytes(data)
        return array.reshape(shape)
    return np.frombuffer(data, DATATYPES[datatype]).reshape(shape)


def count_elements(shape: Sequence[int]) -> int:
    """The number of elements of a shape.  Raises ``TensorError`` for an impossible shape."""
    if len(shape) > MOST_DIMENSIONS:
        raise TensorError(f"a tensor of {len(shape)} dimensions; at most {MOST_DIMENSIONS} are accepted")
    if min(shape, default=0) < 0:
        raise TensorError(f"a tensor of shape {str(list(shape))[:200]}")
    if math.prod(size or 1 for size in shape) >= _MOST_ELEMENTS:  # arrays have this limit even where they are empty
        raise TensorError(f"a tensor of shape {str(list(shape))[:200]}: more than memory can hold")
    return math.prod(shape)


def check_size(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> None:
    """Raise ``TensorError`` unless ``data`` holds exactly the elements of ``shape``."""
    elements = count_elements(shape)
    if datatype == "BYTES":
        if len(data) // 4 > MOST_ELEMENTS_OF_BYTES < elements:
            raise TensorError(f"a BYTES tensor of {elements} elements; at most {MOST_ELEMENTS_OF_BYTES} are accepted")
        found = _count_bytes(data, most=max(elements, MOST_ELEMENTS_OF_BYTES))
        if found != elements:
            raise TensorError(f"{found} elements; a BYTES tensor of shape {list(shape)} has {elements}")
        return
    if datatype not in DATATYPES:
        raise TensorError(f"a tensor of the unknown datatype {datatype[:40]!r}")
    wanted = elements * DATATYPES[datatype].itemsize
    if len(data) != wanted:
        raise TensorError(f"{len(data)} bytes; a {datatype} tensor of shape {list(shape)} has {wanted}")


def pack_bytes(elements: Iterable[bytes | str]) -> bytes:
    """The contents of a BYTES tensor: each element after its length.  Raises ``TensorError`` for other elements."""
    parts: list[bytes] = []
    for element in elements:
        try:
            raw = element.encode() if isinstance(element, str) else element
        except UnicodeEncodeError:
            raise TensorError(f"an element that is not text: {element!r}") from None
        if not isinstance(raw, bytes):
            raise TensorError(f"a BYTES tensor needs bytes or strings as elements, not {type(element).__name__}")
        parts += (struct.pack("<I", len(raw)), raw)
    return b"".join(parts)


def unpack_bytes(data: bytes | memoryview) -> list[bytes]:
    """The elements of a BYTES tensor.  Raises ``TensorError`` if a length runs past the end."""
    return [bytes(data[first:last]) for first, last in _elements_of_bytes(data)]


def _count_bytes(data: bytes | memoryview, most: int) -> int:
    """The number of elements of a BYTES tensor; counting stops at ``most`` + 1."""
    return sum(1 for _ in itertools.islice(_elements_of_bytes(data), most + 1))


def _elements_of_bytes(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """The start and end of each element."""
    at, end = 0, len(data)
    while at < end:
        if at + 4 > end:
            raise TensorError("a BYTES tensor ends within a length")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > end:
            raise TensorError("a BYTES tensor ends within an element")
        yield at, at + length
        at += length


def check_tensor(what: str, datatype: str, shape: Sequence[int], data: bytes | memoryview | None) -> None:
    """Like ``check_size``, with ``what`` in the error's text.  Without data, check only datatype and shape."""
    try:
        if data is not None:
            check_size(datatype, shape, data)
        elif datatype not in DATATYPES and datatype != "BYTES":
            raise TensorError(f"a tensor of the unknown datatype {datatype[:40]!r}")
        else:
            count_elements(shape)
    except TensorError as error:
        raise TensorError(f"{what}: {error}") from None


def from_json_values(values: Any, datatype: str, *, null_is_nan: bool = False) -> bytes:
    """Contents from the values of a JSON list, nested or flat.  Raises ``TensorError``.

    What is not finite may be NaN and Infinity as Python writes them, or the texts of protobuf's JSON; ``null_is_nan``:
    or null, as which many writers of JSON put it.
    """
    flat = _flat(values)
    if datatype in DATATYPES and DATATYPES[datatype].kind == "f" and not all(isinstance(v, (int, float)) for v in flat):
        flat = [_NOT_FINITE.get(value, value) if isinstance(value, str) else value for value in flat]
        if null_is_nan:
            flat = [math.nan if value is None else value for value in flat]
    if datatype == "BYTES":
        if not all(isinstance(value, str) for value in flat):
            raise TensorError("a BYTES tensor has an element that is not a string")
        return pack_bytes(flat)
    kinds = set(map(type, flat))
    if datatype not in DATATYPES or not kinds <= {int, float, bool}:
        raise TensorError(f"a tensor of {datatype} has an element that is not a number")
    if datatype == "BF16":
        raise TensorError("a tensor of BF16 cannot be a list of numbers: send its bits as binary data")
    if DATATYPES[datatype].kind not in "f" and float in kinds and any(value % 1 for value in flat):
        raise TensorError(f"a tensor of {datatype} has an element that is not an integer")
    try:
        with np.errstate(over="raise", invalid="raise"):
            return np.array(flat, DATATYPES[datatype]).tobytes()
    except FloatingPointError:
        raise TensorError(f"a tensor of {datatype} has an element that is too large") from None
    except (OverflowError, ValueError) as error:
        raise TensorError(f"a tensor of {datatype}: {error}") from None


def to_json_text(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> bytes:
    """The elements of a JSON list without its brackets; what is not finite is a text, as in protobuf's JSON.

    Raises ``TensorError`` for elements that JSON cannot express.
    """
    values = to_json_values(datatype, shape, data, finite=False)
    if isinstance(values, list):
        return json.dumps(values, separators=(",", ":"))[1:-1].encode()
    numbers = values.tolist()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        numbers = [number if math.isfinite(number) else _TEXTS[str(number)] for number in numbers]
    return json.dumps(numbers, separators=(",", ":"))[1:-1].encode()


def to_json_values(
    datatype: str, shape: Sequence[int], data: bytes | memoryview, *, finite: bool = True
) -> npt.NDArray[np.generic] | list[str]:
    """The elements for JSON, flat: an array of numbers, or strings.  Floats become doubles, so that no digit is lost.

    Raises ``TensorError`` for elements that JSON cannot express; not ``finite``: NaN and infinities are let through.
    """
    check_size(datatype, shape, data)
    if datatype == "BF16":
        raise TensorError("BF16 cannot be sent in JSON: request binary data")
    if datatype == "BYTES":
        try:
            return [element.decode() for element in unpack_bytes(data)]
        except UnicodeDecodeError:
            raise TensorError("an element that is not text cannot be sent in JSON: request binary data") from None
    values = np.frombuffer(data, DATATYPES[datatype])
    if finite and values.dtype.kind == "f" and not np.isfinite(values).all():
        raise TensorError("NaN and infinity cannot be sent in JSON: request binary data")
    # The shortest digits of an FP32 identify it, but readers parse JSON numbers as doubles.
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def _flat(values: Any) -> list[Any]:
    """The values of nested lists, in order."""
    flat: list[Any] = values if isinstance(values, list) else [values]
    while (kinds := set(map(type, flat))) == {list}:
        flat = list(itertools.chain.from_iterable(flat))
    if list not in kinds:
        return flat
    rest, flat = flat[::-1], []
    while rest:
        value = rest.pop()
        if isinstance(value, list):
            rest += value[::-1]
        else:
            flat.append(value)
    return flat
