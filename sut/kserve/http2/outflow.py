"""A body that waits for the peer's windows.  Does not depend on frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from drumfire.sut.kserve.http2.frames import Buffer

_SMALL = 4096


class Outflow:
    """What is left of it, and how much of that may go."""

    __slots__ = ("pieces", "tail", "window")

    def __init__(self, window: int, tail: bytes | None = None) -> None:
        self.window = window
        """Bytes that the peer lets us send on this stream."""
        self.pieces: deque[memoryview] = deque()
        self.tail = tail
        """Frames after the last piece that end the stream; empty: that piece ends it; None: more may follow."""

    def add(self, pieces: Sequence[Buffer], size: int) -> None:
        """Let the next ``size`` bytes wait too.  Small pieces are joined: alone they take many times their bytes."""
        if size <= _SMALL:
            if self.pieces and len(self.pieces[-1]) + size <= _SMALL:
                pieces = (self.pieces.pop(), *pieces)
            pieces = (b"".join(pieces),)
        self.pieces += [memoryview(piece) for piece in pieces if piece]
