"""The heads of HTTP/1.1 messages: their lines and fields, and the framing of the body that follows.

Handles the bytes of one head.  Does not depend on where they came from.  Sources: RFC 9110 (fields) and RFC 9112
(messages).  Parsing is strict: every line ends in CR LF (a bare LF or CR is refused), folded lines and a space before
a field's colon are refused, and so is any head that leaves the end of its message ambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from drumfire.sut.kserve.errors import HeadTooLarge, ProtocolError

MEMOISED_HEADS = 64
"""Parsed heads kept of each kind, shared by all connections; each is at most ``max_head`` bytes."""
MOST_FIELDS = 128
INFERENCE_HEADER_LENGTH = "Inference-Header-Content-Length"
"""The field with the size of the JSON before binary tensors.  Source: Triton's binary tensor data extension."""

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VISIBLE = re.compile(r"[\x21-\x7e]+")
VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FIELD = re.compile(rf"({TOKEN.pattern}):({VALUE.pattern})")
_STATUS_LINE = re.compile(rf"HTTP/1\.([0-9]) ([1-5][0-9][0-9])(?: ({VALUE.pattern}))?")
_REQUEST_LINE = re.compile(rf"({TOKEN.pattern}) ({VISIBLE.pattern}) HTTP/1\.([0-9])")
_ABSOLUTE = re.compile(r"https?://[^/?]*", re.IGNORECASE)
"""What a target has before its path where a request is written for a proxy."""
_NUMBER = re.compile(r"[0-9]{1,18}")
_NEVER_IN_A_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])")


@dataclass(frozen=True, slots=True)
class Head:
    """A parsed head."""

    fields: Mapping[str, str]
    """Names in lower case; the values of a repeated field are joined by ", "."""
    content_length: int | None
    inference_header_length: int | None
    """Bytes of JSON before the binary tensors, if the head states it.  Not compared with the body's length here."""
    chunked: bool
    keeps_alive: bool
    """Whether another message may follow on the connection."""
    body_length: int | None
    """None if the body is chunked or ends with the connection."""


@dataclass(frozen=True, slots=True)
class ResponseHead(Head):
    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class RequestHead(Head):
    method: str
    target: str
    expects_continue: bool


@lru_cache(MEMOISED_HEADS)
def parse_response_head(raw: bytes) -> ResponseHead:
    """Parse ``raw``, which ends with the empty line.  Raises ``ProtocolError``."""
    line, values = _parse_lines(raw, _STATUS_LINE, "status line")
    is_1_0, status = line[1] == "0", int(line[2])
    content_length, chunked = _framing(values, is_1_0)
    for coding in _members(values, "content-encoding"):
        if coding != "identity":
            raise ProtocolError(f"compressed reply although none was requested (Content-Encoding: {coding[:60]})")
    body_length = 0 if status < 200 or status in (204, 304) else content_length
    return ResponseHead(
        fields=_joined(values),
        content_length=content_length,
        inference_header_length=_number(values, INFERENCE_HEADER_LENGTH.lower()),
        chunked=chunked,
        keeps_alive=not is_1_0 and not _says_close(values) and (body_length is not None or chunked),
        body_length=body_length,
        status=status,
        reason=line[3] or "",
    )


@lru_cache(MEMOISED_HEADS)
def parse_request_head(raw: bytes) -> RequestHead:
    """Parse ``raw``, which ends with the empty line and may begin with one.  Raises ``ProtocolError``."""
    line, values = _parse_lines(raw.removeprefix(b"\r\n"), _REQUEST_LINE, "request line")
    is_1_0 = line[3] == "0"
    hosts = len(values.get("host", ()))
    if hosts > 1 or (not hosts and not is_1_0):
        raise ProtocolError(f"a request must have one Host field, not {hosts}")
    content_length, chunked = _framing(values, is_1_0)
    return RequestHead(
        fields=_joined(values),
        content_length=content_length,
        inference_header_length=_number(values, INFERENCE_HEADER_LENGTH.lower()),
        chunked=chunked,
        keeps_alive=not is_1_0 and not _says_close(values),
        body_length=None if chunked else content_length or 0,
        method=line[1],
        target=_path(line[2]),
        expects_continue=not is_1_0 and "100-continue" in _members(values, "expect"),
    )


