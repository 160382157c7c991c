"""``drumfire cluster up | join | down | status``: a Ray cluster of this host and others, with safe defaults.

Starts and ends Ray's own processes on this host, and only those that it started.  Knows nothing of runs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from drumfire.bench.assemble.local import UsageError
from drumfire.loadgen import installation

DEFAULT_PORT = 6379
_LOOPBACK = "127."
_MODULE = "ray.scripts.scripts"
_STARTED = "Ray runtime started"
_START_S = 90.0
_END_S = 15.0
_LOOK_S = 0.1
_ANSWER_S = 5.0
_OBJECT_STORE_BYTES = 200_000_000
"""A result is some tens of MB; Ray's default is 30 % of the memory."""
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # It ends processes of ours when others fill the host's memory.
    "RAY_memory_monitor_refresh_ms": "0",
    # A host that is gone is known to be so in some seconds rather than a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass(frozen=True)
class Node:
    """What was started here: Ray's ``start --block``, whose end ends the rest."""

    pid: int
    born: str
    """The process's start as the system tells it, so that another process of the same number is not taken for it."""
    role: str
    address: str


def up(options: argparse.Namespace) -> int:
    """Start a head on this host; returns the exit status."""
    _check_ray()
    host, port = options.host or "127.0.0.1", options.port
    _check_free(host, port)
    _make_token()
    cores = os.cpu_count() if options.load_on_head else 0
    address = f"{host}:{port}"
    arguments = ["--head", f"--port={port}", f"--node-ip-address={host}", f"--num-cpus={cores}", "--no-monitor"]
    arguments.append("--include-dashboard=false")
    if importlib.util.find_spec("grpc") is not None:  # then Ray has a port for clients of another kind, at 10001
        arguments.append(f"--ray-client-server-port={_free_port(host)}")
    _start("head", address, *arguments)
    say = Console(highlight=False, soft_wrap=True).print
    say(f"the cluster's head is {address}" + ("" if cores else ", which sends no load itself (--load-on-head)"))
    if host.startswith(_LOOPBACK):
        say("it can be reached from this host only: give --host, by which the others reach it, for more")
    else:
        say(f"on each host that is to send load, with this token in {token_path()} there (mode 0600):")
        say(f"    drumfire cluster join {address}")
    say(f"then here: drumfire run triton MODEL --url URL --hosts N --ray-address {address}")
    return 0


def join(options: argparse.Namespace) -> int:
    """Add this host to the cluster whose head is at an address; returns the exit status."""
    _check_ray()
    host, port = _parse(options.address)
    check_there(options.address)
    if "RAY_AUTH_TOKEN_PATH" not in os.environ and not token_path().exists():
        raise UsageError(f"there is no token in {token_path()}: copy the head's there, or set RAY_AUTH_TOKEN_PATH")
    ours = options.host or _own_address(host, port)
    cores = os.cpu_count()
    _start("host", options.address, f"--address={options.address}", f"--node-ip-address={ours}", f"--num-cpus={cores}")
    Console(highlight=False, soft_wrap=True).print(f"{ours} has joined {options.address} with {cores} cores")
    return 0


def down(options: argparse.Namespace) -> int:
    """End what ``up`` and ``join`` have started on this host; returns the exit status."""
    say = Console(highlight=False, soft_wrap=True).print
    ended = 0
    for path, node in _nodes():
        if _born(node.pid) == node.born:
            _end(node.pid)
            ended += 1
            say(f"ended the {node.role} of {node.address} (process {node.pid})")
        path.unlink(missing_ok=True)
    if not ended:
        say("nothing that was started here is running")
    return 0


def status(options: argparse.Namespace) -> int:
    """What runs here, and which hosts the cluster has; returns the exit status."""
    from drumfire.bench.fleet.hosts import hosts_of

    here = _running()
    address = options.address or head_of_this_host()
    found: dict[str, Any] = {"here": [asdict(node) for node in here], "hosts": []}
    if address is not None:
        found["hosts"] = hosts_of(address)
    if options.json:
        print(json.dumps(found))
        return 0
    say = Console(highlight=False, soft_wrap=True).print
    for node in here:
        say(f"here: the {node.role} of {node.address}, process {node.pid}")
    if not here:
        say("nothing that was started here is running")
    for host in found["hosts"]:
        say(f"{host['address']:<16}{host['name']:<20}{host['cores']:g} cores, {'up' if host['alive'] else 'DOWN'}")
    return 0


