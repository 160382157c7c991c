"""``drumfire run --hosts`` on hosts that are network namespaces of this machine, under every fault that hosts have.

A switch, a head with the driver, hosts that send load, and one with a real Triton.  Each test takes some half a minute,
most of which is Ray's start.  Skipped without root, without Ray, and where Triton can not run.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.record import Status
from drumfire.sut.remote.triton_local.environment import check_platform
from drumfire.sut.remote.triton_local.server import LocalTritonError
from tests.bench.fleet import netns
from tests.bench.fleet.netns import Host, Net
from tests.support.command import columns, drumfire, one_line_error, result_of
from tests.support.scripted_peer import until

pytest.importorskip("ray")
pytestmark = [pytest.mark.extra, pytest.mark.slow, pytest.mark.serial]

TRAFFIC = ["--scenario", "Server", "--qps", "200", "--max-latency", "20", "--json"]
HEAD = "10.88.0.1:6379"
GENERATOR = "drumfire.bench.fleet.generator"


class Cluster:
    """Host 1 is the head and the driver's, the last has the server, and those between send load."""

    def __init__(self, net: Net, folder: Path) -> None:
        self.net, self.folder = net, folder
        self.head, *self.senders, self.server = net.hosts
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.token = {"RAY_AUTH_TOKEN_PATH": str(token)}
        self._triton = self.server.popen(
            sys.executable, Path(__file__).with_name("triton_host.py"), self.server.address,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def start(self, senders: int | None = None) -> None:
        done = self.head.done("cluster", "up", "--host", self.head.address, environment=self.token)
        assert done.returncode == 0, done.stdout + done.stderr
        for host in self.senders[:senders]:
            self.join(host)
        assert self._triton.stdout is not None
        self.url = f"grpc://{self._triton.stdout.readline().strip()}"

    def join(self, host: Host, **more: Any) -> None:
        done = host.done("cluster", "join", HEAD, environment=self.token | more)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *more: object, hosts: int | None = None) -> list[object]:
        """The words of a run by all senders, into the folder's ``out``."""
        where = ["--url", self.url, "--hosts", hosts or len(self.senders), "--ray-address", HEAD]
        return ["run", "triton", "digits", *where, *TRAFFIC, "--output", self.folder / "out", *more]

    @contextlib.contextmanager
    def under_way(self, *more: object) -> Iterator[subprocess.Popen[str]]:
        """A run that sends and has answers."""
        process = self.head.drumfire(*self.run(*more), environment=self.token)
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if "p50" in line:
                    break
            else:
                raise AssertionError("".join(said))
            time.sleep(2)
            yield process
        finally:
            process.kill()
            process.wait()

    def driver(self) -> int:
        """The driver's process, by the machine's own number."""
        first, *_ = self.head.processes("--ray-address")
        return first


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Of as many senders as the test's parameter says, 2 else."""
    try:
        check_platform()
    except LocalTritonError as error:
        pytest.skip(str(error))
    if (reason := netns.why_not()) is not None:
        pytest.skip(reason)
    with Net(getattr(request, "param", 2) + 2) as net:
        yield Cluster(net, tmp_path)


def finished(process: subprocess.Popen[str], seconds: float = 60) -> subprocess.CompletedProcess[str]:
    stdout, stderr = process.communicate(timeout=seconds)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.mark.parametrize("cluster", [2, 3], indirect=True)
