"""HTTP/2's frames, settings and codes by number, and the events that connections report.

Does not depend on connections or on which side sent a frame.  Source: RFC 9113.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

from drumfire.sut.kserve.errors import ProtocolError, one_line

Buffer = bytes | memoryview
Headers = tuple[tuple[str, str], ...]


class Kind(enum.IntEnum):
    """Kinds of events."""

    HEADERS = 0
    """Headers or trailers; the value is the result of ``read_headers``."""
    DATA = 1
    """A piece of the body; the value is the bytes."""
    RESET = 2
    """The peer ended a stream; the value is the error code."""
    GOAWAY = 3
    """The peer processes no streams above this one; the value is a text with the code."""
    REPLY = 4
    """Headers, body and trailers at once, as announced to a client's ``know``; the value is the body."""
    REQUEST = 5
    """Headers and body at once; the value is a pair: the result of ``read_headers``, and the body."""


HEADERS, DATA, RESET, GOAWAY, REPLY, REQUEST = Kind

Event = tuple[Kind, int, object, bool]
"""Kind, stream, value, and whether the peer has ended the stream."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_STREAM = 2**31 - 1
LARGEST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME = 16_384

F_DATA, F_HEADERS, F_PRIORITY, F_RESET, F_SETTINGS = 0, 1, 2, 3, 4
F_PUSH_PROMISE, F_PING, F_GOAWAY, F_WINDOW_UPDATE, F_CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
S_HEADER_TABLE_SIZE, S_ENABLE_PUSH, S_MAX_STREAMS, S_WINDOW, S_MAX_FRAME, S_HEADER_LIST = 1, 2, 3, 4, 5, 6

UNUSUAL = PADDED | PRIORITY
MOST_SETTINGS = 64
"""Settings in one frame; there are 6."""
_MOST_TEXT = 200

FRAME = struct.Struct(">HBBBI")
"""The head of a frame: length (high 16 bits, low 8), type, flags, stream."""


class Code(enum.IntEnum):
    """The reason why a stream or a connection ended (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    """The server has not started on the stream."""
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Broken(ProtocolError):
    """A ``ProtocolError`` with the code to send to the peer."""

    def __init__(self, text: str, code: Code = Code.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


def code_name(code: int) -> str:
    return Code(code).name if code in Code._value2member_map_ else f"error code {code}"


def frame(kind: int, flags: int, stream: int, payload: Buffer = b"") -> bytes:
    length = len(payload)
    return FRAME.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(F_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in values.items()))


def credit(stream: int, size: int) -> bytes:
    """Let the peer send ``size`` more bytes on a stream, or on the connection (0)."""
    return frame(F_WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def reset(stream: int, code: Code) -> bytes:
    return frame(F_RESET, 0, stream, code.to_bytes(4, "big"))


def go_away(last: int, code: Code, text: str = "") -> bytes:
    return frame(F_GOAWAY, 0, 0, struct.pack(">II", last, code) + text.encode()[:200])


def unpadded(payload: bytes, flags: int) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Broken("padding that is longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def need_stream(stream: int, what: str) -> None:
    if not stream:
        raise Broken(f"a {what} frame without a stream")


def need_connection(stream: int, what: str) -> None:
    if stream:
        raise Broken(f"a {what} frame on a stream")


def need_size(payload: bytes, size: int, what: str) -> None:
    if len(payload) != size:
        raise Broken(f"{what} frame must have {size} bytes", Code.FRAME_SIZE_ERROR)


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """The settings of a SETTINGS frame, as name and value.  Raises ``Broken``."""
    if len(payload) % 6:
        raise Broken("a SETTINGS frame has the wrong size", Code.FRAME_SIZE_ERROR)
    if len(payload) > 6 * MOST_SETTINGS:
        raise Broken(f"a SETTINGS frame of more than {MOST_SETTINGS} settings", Code.ENHANCE_YOUR_CALM)
    for name, value in struct.iter_unpack(">HI", payload):
        if name == S_MAX_FRAME and not DEFAULT_FRAME <= value < 1 << 24:
            raise Broken(f"SETTINGS_MAX_FRAME_SIZE {value}")
        if name == S_WINDOW and value > LARGEST_WINDOW:
            raise Broken(f"SETTINGS_INITIAL_WINDOW_SIZE {value}", Code.FLOW_CONTROL_ERROR)
        yield name, value


def read_go_away(payload: bytes) -> tuple[int, str]:
    """The last stream of a GOAWAY frame that is answered, and the code with the text.  Raises ``Broken``."""
    if len(payload) < 8:
        raise Broken("a GOAWAY frame must have 8 bytes or more", Code.FRAME_SIZE_ERROR)
    last, code = struct.unpack_from(">II", payload)
    text = one_line(payload[8 : 8 + _MOST_TEXT].decode("utf-8", "replace"))
    return last & LARGEST_STREAM, f"{code_name(code)} {text}".strip()


def read_increment(payload: bytes) -> int:
    """The size in a WINDOW_UPDATE frame, in bytes.  Raises ``Broken``."""
    need_size(payload, 4, "a WINDOW_UPDATE")
    size = int.from_bytes(payload, "big") & LARGEST_WINDOW
    if not size:
        raise Broken("a WINDOW_UPDATE of 0")
    return size
