"""The protobuf wire format: converts between a message's bytes and its fields, by a schema.

Handles varints, lengths and nesting.  Does not depend on any particular message.  It replaces the protobuf package,
whose messages cost more than the rest of a request.  Source: the "Encoding" page of the Protocol Buffers documentation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from drumfire.sut.kserve.errors import ProtocolError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_MOST_DEPTH = 32
_MOST_FIELDS = 1 << 17
_LARGEST_PACKED = 1 << 20

Buffer = bytes | memoryview


def varint(value: int) -> bytes:
    """Encode a number from 0 to 2^64-1; raises ``ValueError`` for any other."""
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{value} is not an unsigned number of 64 bits")
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def number_field(number: int, value: int) -> bytes:
    """A field of an integer or bool; negative numbers in two's complement of 64 bits."""
    return varint(number << 3 | VARINT) + varint(value & (1 << 64) - 1)


def bytes_head(number: int, length: int) -> bytes:
    """The bytes before the value of a string, bytes or message field of ``length`` bytes."""
    return varint(number << 3 | LENGTH) + varint(length)


def bytes_field(number: int, value: Buffer) -> bytes:
    """A field of bytes or of an encoded message."""
    return bytes_head(number, len(value)) + value


def numbers_field(number: int, values: Iterable[int]) -> bytes:
    """A field of repeated integers, packed."""
    return bytes_field(number, b"".join(varint(value & (1 << 64) - 1) for value in values))


def text_field(number: int, value: str) -> bytes:
    """A field of a string."""
    return bytes_field(number, value.encode())


def real_field(number: int, value: float) -> bytes:
    """A field of a double."""
    return varint(number << 3 | FIXED64) + struct.pack("<d", value)


class Field(NamedTuple):
    number: int
    wire_type: int
    value: int | Buffer
    """The number of a varint; otherwise the bytes (8 or 4 of a fixed field)."""
    first: int
    """Start of the value in the message."""


def fields(message: Buffer, most: int = _MOST_FIELDS) -> Iterator[Field]:
    """The fields in order; bytes are views of ``message``.  Raises ``ProtocolError`` if the message is cut short, or
    has more than ``most`` fields (each takes time)."""
    view, at, end = memoryview(message), 0, len(message)
    while at < end:
        most -= 1
        if most < 0:
            raise ProtocolError("a protobuf message with too many fields")
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


Schema = Mapping[int, tuple[str, Any]]
"""The fields to read of a message: by number, the name and the kind.  A kind is ``int``, ``bool``, ``str``, ``bytes``,
``float`` (a double), a tuple of names (an enumeration that counts from 0), a ``Schema`` (a message) or a ``MapOf``; a
list of one kind is a repeated field."""


@dataclass(frozen=True)
class MapOf:
    """The kind of a map from strings to messages."""

    schema: Schema


def decode(message: Buffer, schema: Schema, depth: int = 0, *, most: int = _MOST_FIELDS) -> dict[str, Any]:
    """A message of at most ``most`` fields, not counting those of messages in it, as a dictionary.  Raises
    ``ProtocolError``.

    Missing fields have protobuf's default, which is None for a message.  If a field that is not repeated occurs
    several times, the last one counts.
    """
    if depth > _MOST_DEPTH:
        raise ProtocolError("a protobuf message nested too deeply")
    found: dict[str, Any] = {name: default(kind) for name, kind in schema.values()}
    for field in fields(message, most):
        if field.number not in schema:
            continue
        name, kind = schema[field.number]
        if isinstance(kind, MapOf):
            entry = _value(field, name, {1: ("key", str), 2: ("value", kind.schema)}, depth)
            found[name][entry["key"]] = entry["value"] or decode(b"", kind.schema)
        elif not isinstance(kind, list):
            found[name] = _value(field, name, kind, depth)
        elif kind[0] in (int, bool) and field.wire_type == LENGTH:
            found[name] += _packed(field, name, kind[0])
        else:
            found[name].append(_value(field, name, kind[0], depth))
    return found


def encode(schema: Schema, message: Mapping[str, Any]) -> bytes:
    """A dictionary as a message, its fields in the order of their numbers.  Raises ``ValueError``.

    Values that are missing, None or protobuf's default are left out; empty messages are not.
    """
    return b"".join(_encoded(number, *schema[number], message) for number in sorted(schema))


def _encoded(number: int, name: str, kind: Any, message: Mapping[str, Any]) -> bytes:
    value = message.get(name)
    if value is None:
        return b""
    if isinstance(kind, MapOf):
        return b"".join(
            bytes_field(number, text_field(1, key) + bytes_field(2, encode(kind.schema, one)))
            for key, one in value.items()
        )
    if not isinstance(kind, list):
        field = _field(number, name, kind, value)
        return b"" if value == default(kind) and not _is_negative_zero(value) else field
    if kind[0] in (int, bool):
        return numbers_field(number, value) if value else b""
    return b"".join(_field(number, name, kind[0], one) for one in value)


def _field(number: int, name: str, kind: Any, value: Any) -> bytes:
    if kind in (int, bool):
        return number_field(number, value)
    if isinstance(kind, tuple):
        if value not in kind:
            raise ValueError(f"{name} is {value!r}, not one of {', '.join(kind)}")
        return number_field(number, kind.index(value))
    if isinstance(kind, Mapping):
        return bytes_field(number, encode(kind, value))
    if kind is float:
        return real_field(number, value)
    return text_field(number, value) if kind is str else bytes_field(number, value)


def _is_negative_zero(value: Any) -> bool:
    return isinstance(value, float) and str(value) == "-0.0"


def default(kind: Any) -> Any:
    """The value of a missing field of this kind."""
    if isinstance(kind, list):
        return []
    if isinstance(kind, tuple):
        return kind[0]
    if isinstance(kind, MapOf):
        return {}
    return None if isinstance(kind, Mapping) else kind()


def _value(field: Field, name: str, kind: Any, depth: int) -> Any:
    if kind in (int, bool):
        if not isinstance(field.value, int):
            raise ProtocolError(f"protobuf field {name} is not a number")
        return _signed(field.value, kind)
    if isinstance(kind, tuple):
        place = _value(field, name, int, depth)
        return kind[place] if 0 <= place < len(kind) else str(place)
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
        raise ProtocolError(f"protobuf field {name} is not text") from None


def _packed(field: Field, name: str, kind: Any) -> list[Any]:
    """Repeated numbers in one field."""
    view, at, values = memoryview(_as_bytes(field, name)), 0, []
    if len(view) > _LARGEST_PACKED:
        raise ProtocolError(f"protobuf field {name} of {len(view)} bytes")
    while at < len(view):
        value, at = _read_varint(view, at)
        values.append(_signed(value, kind))
    return values


def _signed(value: int, kind: Any) -> Any:
    """A number as int64 or bool.  The messages read here contain no unsigned numbers above 2^63."""
    return kind(value - (1 << 64) if value >> 63 else value)


def _as_bytes(field: Field, name: str) -> Buffer:
    if isinstance(field.value, int):
        raise ProtocolError(f"protobuf field {name} is a number where bytes are expected")
    return field.value
