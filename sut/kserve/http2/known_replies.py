"""Recognises whole replies on an HTTP/2 connection that are like earlier ones, by one regular expression.

Handles the three frames of a small unary reply (headers, body, trailers).  Does not depend on flow control or on what
the body means.  Matching several forms costs little more than matching one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_MOST_FORMS = 16
_HEADERS, _DATA = 1, 0
_END_HEADERS, _LAST = 0x4, 0x5


class KnownReplies:
    """``find`` matches a known reply at an offset; it is None while no reply is known.

    The group ``lastindex`` of a match is the body; the group before it is the stream's 4 bytes.
    """

    def __init__(self) -> None:
        self.find: Callable[[bytes, int], re.Match[bytes] | None] | None = None
        self._forms: dict[tuple[bytes, bytes, int, bytes], None] = {}

    def add(self, head: bytes, body: re.Pattern[bytes], size: int, trailers: bytes) -> None:
        """Add replies with these header blocks and a body of ``size`` bytes that ``body`` matches, in one frame.

        The pattern has no groups.  At most ``_MOST_FORMS`` are kept; the oldest is dropped first.
        """
        form = (head, body.pattern, size, trailers)
        if form in self._forms:
            return
        if len(self._forms) == _MOST_FORMS:
            del self._forms[next(iter(self._forms))]
        self._forms[form] = None
        each = [b"".join(_pattern(form, 2 * number + 1)) for number, form in enumerate(self._forms)]
        self.find = re.compile(b"|".join(each), re.DOTALL).match


def _pattern(form: tuple[bytes, bytes, int, bytes], group: int) -> Sequence[bytes]:
    head, body, size, trailers = form
    same_stream = rb"(?:\%d)" % group
    return (
        re.escape(len(head).to_bytes(3, "big") + bytes((_HEADERS, _END_HEADERS))),
        rb"([\x00-\x7f].{3})",
        re.escape(head + size.to_bytes(3, "big") + bytes((_DATA, 0))),
        same_stream,
        rb"(" + body + rb")",
        re.escape(len(trailers).to_bytes(3, "big") + bytes((_HEADERS, _LAST))),
        same_stream,
        re.escape(trailers),
    )
