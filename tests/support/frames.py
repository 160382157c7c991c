"""Frames of HTTP/2 made and read by hand, for the tests of both ends."""

from __future__ import annotations

import struct
from typing import Any


def said(connection: Any) -> bytes:
    """What the connection has to write, taken."""
    data = b"".join(connection.out)
    connection.out.clear()
    return data


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each; all must be whole."""
    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 3], "big")
        kind, flags, stream = struct.unpack(">BBI", data[at + 3 : at + 9])
        payload = data[at + 9 : at + 9 + length]
        assert len(payload) == length
        found.append((kind, flags, stream, payload))
        at += 9 + length
    return found


def literal(*fields: tuple[str, str]) -> bytes:
    """A header block that touches no table."""
    parts = []
    for name, value in fields:
        assert max(len(name), len(value)) < 127
        parts += (b"\x00", bytes((len(name),)), name.encode(), bytes((len(value),)), value.encode())
    return b"".join(parts)
