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


def address(text: str) -> tuple[str, int]:
    """Host and port of ``PORT`` or ``HOST:PORT``; by default, the host is this machine's loopback.

    Raises ``UserError``.
    """
    found = _PORT.fullmatch(text.strip())
    if found is None or int(found["port"]) > 65535:
        raise UserError(
            f"--expose {text[:60]!r}: give a port, 0 to 65535, or an address and a port, such as 0.0.0.0:9400"
        )
    return (found["host"] or _LOCAL).strip("[]"), int(found["port"])


def listen(text: str) -> socket.socket:
    """Take the port of ``--expose``.  Raises ``UserError``."""
    host, port = address(text)
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except socket.gaierror as error:
        raise UserError(f"--expose {text}: {host}: {error.strerror}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--expose {text}: port {port} is in use: give another (0 takes any free port)") from None
        raise UserError(f"--expose {text}: {os.strerror(error.errno or 0).lower()}") from None


@contextlib.contextmanager
def listening(text: str | None) -> Iterator[socket.socket | None]:
    """The port of ``--expose``, if any, taken before a run begins and kept to its end.  Raises ``UserError``."""
    if text is None:
        yield None
        return
    with listen(text) as taken:
        yield taken


def url(taken: socket.socket) -> str:
    host, port = taken.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"
