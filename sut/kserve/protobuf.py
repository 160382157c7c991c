"""The protobuf wire format: fields of a message as bytes and back, by a table of the fields wanted.

Knows varints, lengths and nesting; must not know any message.  It stands in for the protobuf package, whose messages
cost more than all the rest of a request.  Source: the "Encoding" page of the Protocol Buffers documentation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sut.kserve.errors import ProtocolError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_MOST_DEPTH = 32

Buffer = bytes | memoryview


def varint(value: int) -> bytes:
    """A number of 0 to 2^64-1."""
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{value} is no unsigned number of 64 bits")
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def number_field(number: int, value: int) -> bytes:
    """A field of an integer or bool; negative ones as two's complement of 64 bits."""
    return varint(number << 3 | VARINT) + varint(value & (1 << 64) - 1)


def bytes_head(number: int, length: int) -> bytes:
    """What stands before the ``length`` bytes of a string, bytes or message field."""
    return varint(number << 3 | LENGTH) + varint(length)


def bytes_field(number: int, value: Buffer) -> bytes:
    return bytes_head(number, len(value)) + value


def numbers_field(number: int, values: Iterable[int]) -> bytes:
    """A field of repeated integers, packed."""
    return bytes_field(number, b"".join(varint(value & (1 << 64) - 1) for value in values))


def text_field(number: int, value: str) -> bytes:
    return bytes_field(number, value.encode())


class Field(NamedTuple):
    number: int
    wire_type: int
    value: int | Buffer
    """A number, or the bytes of a field with a length (8 or 4 for the fixed ones)."""
    first: int
    """Where the value starts in the message."""


def fields(message: Buffer) -> Iterator[Field]:
    """The fields in their order; bytes are views of ``message``.  Raises ``ProtocolError`` where it breaks off."""
    view, at, end = memoryview(message), 0, len(message)
    while at < end:
        tag, at = _read_varint(view, at)
        number, wire_type = tag >> 3, tag & 7
        if not number:
            raise ProtocolError("a protobuf field of number 0")
        if wire_type == VARINT:
            first = at
            value, at = _read_varint(view, at)
            yield Field(number, wire_type, value, first)
            continue
        if wire_type == LENGTH:
            length, at = _read_varint(view, at)
        elif wire_type in (FIXED64, FIXED32):
            length = 8 if wire_type == FIXED64 else 4
        else:
            raise ProtocolError(f"a protobuf field of the unknown wire type {wire_type}")
        if length > end - at:
            raise ProtocolError("a protobuf message ends within a field")
        yield Field(number, wire_type, view[at : at + length], at)
        at += length


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(view):
            raise ProtocolError("a protobuf message ends within a number")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
        shift += 7
        if shift > 63:
            raise ProtocolError("a protobuf number of more than 64 bits")


Form = Mapping[int, tuple[str, Any]]
"""The fields of a message that are wanted: by number, the name and the kind: ``int``, ``bool``, ``str``, ``bytes``,
``float`` (a double), or the ``Form`` of a message; a list of one kind for a repeated field."""


def decode(message: Buffer, form: Form, depth: int = 0) -> dict[str, Any]:
    """A message as a dictionary.  Raises ``ProtocolError``.

    Fields that did not come have protobuf's default, which is None for a message.  Of a field that is not repeated and
    yet comes again the last counts.
    """
    if depth > _MOST_DEPTH:
        raise ProtocolError("a protobuf message nested too deep")
    found: dict[str, Any] = {name: _default(kind) for name, kind in form.values()}
    for field in fields(message):
        if field.number not in form:
            continue
        name, kind = form[field.number]
        if not isinstance(kind, list):
            found[name] = _value(field, name, kind, depth)
        elif kind[0] in (int, bool) and field.wire_type == LENGTH:
            found[name] += _packed(field, name, kind[0])
        else:
            found[name].append(_value(field, name, kind[0], depth))
    return found


def _default(kind: Any) -> Any:
    if isinstance(kind, list):
        return []
    return None if isinstance(kind, Mapping) else kind()


def _value(field: Field, name: str, kind: Any, depth: int) -> Any:
    if kind in (int, bool):
        if not isinstance(field.value, int):
            raise ProtocolError(f"protobuf field {name} is no number")
        return _signed(field.value, kind)
    wire_type = FIXED64 if kind is float else LENGTH
    if field.wire_type != wire_type:
        raise ProtocolError(f"protobuf field {name} has the wire type {field.wire_type}, not {wire_type}")
    content = _as_bytes(field, name)
    if isinstance(kind, Mapping):
        return decode(content, kind, depth + 1)
    if kind is float:
        return struct.unpack("<d", content)[0]
    if kind is bytes:
        return bytes(content)
    try:
        return bytes(content).decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"protobuf field {name} is no text") from None


def _packed(field: Field, name: str, kind: Any) -> list[Any]:
    """Repeated numbers in one field."""
    view, at, values = memoryview(_as_bytes(field, name)), 0, []
    while at < len(view):
        value, at = _read_varint(view, at)
        values.append(_signed(value, kind))
    return values


def _signed(value: int, kind: Any) -> Any:
    """Enough for int64 and bool; unsigned numbers above 2^63 do not occur in what is read here."""
    return kind(value - (1 << 64) if value >> 63 else value)


def _as_bytes(field: Field, name: str) -> Buffer:
    if isinstance(field.value, int):
        raise ProtocolError(f"protobuf field {name} is a number where bytes are expected")
    return field.value
