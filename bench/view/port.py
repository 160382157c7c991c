"""The port at which a run's figures are served: taken by the run before it begins, used by its view's process."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator

from drumfire.loadgen.errors import UserError

PATH = "/metrics"
_LOCAL = "127.0.0.1"
_PORT = re.compile(r"(?:(?P<host>\[[^\[\]\s]{1,64}\]|[^:\[\]\s]{1,255}):)?(?P<port>[0-9]{1,5})")
_ADDRESS = "give an address of this machine, such as 127.0.0.1 or 0.0.0.0, or a port alone"


def address(text: str) -> tuple[str, int]:
    """Host and port of ``PORT`` or ``HOST:PORT``; by default, the host is this machine's loopback.

    Raises ``UserError``.
    """
    found = _PORT.fullmatch(text.strip())
    if found is None or int(found["port"]) > 65535:
        raise UserError(
            f"--expose {text[:60]!r}: give a port, 0 to 65535, or an address and a port, such as 0.0.0.0:9400 or "
            "[::1]:9400"
        )
    return (found["host"] or _LOCAL).strip("[]"), int(found["port"])


def listen(text: str) -> socket.socket:
    """Take the port of ``--expose``.  Raises ``UserError``."""
    host, port = address(text)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--expose {text}: {host} is not known as a host: {_ADDRESS}") from None
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} is in use: give another (0 takes any free port)"
        elif error.errno == errno.EACCES:
            why = f"this user may not take port {port}: give one of 1024 or above (0 takes any free port)"
        elif error.errno == errno.EADDRNOTAVAIL:
            why = f"{host} is not an address of this machine: {_ADDRESS}"
        else:
            why = f"{os.strerror(error.errno or 0).lower()}: {_ADDRESS}"
        raise UserError(f"--expose {text}: {why}") from None


@contextlib.contextmanager
def listening(text: str | None) -> Iterator[socket.socket | None]:
    """The port of ``--expose``, if any, taken before a run begins and kept to its end.  Raises ``UserError``."""
    if text is None:
        yield None
        return
    with listen(text) as taken:
        yield taken


def url(taken: socket.socket) -> str:
    """The address of the metrics on a port that ``listen`` has taken."""
    host, port = taken.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"