def test_valid_with_the_very_traffic_of_one_process(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start()
    hosts = len(cluster.senders)
    result = result_of(cluster.head.done(*cluster.run("--time", "5"), environment=cluster.token), 0)
    assert result["validity"] == "VALID"
    alone = drumfire("run", "null", "digits", *TRAFFIC, "--time", "5", "--output", tmp_path / "alone")
    assert alone.returncode == 0
    found, expected = columns(tmp_path / "out"), columns(tmp_path / "alone")
    for name in ("sample_index", "scheduled"):
        assert found[name].tobytes() == expected[name].tobytes()
    assert set(found["status"].tolist()) == {Status.OK}
    requests = result["system"]["server"]["reconciliation"]["requests"]
    assert requests["equal"]
    assert requests["server"] == len(found["status"])

    told = result["hosts"]
    assert (told["kind"], told["status"]) == ("hosts", "complete")
    assert {one["machine"]["host"] for one in told["generators"]} == {host.name for host in cluster.senders}
    assert len(told["generators"]) == hosts
    # One clock for all of them, so that all of what is told as an offset is error: it must be within its bound.
    for one in told["generators"]:
        assert abs(one["clock_offset_ns"]) <= one["clock_bound_ns"] < 10_000_000
        assert one["start_late_ns"] >= 0
    print(f"dispersion {told['start_dispersion_ns'] / 1e6:.3f} ms, bound {told['clock_bound_ns'] / 1e6:.3f} ms")
    assert not any(host.processes(GENERATOR) for host in cluster.senders)
    # The cluster is as it was, for the next run, and ends when it is told to.
    listed = cluster.head.done("cluster", "status", environment=cluster.token)
    assert listed.stdout.count(" up\n") == hosts + 1, listed.stdout + listed.stderr
    for host in (*cluster.senders, cluster.head):
        done = host.done("cluster", "down", environment=cluster.token)
        assert done.returncode == 0
        assert not host.processes("raylet")
        assert not host.processes("gcs_server")


@pytest.mark.parametrize("fault", ["killed", "cut"])
def test_a_host_is_lost(fault: str, cluster: Cluster, tmp_path: Path) -> None:
    cluster.start()
    with cluster.under_way("--time", "15") as process:
        victim = cluster.senders[-1]
        victim.power_off() if fault == "killed" else victim.cut()
        done = finished(process, 90)
    result, found = result_of(done, 1), columns(tmp_path / "out")
    assert result["reasons"][0].startswith("PARTIAL: host ")
    (lost,) = [one for one in result["hosts"]["generators"] if one["lost"]]
    (other,) = [one for one in result["hosts"]["generators"] if not one["lost"]]
    assert lost["machine"]["host"] == victim.name
    assert lost["lost"]["last_seen"]["answered"] > 20
    assert lost["lost"]["last_seen"]["latency_ns"]["p50"] > 0
    assert lost["lost"]["after_s"] < 10
    assert other["state"] == "done"
    assert other["known"] == other["samples"] == other["answered"]
    of_lost = np.arange(len(found["status"])) % 2 == lost["part"]
    assert set(found["status"][of_lost].tolist()) == {Status.MISSING}
    assert set(found["status"][~of_lost].tolist()) == {Status.OK}
    # Nothing is made to look whole.
    assert result["delivered"]["samples"] == other["answered"]
    if fault == "cut":  # what goes on there ends itself
        until(lambda: not victim.processes(GENERATOR), "the end of the generator that was cut off", seconds=15)


def test_a_host_is_lost_and_all_is_ended(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start()
    with cluster.under_way("--time", "60", "--on-host-loss", "abort") as process:
        cluster.senders[0].power_off()
        done = finished(process)
    result = result_of(done, 1)
    assert result["reasons"][0].startswith("PARTIAL: host 0" if "host 0" in result["reasons"][0] else "PARTIAL: host 1")
    assert any("--on-host-loss is abort" in reason for reason in result["reasons"])
    (other,) = [one for one in result["hosts"]["generators"] if not one["lost"]]
    assert 0 < other["known"] < other["samples"]


def test_the_driver_is_killed(cluster: Cluster) -> None:
    cluster.start()
    with cluster.under_way("--time", "60"):
        assert all(host.processes(GENERATOR) for host in cluster.senders)
        os.kill(cluster.driver(), signal.SIGKILL)
        left = cluster.senders
        until(lambda: not any(host.processes(GENERATOR) for host in left), "the end of the generators", seconds=10)


def test_the_head_is_cut_off(cluster: Cluster, tmp_path: Path) -> None:
    """The generators stop themselves; and the driver, which is cut off as well, says what it knows."""
    cluster.start()
    with cluster.under_way("--time", "20") as process:
        cluster.head.cut()
        left = cluster.senders
        until(lambda: not any(host.processes(GENERATOR) for host in left), "the end of the generators", seconds=15)
        done = finished(process, 120)
    result = result_of(done, 1)
    assert [one["state"] for one in result["hosts"]["generators"]] == ["lost", "lost"]
    assert len(result["reasons"]) >= 2
    assert all("not heard for 3 s" in reason or "gone" in reason for reason in result["reasons"][:2])


def test_ctrl_c(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start()
    with cluster.under_way("--time", "60") as process:
        os.kill(cluster.driver(), signal.SIGINT)
        done = finished(process)
    result, found = result_of(done, 130), columns(tmp_path / "out")
    assert "SIGINT" in result["reasons"][0]
    assert result["hosts"]["status"] == "complete"
    assert result["delivered"]["samples"] == (found["status"] == Status.OK).sum() > 50
    assert not any(host.processes(GENERATOR) for host in cluster.senders)


def test_a_host_has_another_version(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start(1)
    other = tmp_path / "other"
    for package in ("bench", "drumfire", "loadgen", "sut", "training"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(netns.ROOT / package, other / package, symlinks=True, ignore=ignored)
    shutil.copy(netns.ROOT / "constraints.txt", other)
    version = other / "loadgen" / "version.py"
    version.write_text(version.read_text().replace('VERSION = "', 'VERSION = "99.'))
    cluster.join(cluster.senders[1], PYTHONPATH=str(other))
    done = cluster.head.done(*cluster.run("--time", "5"), environment=cluster.token)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "differ" in done.stderr
    (line,) = [line for line in done.stderr.split("\n") if line.strip().startswith("drumfire ")]
    assert " 99." in line
    assert any(line.strip().startswith("source") for line in done.stderr.split("\n"))
    assert not (tmp_path / "out" / "result.json").exists()
    assert not any(host.processes(GENERATOR) for host in cluster.senders)


def test_fewer_hosts_than_asked_and_wrong_tokens_and_a_port_in_use(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start(1)
    one_line_error(
        cluster.head.done(*cluster.run("--time", "5", hosts=2), environment=cluster.token, timeout=200),
        "--hosts 2", "has 1",
    )  # fmt: skip
    wrong = tmp_path / "wrong"
    wrong.write_text(secrets.token_hex(32))
    wrong.chmod(0o600)
    refused = {"RAY_AUTH_TOKEN_PATH": str(wrong)}
    one_line_error(cluster.head.done(*cluster.run("--time", "5", hosts=1), environment=refused, timeout=200), "token")
    one_line_error(cluster.senders[1].done("cluster", "join", HEAD, environment=refused), "token")
    one_line_error(cluster.senders[1].done("cluster", "join", HEAD), "no token")
    assert not cluster.senders[1].processes("raylet")
    one_line_error(
        cluster.head.done("cluster", "up", "--host", cluster.head.address, environment=cluster.token),
        HEAD, "in use", "--port",
    )  # fmt: skip
    # The one that runs is not hurt by any of it.
    assert len(cluster.head.processes("gcs_server")) >= 1
    result_of(cluster.head.done(*cluster.run("--time", "5", hosts=1), environment=cluster.token), 0)
