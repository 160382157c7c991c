"""Converts tensors between lists of typed numbers (InferTensorContents) and raw contents.

Handles the list of each datatype.  Does not depend on requests.  Fast clients and servers send raw contents; some
others send these lists.  Source: KServe's open_inference_grpc.proto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.messages.exchange import Buffer
from drumfire.sut.kserve.messages.protobuf import FIXED32, FIXED64, LENGTH, VARINT, bytes_field, fields
from drumfire.sut.kserve.messages.tensors import (
    DATATYPES,
    TensorError,
    check_size,
    count_elements,
    pack_bytes,
    unpack_bytes,
)

_FIELDS: Mapping[str, int] = {
    "BOOL": 1,
    "INT8": 2,
    "INT16": 2,
    "INT32": 2,
    "INT64": 3,
    "UINT8": 4,
    "UINT16": 4,
    "UINT32": 4,
    "UINT64": 5,
    "FP32": 6,
    "FP64": 7,
    "BYTES": 8,
}
_REAL = {6: (FIXED32, "<f4"), 7: (FIXED64, "<f8")}
_LONGEST_VARINT = 10
_MOST_PIECES = 4096


def typed_contents(what: str, datatype: str, shape: Sequence[int], message: Buffer, most: int | None = None) -> bytes:
    """The raw contents of an InferTensorContents.  ``what`` names the tensor in an error's text; ``most``: bytes of
    numbers that take time to read, where that is bounded.

    Raises ``TensorError`` unless ``message`` holds exactly the elements of ``shape``, in the list of the datatype, and
    ``ProtocolError`` for any other message.
    """
    wanted = _FIELDS.get(datatype)
    if wanted is None:
        raise TensorError(f"{what}: {datatype} has no typed contents: send raw contents")
    try:
        elements = count_elements(shape)
    except TensorError as error:
        raise TensorError(f"{what}: {error}") from None
    if most is not None and wanted not in _REAL and len(message) > most:
        raise TensorError(
            f"{what}: {len(message)} bytes of typed contents; at most {most} are accepted: send raw contents"
        )
    pieces: list[Any] = []
    for field in fields(message) if most is None else fields(message, _MOST_PIECES):
        if field.number != wanted:
            raise TensorError(f"{what}: contents of another datatype than {datatype}")
        if wanted == 8 and field.wire_type == LENGTH:
            pieces.append(bytes(_as_buffer(field.value)))
        elif wanted in _REAL and field.wire_type in (LENGTH, _REAL[wanted][0]):
            pieces.append(_reals(_as_buffer(field.value), _REAL[wanted][1]))
        elif wanted not in (8, *_REAL) and field.wire_type in (LENGTH, VARINT):
            number = field.value
            pieces.append(np.array([number], np.uint64) if isinstance(number, int) else _varints(number))
        else:
            raise ProtocolError(f"{what}: typed contents of the wire type {field.wire_type}")
    if wanted == 8:
        found = len(pieces)
    else:
        array = np.concatenate(pieces) if pieces else np.empty(0, np.uint64)
        found = len(array)
    if found != elements:
        raise TensorError(f"{what}: {found} elements where a tensor of shape {list(shape)} has {elements}")
    return pack_bytes(pieces) if wanted == 8 else _narrowed(what, datatype, array).tobytes()


def elements_of(datatype: str, shape: Sequence[int], data: Buffer) -> bytes:
    """Raw contents in the form of their list, to be put together with those of other samples: packed numbers, or the
    fields of strings.  ``contents_field`` makes a message of them.

    Raises ``TensorError`` for a datatype without a list, and unless ``data`` has the size of ``shape``.
    """
    wanted = _FIELDS.get(datatype)
    if wanted is None:
        raise TensorError(f"{datatype} has no typed contents: only raw contents can hold it")
    check_size(datatype, shape, data)
    if wanted == 8:
        return b"".join(bytes_field(8, element) for element in unpack_bytes(data))
    if wanted in _REAL:
        return bytes(data)
    return _packed(np.frombuffer(data, DATATYPES[datatype]).astype(np.int64).view(np.uint64))


def contents_field(number: int, datatype: str, elements: bytes) -> bytes:
    """The field ``number`` with an InferTensorContents of these ``elements_of`` a tensor, or of several in a row."""
    wanted = _FIELDS[datatype]
    return bytes_field(number, elements if wanted == 8 else bytes_field(wanted, elements))


def _packed(numbers: npt.NDArray[np.uint64]) -> bytes:
    """The inverse of ``_varints``."""
    groups = numbers[:, None] >> np.arange(0, 7 * _LONGEST_VARINT, 7, dtype=np.uint64)
    lasts = np.maximum((groups != 0).sum(1), 1)[:, None] - 1
    places = np.arange(_LONGEST_VARINT)
    octets = (groups & np.uint64(0x7F)).astype(np.uint8) | np.where(places < lasts, 0x80, 0).astype(np.uint8)
    return bytes(octets[places <= lasts])


def _as_buffer(value: int | Buffer) -> Buffer:
    assert not isinstance(value, int)
    return value


def _reals(data: Buffer, dtype: str) -> npt.NDArray[Any]:
    if len(data) % np.dtype(dtype).itemsize:
        raise ProtocolError("packed numbers end within a number")
    return np.frombuffer(data, dtype)


def _varints(data: Buffer) -> npt.NDArray[np.uint64]:
    """Packed varints: each is the sum of its bytes' lower 7 bits, shifted by 7 more for each byte."""
    octets = np.frombuffer(data, np.uint8)
    if not len(octets):
        return np.empty(0, np.uint64)
    lasts = np.flatnonzero(octets < 0x80)
    if not len(lasts) or lasts[-1] != len(octets) - 1:
        raise ProtocolError("packed numbers end within a number")
    firsts = np.concatenate(([0], lasts[:-1] + 1))
    lengths = lasts - firsts + 1
    if lengths.max() > _LONGEST_VARINT:
        raise ProtocolError("a protobuf number of more than 64 bits")
    places = np.arange(len(octets)) - np.repeat(firsts, lengths)
    return np.add.reduceat((octets & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64), firsts)


def _narrowed(what: str, datatype: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The numbers in the datatype.  Raises ``TensorError`` if a number does not fit."""
    dtype = DATATYPES[datatype]
    if array.dtype == dtype:
        return array
    if dtype.kind in "ib":
        array = array.astype(np.int64)  # negative numbers come as two's complement of 64 bits
    narrowed = array.astype(dtype)
    if (narrowed != array).any():
        raise TensorError(f"{what}: a number that does not fit in {datatype}")
    return narrowed