def head_of_this_host() -> str | None:
    """The address of the head of the cluster that this host was made a part of; None where it was not."""
    return next((node.address for node in _running()), None)


def token_path() -> Path:
    """Where the token lies unless RAY_AUTH_TOKEN_PATH tells."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or _folder() / "token")


def environment(address: str) -> dict[str, str]:
    """What Ray's processes here are started with, for a cluster whose head is at ``address``."""
    return {**os.environ, **_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(token_path()), **_loopback(address)}


def prepare_driver(address: str | None) -> None:
    """Before Ray is imported: what it reads of the environment then.

    A driver shows the token where there is one and nobody has said otherwise.
    """
    if "RAY_AUTH_MODE" not in os.environ and token_path().exists():
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_path())
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.update(_loopback(address or ""))


def check_there(address: str) -> None:
    """Raise ``UsageError`` where nobody listens at a head's address."""
    host, port = _parse(address)
    try:
        socket.create_connection((host, port), _ANSWER_S).close()
    except OSError as error:
        why = error.strerror or str(error) or "no answer"
        raise UsageError(f"no Ray cluster at {address}: {why} (drumfire cluster up starts one)") from None


def _loopback(address: str) -> dict[str, str]:
    """Ray takes 127.0.0.1 for a word for this host's other address, but where it is told to keep off the network."""
    return {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if address.startswith(_LOOPBACK) else {}


def _folder() -> Path:
    """Not in the data's folder, which hosts may share: what runs here, and the token."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "drumfire"


def _check_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise UsageError(f"drumfire cluster needs Ray, which is not installed: {installation.command('multihost')}")


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"can not listen at {host}:{port}: {error.strerror}; give another --port or --host"
            ) from None


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _make_token() -> None:
    path = token_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))


def _start(role: str, address: str, *arguments: str) -> None:
    """Start Ray here and wait until it says that it runs.  Raises ``UsageError`` with its last word if it does not."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = folder / f"ray-{role}.log"
    command = [sys.executable, "-m", _MODULE, "start", "--block", *arguments]
    command += ["--disable-usage-stats", f"--object-store-memory={_OBJECT_STORE_BYTES}"]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(address),
            start_new_session=True,
        )
    until_s = time.monotonic() + _START_S
    while _STARTED not in (said := log.read_text(errors="replace")):
        if process.poll() is not None:
            raise UsageError(f"Ray did not start: {_reason(said)} (all it said is in {log})")
        if time.monotonic() > until_s:
            _end(process.pid)
            raise UsageError(f"Ray did not start within {_START_S:g} s: what it said is in {log}")
        time.sleep(_LOOK_S)
    node = Node(process.pid, _born(process.pid) or "", role, address)
    (folder / f"node-{process.pid}.json").write_text(json.dumps(asdict(node)), encoding="ascii")


def _reason(said: str) -> str:
    """The line that most looks like why."""
    lines = [line.strip() for line in said.split("\n") if line.strip()]
    named = [line for line in lines if any(word in line for word in ("Error", "mismatch", "nauthenticated", "failed"))]
    return (named or lines or ["it said nothing"])[-1][:300]


def _nodes() -> Iterator[tuple[Path, Node]]:
    for path in sorted(_folder().glob("node-*.json")):
        with contextlib.suppress(ValueError, TypeError, OSError):
            yield path, Node(**json.loads(path.read_text(encoding="ascii")))


def _running() -> list[Node]:
    return [node for _, node in _nodes() if _born(node.pid) == node.born]


def _born(pid: int) -> str | None:
    """When a process was started, in the system's own count; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _end(pid: int) -> None:
    """End a session that was started here: in good order, and what is left of it at once."""
    gone: Callable[[], bool] = lambda: not _session(pid)  # noqa: E731
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until_s = time.monotonic() + _END_S
    while not gone() and time.monotonic() < until_s:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(_LOOK_S)
    for left in _session(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)


def _session(leader: int) -> list[int]:
    """The processes of the session that ``leader`` was started as."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def _parse(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise UsageError(f"{address}: give the head's HOST:PORT")
    return host.strip("[]"), int(port)


def _own_address(host: str, port: int) -> str:
    """The address by which this host reaches another."""
    try:
        family, kind, _, _, there = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(there)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UsageError(
            f"no way to {host}: {error.strerror or error}; give this host's own address with --host"
        ) from None


def commands() -> Mapping[str, Callable[[argparse.Namespace], int]]:
    """By their names on the command line."""
    return {"up": up, "join": join, "down": down, "status": status}
