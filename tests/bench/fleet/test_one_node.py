"""``drumfire cluster`` and ``--hosts 1`` on a cluster of this machine alone, on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drumfire.loadgen.record import Status
from tests.support.command import ROOT, columns, one_line_error, result_of
from tests.support.scripted_peer import Peer

pytest.importorskip("ray")
pytestmark = pytest.mark.extra

SERVER = ["--scenario", "Server", "--qps", "1000", "--time", "0.6", "--max-latency", "20", "--json"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Here:
    """A place of its own for what is written down, and for Ray's files."""

    def __init__(self, folder: Path) -> None:
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder / "state"), "RAY_TMPDIR": str(folder),
        }  # fmt: skip
        for name in [name for name in self.environment if name.startswith("RAY_AUTH")]:
            del self.environment[name]
        self.state = folder / "state" / "drumfire"

    def drumfire(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "drumfire", *map(str, arguments)], capture_output=True, text=True, timeout=150,
            cwd=ROOT, env=self.environment,
        )  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    # Ray's sockets have long names, and there is not room for much before them.
    folder = Path(f"/tmp/drumfire-{os.getpid()}")
    folder.mkdir()
    try:
        yield Here(folder)
    finally:
        with contextlib.suppress(OSError):
            subprocess.run(["rm", "-rf", str(folder)], check=False)


@pytest.fixture(scope="module")
def head(here: Here) -> Iterator[str]:
    port = free_port()
    done = here.drumfire("cluster", "up", "--port", port, "--load-on-head")
    assert done.returncode == 0, done.stdout + done.stderr
    yield f"127.0.0.1:{port}"
    ended = here.drumfire("cluster", "down")
    assert ended.stdout.startswith("ended the head"), ended.stdout + ended.stderr
    assert not list(here.state.glob("node-*"))


def test_the_token_is_ours_alone(here: Here, head: str) -> None:
    token = here.state / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64


def test_it_listens_on_loopback_alone(here: Here, head: str) -> None:
    """Every port of the processes that were started."""
    pids = [int(path.stem.split("-")[1]) for path in here.state.glob("node-*")]
    sockets = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) in pids:  # of a session of ours
                sockets |= {os.readlink(file) for file in (entry / "fd").iterdir()}
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().split("\n")[1:-1]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                addresses.add(fields[1].split(":")[0])
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run(workers: int, here: Here, head: str, tmp_path: Path) -> None:
    with Peer("grpc") as peer:
        named = [] if workers == 1 else ["--ray-address", head]  # else it is the one that this host belongs to
        where = ["--url", peer.url, "--hosts", 1, *named, "--workers", workers]
        alone = here.drumfire("run", "triton", "echo", "--url", peer.url, *SERVER, "--output", tmp_path / "alone")
        assert alone.returncode == 0
        result = result_of(here.drumfire("run", "triton", "echo", *where, *SERVER, "--output", tmp_path / "out"), 0)
    assert result["hosts"]["kind"] == "hosts"
    assert len(result["hosts"]["generators"]) == workers
    found, expected = columns(tmp_path / "out"), columns(tmp_path / "alone")
    assert found["scheduled"].tobytes() == expected["scheduled"].tobytes()
    assert found["sample_index"].tobytes() == expected["sample_index"].tobytes()
    assert set(found["status"].tolist()) == {Status.OK}


@pytest.mark.slow
def test_more_hosts_than_there_are(here: Here, head: str, tmp_path: Path) -> None:
    with Peer("grpc") as peer:
        where = ["--url", peer.url, "--hosts", 2, "--ray-address", head]
        done = here.drumfire("run", "triton", "echo", *where, *SERVER, "--output", tmp_path / "out")
    one_line_error(done, "--hosts 2", "has 1")


def test_status(here: Here, head: str) -> None:
    done = here.drumfire("cluster", "status")
    assert done.returncode == 0
    assert f"here: the head of {head}" in done.stdout
    assert " up\n" in done.stdout


@pytest.mark.slow
def test_a_second_head_on_the_port(here: Here, head: str) -> None:
    done = here.drumfire("cluster", "up", "--port", head.split(":")[1])
    one_line_error(done, head, "in use", "--port")


@pytest.mark.slow
def test_nobody_there(here: Here, tmp_path: Path) -> None:
    where = ["--hosts", 1, "--ray-address", f"127.0.0.1:{free_port()}"]
    with Peer("grpc") as peer:
        done = here.drumfire("run", "triton", "echo", "--url", peer.url, *where, *SERVER, "--output", tmp_path / "out")
    one_line_error(done, "Ray cluster")


def test_down_ends_nothing_of_others(tmp_path: Path) -> None:
    """A number that was written down, and belongs to another process by now."""
    here = Here(tmp_path)
    other = subprocess.Popen(["sleep", "60"])
    try:
        here.state.mkdir(parents=True, exist_ok=True)
        (here.state / "node-1.json").write_text(
            f'{{"pid": {other.pid}, "born": "1", "role": "host", "address": "a:1"}}'
        )
        done = here.drumfire("cluster", "down")
        assert done.returncode == 0
        assert other.poll() is None
        assert not (here.state / "node-1.json").exists()
    finally:
        other.kill()
        other.wait()
