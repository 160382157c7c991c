"""A line to another process of this machine: objects and descriptors, over a socket."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recvfds, sendfds
from typing import Any


class Line:
    """One end.  Any thread may send; one receives.  Raises ``EOFError`` or ``OSError`` when the other end is closed."""

    def __init__(self, end: socket.socket) -> None:
        self._socket, self._sending = end, threading.Lock()
        self._connection = Connection(os.dup(end.fileno()))
        self._bell = select.epoll()
        self._bell.register(end, select.EPOLLIN)

    def fileno(self) -> int:
        """A descriptor that can be read when there is something to receive.

        Not the socket's own: uvloop makes descriptors that it watches non-blocking, and messages would be torn.
        """
        return self._bell.fileno()

    def send(self, message: Any, fds: Sequence[int] = ()) -> None:
        with self._sending:
            self._connection.send(message)
            if fds:
                sendfds(self._socket, list(fds))

    def poll(self, seconds: float | None = 0.0) -> bool:
        """Whether there is something to receive within some seconds; None: wait for it."""
        return self._connection.poll(seconds)

    def receive(self) -> Any:
        return self._connection.recv()

    def receive_fds(self, count: int) -> Sequence[int]:
        """The descriptors that came with the message received last."""
        return recvfds(self._socket, count)

    def close(self) -> None:
        for one in (self._bell, self._connection, self._socket):
            one.close()
