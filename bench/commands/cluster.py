"""``drumfire cluster up | join | down | status``: a Ray cluster of this host and others, with safe defaults.

Starts Ray's own processes on this host, and ends only those that it started.
"""

from __future__ import annotations

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from drumfire.bench import statuses
from drumfire.bench.fleet import head
from drumfire.bench.fleet.hosts import hosts_of
from drumfire.bench.options.parser import Command
from drumfire.loadgen import installation
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.options import option
from drumfire.loadgen.wording import counted

_MODULE = "ray.scripts.scripts"
_STARTED = "Ray runtime started"
_START_S = 90.0
_END_S = 15.0
_LOOK_S = 0.1
_OBJECT_STORE_BYTES = 200_000_000
"""A result takes tens of MB; Ray's default is 30% of the memory."""


@dataclass(frozen=True)
class Up:
    """The options of ``drumfire cluster up``."""

    port: int = option(6379, most=65535, help="the head's port")
    load_on_head: bool = option(False, help="let the head's host send load as well")
    host: str = option(
        "127.0.0.1", metavar="IP", help="this host's address for the others (default: 127.0.0.1, to try it out here)"
    )


@dataclass(frozen=True)
class Join:
    """The options of ``drumfire cluster join``."""

    address: str = option(metavar="ADDRESS", position=True, help="the head's HOST:PORT")
    host: str | None = option(
        None, metavar="IP", help="this host's address for the others (default: the one that reaches the head)"
    )


@dataclass(frozen=True)
class Down:
    """``drumfire cluster down`` has no options."""


@dataclass(frozen=True)
class Status:
    """The options of ``drumfire cluster status``."""

    address: str | None = option(
        None, metavar="ADDRESS", position=True, help="a head's HOST:PORT (default: this host's)"
    )
    json: bool = option(False, help="print one JSON object")


def up(options: Up) -> int:
    """Start a head on this host, and return the exit status.  Raises ``UserError``."""
    _check_ray()
    host, port = options.host, options.port
    _check_free(host, port)
    _make_token()
    cores = os.cpu_count() if options.load_on_head else 0
    address = f"{host}:{port}"
    arguments = ["--head", f"--port={port}", f"--node-ip-address={host}", f"--num-cpus={cores}", "--no-monitor"]
    arguments.append("--include-dashboard=false")
    if importlib.util.find_spec("grpc") is not None:  # then Ray opens a port for Ray Client too, by default 10001
        arguments.append(f"--ray-client-server-port={_free_port(host)}")
    _start("head", address, *arguments)
    say = Console(highlight=False, soft_wrap=True).print
    say(f"the cluster's head is {address}" + ("" if cores else ", which sends no load itself (--load-on-head)"))
    if host.startswith(head.LOOPBACK):
        say("only this host can reach it: to use other hosts too, give this host's address for them with --host")
    else:
        say(f"on each host that is to send load, with this token in {head.token_path()} there (mode 0600):")
        say(f"    drumfire cluster join {address}")
    say(f"then here: drumfire run triton MODEL --url URL --hosts N --ray-address {address}")
    return statuses.DONE


def join(options: Join) -> int:
    """Add this host to the cluster whose head is at an address, and return the exit status.  Raises ``UserError``."""
    _check_ray()
    host, port = head.split(options.address)
    head.check_there(options.address)
    token = head.token_path()
    if "RAY_AUTH_TOKEN_PATH" not in os.environ and not token.exists():
        raise UserError(f"there is no token in {token}: copy the head's there, or set RAY_AUTH_TOKEN_PATH")
    ours = options.host or _own_address(host, port)
    cores = os.cpu_count() or 1
    _start("host", options.address, f"--address={options.address}", f"--node-ip-address={ours}", f"--num-cpus={cores}")
    Console(highlight=False, soft_wrap=True).print(f"{ours} has joined {options.address} with {counted(cores, 'core')}")
    return statuses.DONE


