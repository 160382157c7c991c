"""A body that waits for the peer's windows.  Does not depend on frames."""

from __future__ import annotations

from collections import deque


class Outflow:
    """What is left of it, and how much of that may go."""

    __slots__ = ("pieces", "tail", "window")

    def __init__(self, window: int, tail: bytes | None = None) -> None:
        self.window = window
        """Bytes that the peer lets us send on this stream."""
        self.pieces: deque[memoryview] = deque()
        self.tail = tail
        """Frames after the last piece that end the stream; empty: that piece ends it; None: more may follow."""