def _path(target: str) -> str:
    whole = _ABSOLUTE.match(target)
    return target if whole is None else target[whole.end() :] or "/"


def parse_field(line: str) -> tuple[str, str]:
    """The name, in lower case, and the value.  Raises ``ProtocolError``."""
    matched = _FIELD.fullmatch(line)
    if matched is None:
        if line.startswith((" ", "\t")):
            raise ProtocolError(f"a folded field line (obs-fold): {line[:60]!r}")
        raise ProtocolError(f"not a field line: {line[:60]!r}")
    return matched[1].lower(), matched[2].strip(" \t")


def check_octets(head: bytes | bytearray, start: int) -> None:
    """Raise ``ProtocolError`` if ``head[start:]``, which may be incomplete, contains bytes that no head may have."""
    if found := _NEVER_IN_A_HEAD.search(head, start):
        what = {b"\n": "LF without CR", b"\r": "CR without LF"}.get(found[0], f"byte {found[0][0]:#04x}")
        at = found.start()
        raise ProtocolError(f"not HTTP/1.1: {what} in a head, at {bytes(head[max(0, at - 20) : at + 20])!r}")


def _parse_lines(raw: bytes, grammar: re.Pattern[str], what: str) -> tuple[re.Match[str], dict[str, list[str]]]:
    """The match of the first line, and each field's values by its name in lower case."""
    check_octets(raw, 0)
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    matched = grammar.fullmatch(first)
    if matched is None:
        raise ProtocolError(f"not a {what} of HTTP/1.1: {first[:60]!r}")
    if len(lines) > MOST_FIELDS:
        raise HeadTooLarge(f"a head of {len(lines)} fields; at most {MOST_FIELDS} are accepted")
    values: dict[str, list[str]] = {}
    for line in lines:
        name, value = parse_field(line)
        values.setdefault(name, []).append(value)
    return matched, values


def _joined(values: Mapping[str, list[str]]) -> Mapping[str, str]:
    return MappingProxyType({name: ", ".join(some) for name, some in values.items()})


def _members(values: Mapping[str, list[str]], name: str) -> list[str]:
    """The members of a list field, in lower case."""
    return [member.strip(" \t").lower() for value in values.get(name, ()) for member in value.split(",")]


def _says_close(values: Mapping[str, list[str]]) -> bool:
    return "close" in _members(values, "connection")


def _number(values: Mapping[str, list[str]], name: str) -> int | None:
    """The number in a field, which may be repeated with the same number (RFC 9110, 8.6); None without the field."""
    members = _members(values, name)
    if not members:
        return None
    if not all(map(_NUMBER.fullmatch, members)) or len(set(map(int, members))) != 1:
        raise ProtocolError(f"{name} is not one number: {', '.join(members)[:60]!r}")
    return int(members[0])


def _framing(values: Mapping[str, list[str]], is_1_0: bool) -> tuple[int | None, bool]:
    """Content-Length, and whether the body is chunked.  Raises ``ProtocolError`` if the framing is ambiguous."""
    length, codings = _number(values, "content-length"), _members(values, "transfer-encoding")
    if not codings:
        return length, False
    if length is not None:
        raise ProtocolError("both Content-Length and Transfer-Encoding")
    if is_1_0:
        raise ProtocolError("Transfer-Encoding in a message of HTTP/1.0")
    if codings != ["chunked"]:
        raise ProtocolError(f"transfer coding other than chunked: {', '.join(codings)[:60]!r}")
    return None, True