def down(options: Down) -> int:
    """End what ``up`` and ``join`` started on this host, and return the exit status."""
    say = Console(highlight=False, soft_wrap=True).print
    ended = 0
    for path, node in head.nodes():
        if head.born(node.pid) == node.born:
            _end(node.pid)
            ended += 1
            say(f"ended the {node.role} of {node.address} (process {node.pid})")
        path.unlink(missing_ok=True)
    if not ended:
        say("nothing that was started here is running")
    return statuses.DONE


def status(options: Status) -> int:
    """Show what runs here and the cluster's hosts, and return the exit status.  Raises ``UserError``."""
    here = head.running()
    address = options.address or head.head_of_this_host()
    cluster: dict[str, Any] = {"here": [asdict(node) for node in here], "hosts": []}
    if address is not None:
        cluster["hosts"] = hosts_of(address)
    if options.json:
        print(json.dumps(cluster))
        return statuses.DONE
    say = Console(highlight=False, soft_wrap=True).print
    for node in here:
        say(f"here: the {node.role} of {node.address}, process {node.pid}")
    if not here:
        say("nothing that was started here is running")
    for host in cluster["hosts"]:
        cores = counted(round(host["cores"]), "core")
        say(f"{host['address']:<16}{host['name']:<20}{cores}, {'up' if host['alive'] else 'DOWN'}")
    return statuses.DONE


COMMANDS = {
    "up": Command(Up, up, "Start the cluster's head on this host."),
    "join": Command(Join, join, "Let this host send load; it needs the head's token."),
    "down": Command(Down, down, "End only what up and join started on this host."),
    "status": Command(Status, status, "Show what runs here and the cluster's hosts."),
}


def _check_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"drumfire cluster needs Ray, which is not installed: {installation.command('multihost')}")


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen at {host}:{port}: {error.strerror}; give another --port or --host"
            ) from None


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _make_token() -> None:
    path = head.token_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))


def _start(role: str, address: str, *arguments: str) -> None:
    """Start Ray here and wait until it says that it runs.  Raises ``UserError`` with Ray's reason if it does not."""
    folder = head.state_folder()
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
            env=head.environment(address),
            start_new_session=True,
        )
    until_s = time.monotonic() + _START_S
    while _STARTED not in (said := log.read_text(errors="replace")):
        if process.poll() is not None:
            raise UserError(f"Ray did not start: {_reason(said)} (its whole output is in {log})")
        if time.monotonic() > until_s:
            _end(process.pid)
            raise UserError(f"Ray did not start within {_START_S:g} s: its output is in {log}")
        time.sleep(_LOOK_S)
    node = head.Node(process.pid, head.born(process.pid) or "", role, address)
    (folder / f"node-{process.pid}.json").write_text(json.dumps(asdict(node)), encoding="ascii")


def _reason(said: str) -> str:
    """The last line of Ray's output that looks like a reason."""
    lines = [line.strip() for line in said.split("\n") if line.strip()]
    named = [line for line in lines if any(word in line for word in ("Error", "mismatch", "nauthenticated", "failed"))]
    return (named or lines or ["it printed nothing"])[-1][:300]


def _end(pid: int) -> None:
    """End a session that was started here: by SIGTERM, and after a while by SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until_s = time.monotonic() + _END_S
    while _session(pid) and time.monotonic() < until_s:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(_LOOK_S)
    for left in _session(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)


def _session(leader: int) -> list[int]:
    """The live processes of the session whose leader is ``leader``."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader and fields[0] != "Z":
                    pids.append(int(entry.name))
    return pids


def _own_address(host: str, port: int) -> str:
    """This host's own address on the way to another host.  Raises ``UserError``."""
    try:
        family, kind, _, _, there = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(there)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UserError(
            f"no route to {host}: {error.strerror or error}; give this host's own address with --host"
        ) from None
