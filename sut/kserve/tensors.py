"""Tensors as the KServe v2 protocol names and lays them out, and what a model takes and gives.

Knows datatypes, shapes and raw contents; must not know how they travel.
Source: KServe's "Open Inference Protocol (v2)" and Triton's binary tensor extension.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16: its bits
}
"""Datatypes of a fixed size.  BYTES, whose elements are of any length, is the one besides."""


class TensorError(ValueError):
    """A tensor that is not what it should be.  The text is one line and says what was expected."""


class Tensor(NamedTuple):
    """One tensor's contents as they travel: row-major, little-endian; BYTES elements each behind a 4-byte length."""

    shape: Shape
    data: bytes | memoryview
    """A view is one of single bytes."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output that a model declares."""

    name: str
    datatype: str
    shape: Shape
    """Of one sample, without the batch; -1 where any size will do."""

    def __post_init__(self) -> None:
        if self.datatype not in DATATYPES and self.datatype != "BYTES":
            raise TensorError(f"tensor {self.name!r} has the unknown datatype {self.datatype!r}")

    def __str__(self) -> str:
        return f"{self.name} {self.datatype}[{','.join(map(str, self.shape))}]"

    def fits(self, shape: Shape) -> bool:
        """Whether a sample may have this shape."""
        return len(shape) == len(self.shape) and all(
            asked in (-1, size) for asked, size in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class ModelInterface:
    """What a model on a server takes and gives."""

    name: str
    version: str
    """Empty: whichever the server serves."""
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    """0 where the model does not batch: a request's tensors then have no batch dimension."""


def as_tensor(array: npt.NDArray[Any], spec: TensorSpec) -> Tensor:
    """An array of one sample as contents for ``spec``.  Raises ``TensorError`` for another shape or datatype."""
    if not spec.fits(array.shape):
        raise TensorError(f"{spec} was given the shape [{','.join(map(str, array.shape))}]")
    if spec.datatype == "BYTES":
        return Tensor(array.shape, pack_bytes(array.reshape(-1).tolist()))
    wanted = DATATYPES[spec.datatype]
    if array.dtype != wanted:
        raise TensorError(f"{spec} was given {array.dtype}: {wanted} is wanted")
    return Tensor(array.shape, np.ascontiguousarray(array).tobytes())


def as_array(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> npt.NDArray[Any]:
    """Contents as an array of ``shape``; BYTES give an object array of ``bytes``.  Raises ``TensorError``."""
    check_size(datatype, shape, data)
    if datatype == "BYTES":
        array = np.empty(math.prod(shape), np.object_)
        array[:] = unpack_bytes(data)
        return array.reshape(shape)
    return np.frombuffer(data, DATATYPES[datatype]).reshape(shape)


def check_size(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> None:
    """Raise ``TensorError`` unless ``data`` holds exactly the elements of ``shape``."""
    if min(shape, default=0) < 0:
        raise TensorError(f"a tensor of shape {list(shape)}")
    elements = math.prod(shape)
    if datatype == "BYTES":
        found = len(unpack_bytes(data))
        if found != elements:
            raise TensorError(f"{found} elements where a BYTES tensor of shape {list(shape)} has {elements}")
        return
    if datatype not in DATATYPES:
        raise TensorError(f"a tensor of the unknown datatype {datatype!r}")
    wanted = elements * DATATYPES[datatype].itemsize
    if len(data) != wanted:
        raise TensorError(f"{len(data)} bytes where a {datatype} tensor of shape {list(shape)} has {wanted}")


def pack_bytes(elements: Iterable[bytes | str]) -> bytes:
    """The contents of a BYTES tensor: each element behind its length.  Raises ``TensorError`` for other elements."""
    parts: list[bytes] = []
    for element in elements:
        try:
            raw = element.encode() if isinstance(element, str) else element
        except UnicodeEncodeError:
            raise TensorError(f"an element that is no text: {element!r}") from None
        if not isinstance(raw, bytes):
            raise TensorError(f"a BYTES tensor has bytes or strings as elements, not {type(element).__name__}")
        parts += (struct.pack("<I", len(raw)), raw)
    return b"".join(parts)


def unpack_bytes(data: bytes | memoryview) -> list[bytes]:
    """The elements of a BYTES tensor.  Raises ``TensorError`` where a length runs over the end."""
    elements, at, end = [], 0, len(data)
    while at < end:
        if at + 4 > end:
            raise TensorError("a BYTES tensor ends within a length")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > end:
            raise TensorError("a BYTES tensor ends within an element")
        elements.append(bytes(data[at : at + length]))
        at += length
    return elements


def from_json_values(values: Any, datatype: str) -> bytes:
    """Contents from the values of a JSON list, nested or flat.  Raises ``TensorError``."""
    flat: list[Any] = []
    rest = [values]
    while rest:
        value = rest.pop()
        if isinstance(value, list):
            rest += value[::-1]
        else:
            flat.append(value)
    if datatype == "BYTES":
        if not all(isinstance(value, str) for value in flat):
            raise TensorError("a BYTES tensor has an element that is no string")
        return pack_bytes(flat)
    if datatype not in DATATYPES or not all(isinstance(value, int | float) for value in flat):
        raise TensorError(f"a tensor of {datatype} has an element that is no number")
    if datatype == "BF16":
        raise TensorError("a tensor of BF16 as a list of numbers: only its bits can be read")
    if DATATYPES[datatype].kind not in "f" and any(isinstance(value, float) and value % 1 for value in flat):
        raise TensorError(f"a tensor of {datatype} has an element that is no whole number")
    try:
        return np.array(flat, DATATYPES[datatype]).tobytes()
    except (OverflowError, ValueError) as error:
        raise TensorError(f"a tensor of {datatype}: {error}") from None
