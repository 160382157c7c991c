"""How much the client of an HTTP/2 connection may send: windows of streams, and who may have more when.

Knows bytes by their number; must not know frames' other contents.  A stream may send ``STREAM_WINDOW`` at once.  One
with a larger body asks for the rest of it, all at once, and gets it in turn: so every body that is begun can be
finished, whatever the others hold, and all together hold no more than ``most``.
"""

from __future__ import annotations

from collections import deque

from drumfire.sut.kserve.http2.frames import LARGEST_WINDOW, Broken, Buffer, Code, credit
from drumfire.sut.kserve.http2.peer import Outflow

STREAM_WINDOW = 256 << 10


class Stream(Outflow):
    """A stream of which more is known than that its request has come whole and its answer has not begun."""

    __slots__ = ("allowed", "granted", "held", "receiving", "wanted")

    def __init__(self, window: int, *, receiving: bool) -> None:
        super().__init__(window)
        self.receiving = receiving
        self.allowed = STREAM_WINDOW
        """How much the client may still send."""
        self.held = 0
        """How much of what it sent has not been released."""
        self.wanted = 0
        """How much more than that it waits to be allowed."""
        self.granted = 0
        """How much of what is allowed or held is beyond ``STREAM_WINDOW``."""


class Intake:
    """Of one connection.  What the client shall be told goes to ``out``."""

    def __init__(self, out: list[Buffer], *, max_streams: int, largest_body: int, slack: int) -> None:
        """``slack``: bytes that are not held any more and that the client need not know of yet."""
        self._out = out
        self.held = 0
        self.most = min(max_streams * STREAM_WINDOW + largest_body + slack, LARGEST_WINDOW)
        """The connection's window."""
        self._most_granted = largest_body
        self._granted = 0
        self._asking: deque[tuple[int, Stream]] = deque()

    def take(self, number: int, stream: Stream, size: int, padding: int) -> None:
        """So many bytes came, and of padding, which nobody holds.  Raises ``Broken`` where they were not allowed."""
        stream.allowed -= size
        if stream.allowed < padding:
            raise Broken(f"more bytes than the window of stream {number}", Code.FLOW_CONTROL_ERROR)
        if padding and stream.receiving:  # at once: nobody expected it, and the last of a body may wait for its room
            self._out.append(credit(number, padding))
        stream.held += size
        self.held += size

    def expect(self, number: int, stream: Stream, size: int) -> None:
        """So many more bytes are to come on the stream."""
        if size > stream.allowed and not stream.wanted:
            stream.wanted = size - stream.allowed
            self._asking.append((number, stream))
            self._grant()

    def release(self, number: int, stream: Stream, size: int) -> None:
        """So many bytes of the stream are not held any more."""
        stream.held -= size
        self.held -= size
        if stream.granted:
            self._give_back(stream, stream.granted - max(stream.allowed + stream.held - STREAM_WINDOW, 0))
        short = STREAM_WINDOW - stream.allowed - stream.held
        if stream.receiving and short >= STREAM_WINDOW // 2:
            stream.allowed += short
            self._out.append(credit(number, short))

    def forget(self, stream: Stream) -> None:
        """The stream has ended, and with it whatever it held."""
        self.held -= stream.held
        stream.held = stream.wanted = 0
        stream.receiving = False
        self._give_back(stream, stream.granted)

    def _give_back(self, stream: Stream, size: int) -> None:
        stream.granted -= size
        self._granted -= size
        self._grant()

    def _grant(self) -> None:
        """Allow streams more: the first gets all that it wants before the next gets any."""
        while self._asking:
            number, stream = self._asking[0]
            if stream.wanted and self._granted and self._granted + stream.wanted > self._most_granted:
                return
            self._asking.popleft()
            if stream.wanted:
                self._granted += stream.wanted
                stream.granted += stream.wanted
                stream.allowed += stream.wanted
                self._out.append(credit(number, stream.wanted))
                stream.wanted = 0
