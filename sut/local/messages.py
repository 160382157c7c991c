"""A line to another process of this machine: objects and descriptors, over a socket."""

from __future__ import annotations

import errno
import os
import pickle
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

MOST_FDS = 250
"""In a message: the kernel takes 253."""
_CHUNK = 1 << 18
_HEAD = 8
"""Bytes of a message's size."""


class Line:
    """One end.  Any thread may send; one receives.  Raises ``EOFError`` or ``OSError`` when the other end is closed."""

    def __init__(self, end: socket.socket, patience_s: float) -> None:
        """``patience_s``: how long the other end may take to make room for a message, else ``TimeoutError``."""
        # With a timeout it is non-blocking for Python too, as uvloop makes all that it watches.
        end.settimeout(patience_s)
        self._socket, self._sending = end, threading.Lock()
        self._received, self._fds = bytearray(), list[int]()
        self._news = select.poll()
        self._news.register(end, select.POLLIN)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Any, fds: Sequence[int] = ()) -> None:
        """Send an object that can be pickled, and descriptors.  Raises ``TimeoutError`` after the line's patience."""
        data = pickle.dumps(message)
        head = len(data).to_bytes(_HEAD, "little")
        with self._sending:
            if fds:
                socket.send_fds(self._socket, [head], list(fds))
            else:
                data = head + data
            self._socket.sendall(data)

    def receive(self, seconds: float | None = 0.0) -> Any:
        """The next message; None unless it is there within some seconds.  None: wait for it."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            size = _HEAD + int.from_bytes(self._received[:_HEAD], "little")
            if len(self._received) >= max(size, _HEAD + 1):
                message = bytes(self._received[_HEAD:size])
                del self._received[:size]
                return pickle.loads(message)
            if not self._news.poll(None if until is None else max(until - time.monotonic(), 0.0) * 1e3):
                return None
            data, fds, _, _ = socket.recv_fds(self._socket, _CHUNK, MOST_FDS, socket.MSG_CMSG_CLOEXEC)
            if not data:
                raise EOFError
            self._received += data
            self._fds += fds

    def take_fds(self, count: int) -> Sequence[int]:
        """The descriptors that came with the last message.  Raises ``OSError`` if there was no room for all."""
        fds, self._fds = self._fds, []
        if len(fds) < count:
            for fd in fds:
                os.close(fd)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return fds

    def close(self) -> None:
        self._socket.close()
