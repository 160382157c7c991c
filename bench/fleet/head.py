"""What this host knows of its Ray cluster: the nodes started here, the head's address, the token, Ray's environment.

Reads the files that ``drumfire cluster`` writes.  Starts no process and does not import Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drumfire.loadgen.errors import UserError

LOOPBACK = "127."
_ANSWER_S = 5.0
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # It would end our processes when others fill the host's memory.
    "RAY_memory_monitor_refresh_ms": "0",
    # A lost host is noticed within seconds rather than a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass(frozen=True)
class Node:
    """A ``ray start --block`` process on this host; when it ends, Ray's other processes here end too."""

    pid: int
    born: str
    """When the process started, as the system counts it; tells it from a later process with the same pid."""
    role: str
    address: str
    """The head's HOST:PORT."""


def state_folder() -> Path:
    """Where the token and the nodes are written: outside the data folder, which hosts may share."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "drumfire"


def nodes() -> Iterator[tuple[Path, Node]]:
    """Each node that was started here, running or not, and its file."""
    for path in sorted(state_folder().glob("node-*.json")):
        with contextlib.suppress(ValueError, TypeError, OSError):
            yield path, Node(**json.loads(path.read_text(encoding="ascii")))


def running() -> list[Node]:
    """The nodes on this host whose processes are alive."""
    return [node for _, node in nodes() if born(node.pid) == node.born]


def born(pid: int) -> str | None:
    """When a process started, in the system's own count; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def head_of_this_host() -> str | None:
    """The head's address of the cluster that this host has joined; None if it has joined no cluster."""
    return next((node.address for node in running()), None)


def token_path() -> Path:
    """The token's file: RAY_AUTH_TOKEN_PATH if set, else one in the state folder."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or state_folder() / "token")


def environment(address: str) -> dict[str, str]:
    """The environment for Ray's processes on this host, in the cluster whose head is at ``address``."""
    return {**os.environ, **_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(token_path()), **_loopback(address)}


def prepare_driver(address: str | None) -> None:
    """Set the environment variables that Ray reads when it is imported.

    The token is used if it exists, unless the user has set RAY_AUTH_MODE.
    """
    if "RAY_AUTH_MODE" not in os.environ and token_path().exists():
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_path())
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.update(_loopback(address or ""))


def check_there(address: str) -> None:
    """Raise ``UserError`` if nothing listens at a head's address."""
    host, port = split(address)
    try:
        socket.create_connection((host, port), _ANSWER_S).close()
    except OSError as error:
        why = error.strerror or str(error) or "no answer"
        raise UserError(f"no Ray cluster at {address}: {why} (drumfire cluster up starts one)") from None


def split(address: str) -> tuple[str, int]:
    """Host and port of a head's address.  Raises ``UserError``."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise UserError(f"{address}: give the head's HOST:PORT")
    return host.strip("[]"), int(port)


def _loopback(address: str) -> dict[str, str]:
    """With this variable Ray keeps 127.0.0.1; without it, Ray replaces it by another address of this host."""
    return {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if address.startswith(LOOPBACK) else {}
