"""How much the peer of an HTTP/2 connection may send: the windows of its streams.

Handles numbers of bytes only.  Every stream may send a window of bytes.  A stream with a larger body requests
the whole rest at once and gets it in turn.  So every body can be completed, whatever the other streams hold, and all
streams together hold at most ``most`` bytes.
"""

from __future__ import annotations

from collections import deque

from drumfire.sut.kserve.http2.frames import LARGEST_WINDOW, Broken, Buffer, Code, credit
from drumfire.sut.kserve.http2.outflow import Outflow

STREAM_WINDOW = 256 << 10
"""Bytes that any stream may send without a grant, where many are open."""


class Stream(Outflow):
    """The windows of one stream, in both directions."""

    __slots__ = ("allowed", "granted", "held", "receiving", "wanted")

    def __init__(self, window: int, *, receiving: bool, allowed: int = STREAM_WINDOW) -> None:
        super().__init__(window)
        self.receiving = receiving
        self.allowed = allowed
        """Bytes that the peer may still send."""
        self.held = 0
        """Bytes received and not released."""
        self.wanted = 0
        """Bytes beyond ``allowed`` that wait for a grant."""
        self.granted = 0
        """The part of ``allowed`` and ``held`` that exceeds the streams' window."""


class Intake:
    """The receive windows of one connection.  WINDOW_UPDATE frames go to ``out``."""

    def __init__(
        self,
        out: list[Buffer],
        *,
        largest_body: int,
        max_streams: int = 0,
        slack: int = 0,
        window: int = STREAM_WINDOW,
    ) -> None:
        """``largest_body``: bytes granted at a time, of one body of any size or of several; ``slack``: bytes released
        that the peer may not have been credited with yet; ``window``: bytes that any stream may send ungranted."""
        self.window = window
        self._out = out
        self.held = 0
        self.most = min(max_streams * window + largest_body + slack, LARGEST_WINDOW)
        """The connection's window in bytes."""
        self._most_granted = largest_body
        self._granted = 0
        self._asking: deque[tuple[int, Stream]] = deque()

    def take(self, number: int, stream: Stream, size: int, padding: int) -> None:
        """Count ``size`` bytes, which are held, and ``padding``, which is not.  Raises ``Broken`` if they exceed the
        stream's window."""
        stream.allowed -= size
        if stream.allowed < padding:
            raise Broken(f"more bytes than the window of stream {number}", Code.FLOW_CONTROL_ERROR)
        if padding and stream.receiving:  # credit padding at once: the rest of a body may need its room
            self._out.append(credit(number, padding))
        stream.held += size
        self.held += size

    def expect(self, number: int, stream: Stream, size: int) -> None:
        """Allow the stream ``size`` more bytes, now or when other streams leave room."""
        if size > stream.allowed and not stream.wanted:
            stream.wanted = size - stream.allowed
            self._asking.append((number, stream))
            self._grant()

    def release(self, number: int, stream: Stream, size: int) -> None:
        """Release ``size`` bytes of the stream."""
        stream.held -= size
        self.held -= size
        if stream.granted:
            self._give_back(stream, stream.granted - max(stream.allowed + stream.held - self.window, 0))
        short = self.window - stream.allowed - stream.held
        if stream.receiving and short >= self.window // 2:
            stream.allowed += short
            self._out.append(credit(number, short))

    def forget(self, stream: Stream) -> None:
        """Release everything that an ended stream holds."""
        self.held -= stream.held
        stream.held = stream.wanted = 0
        stream.receiving = False
        self._give_back(stream, stream.granted)

    def _give_back(self, stream: Stream, size: int) -> None:
        stream.granted -= size
        self._granted -= size
        self._grant()

    def _grant(self) -> None:
        """Grant waiting streams their bytes, in order; each gets all of them at once."""
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
