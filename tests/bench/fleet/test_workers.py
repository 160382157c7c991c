"""``drumfire run triton … --workers N`` as a user types it: real generators, a scripted peer and the real Triton.

What is killed here was started here.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from drumfire.bench.fleet.child import Child
from drumfire.loadgen import histogram
from drumfire.loadgen.record import Status
from drumfire.loadgen.results import distribution
from drumfire.loadgen.saved import load
from drumfire.sut.remote.triton_local.server import LocalTriton
from tests.support.command import (
    await_answers,
    columns,
    drumfire,
    finished,
    here,
    one_line_error,
    press,
    result_of,
    start,
)
from tests.support.saved_figures import differences
from tests.support.scripted_peer import Peer, Talk, until
from tests.support.served import serving
from tests.support.triton import statistics, url

TRAFFIC = {
    "Server": ["--scenario", "Server", "--qps", "1000", "--time", "0.6", "--max-latency", "20"],
    "Offline": ["--scenario", "Offline", "--qps", "2000", "--time", "0.3"],
}
JSON = ["--json", "--no-dashboard"]
LONG = ["--scenario", "Server", "--qps", "300", "--time", "60", "--max-latency", "20", "--json"]


def arguments(peer: Peer, folder: Path, *more: object) -> list[object]:
    return ["run", "triton", "echo", "--url", peer.url, "--output", folder, *more]


def generators_of(pid: int) -> list[int]:
    """The generator processes that a driver has started."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            ours = entry.name.isdigit() and b"drumfire.bench.fleet.generator" in (entry / "cmdline").read_bytes()
            if ours and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def under_way(*what: object) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A run with its generators' pids, when it has had answers for a second."""
    process = start(*what)
    try:
        await_answers(process)
        time.sleep(1)
        yield process, generators_of(process.pid)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of one process's run, by scenario."""
    found = {}
    for scenario, traffic in TRAFFIC.items():
        found[scenario] = tmp_path_factory.mktemp("alone") / "out"
        with Peer("grpc") as peer:
            done = here(*arguments(peer, found[scenario], *traffic, *JSON))
        assert done.returncode in (0, 1), done.stderr
    return found


@pytest.mark.parametrize(
    ("scenario", "workers"),
    [
        ("Server", 2),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in itertools.product(TRAFFIC, (1, 2, 3, 7))
            if one != ("Server", 2)
        ),
    ],
)
def test_the_traffic_of_one_process(scenario: str, workers: int, tmp_path: Path, alone: dict[str, Path]) -> None:
    with Peer("grpc") as peer:
        done = here(*arguments(peer, tmp_path / "out", *TRAFFIC[scenario], "--workers", workers, *JSON))
        assert done.returncode in (0, 1), done.stdout + done.stderr  # Offline is over before its time
        result = result_of(done, done.returncode)
        served = len(peer.calls)
    found, expected = columns(tmp_path / "out"), columns(alone[scenario])
    for name in ("sample_index", "scheduled"):
        assert found[name].dtype == expected[name].dtype
        assert found[name].tobytes() == expected[name].tobytes()
    assert set(found["status"].tolist()) == {Status.OK}
    assert (found["issued"] >= found["scheduled"]).all()
    assert (found["sent"] >= found["issued"]).all()
    assert (found["completed"] >= found["sent"]).all()
    assert served >= len(found["status"]) == result["delivered"]["samples"]

    hosts = result["hosts"]
    assert hosts["status"] == "complete"
    assert [one["part"] for one in hosts["generators"]] == list(range(workers))
    assert all(one["state"] == "done" and one["known"] == one["samples"] for one in hosts["generators"])
    assert sum(one["samples"] for one in hosts["generators"]) == len(found["status"])
    assert hosts["start_dispersion_ns"] >= 0
    assert hosts["slowest"] in {one["name"] for one in hosts["generators"]}
    latencies = np.concatenate([(found["completed"] - found["scheduled"])[part::workers] for part in range(workers)])
    exact = distribution(latencies)
    assert {p: result["latency_ns"][f"p{p * 100:g}"] for p in exact.percentiles} == exact.percentiles
    assert differences(load(tmp_path / "out")) == {}


def test_the_run_directory_is_one_generators(tmp_path: Path, alone: dict[str, Path]) -> None:
    """The same files, and in the detail log the same keys in the same order."""
    with Peer("grpc") as peer:
        here(*arguments(peer, tmp_path / "out", *TRAFFIC["Server"], "--workers", 2, *JSON))
    folders = (alone["Server"], tmp_path / "out")
    files = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in folders]
    assert files[0] == files[1]
    logs = [(folder / "mlperf_log_detail.txt").read_text().split("\n")[:-1] for folder in folders]
    keys = [[json.loads(line.removeprefix(":::MLLOG "))["key"] for line in log] for log in logs]
    assert keys[0] == keys[1]
    found = columns(tmp_path / "out")
    saved = (tmp_path / "out" / "histograms" / "latency.hgrm").read_text()
    whole = histogram.of(found["completed"] - found["scheduled"])
    assert f"Total count    = {whole.total_count:12d}" in saved or str(whole.total_count) in saved


@pytest.mark.slow
def test_the_report_names_the_workers(tmp_path: Path) -> None:
    with Peer("http") as peer:
        done = drumfire(*arguments(peer, tmp_path / "out", *TRAFFIC["Server"], "--workers", 2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 generators" in done.stdout
    assert "worker 0: " in done.stdout
    assert "worker 1: " in done.stdout
    assert done.stdout.count("the slowest") == 1


def test_the_real_triton_counts_as_many(triton: LocalTriton, tmp_path: Path) -> None:
    before = statistics(triton, "digits")["inference_stats"]["success"]
    settings = ["--scenario", "Server", "--qps", "300", "--time", "2", "--max-latency", "5", "--workers", "2", *JSON]
    there = ["--url", url(triton, "grpc"), "--output", tmp_path / "out"]
    result = result_of(here("run", "triton", "digits", *there, *settings), 0)
    assert result["validity"] == "VALID"
    requests = result["system"]["server"]["reconciliation"]["requests"]
    assert requests["equal"]
    assert requests["client"] == requests["server"] == result["delivered"]["samples"]
    after = statistics(triton, "digits")["inference_stats"]["success"]
    assert int(after["count"]) - int(before.get("count", 0)) >= result["delivered"]["samples"]


@pytest.fixture(scope="module", params=["ours", pytest.param("triton", marks=[pytest.mark.slow, pytest.mark.serial])])
def digits(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server of digits: that of ``drumfire serve``, and the real Triton."""
    if request.param == "triton":
        yield url(request.getfixturevalue("triton"), "grpc")
        return
    pytest.importorskip("onnxruntime")
    with serving("onnxruntime", "digits", "--threads", 1) as served:
        yield served.ready["grpc"]


def log_of(folder: Path) -> list[tuple[int, int, str]]:
    log = json.loads((folder / "mlperf_log_accuracy.json").read_text())
    return sorted((one["seq_id"], one["qsl_idx"], one["data"]) for one in log)


def test_accuracy_is_that_of_one_process(triton: LocalTriton, tmp_path: Path) -> None:
    told = []
    for folder, more in (("one", []), ("many", ["--workers", 3])):
        words = ["--scenario", "Offline", "--accuracy", *JSON, *more]
        there = ["--url", url(triton, "grpc"), "--output", tmp_path / folder]
        result = result_of(here("run", "triton", "digits", *there, *words), 0)
        told.append((result["accuracy"], log_of(tmp_path / folder)))
    assert told[0] == told[1]
    assert len(told[0][1]) == told[0][0]["total"]


@pytest.mark.slow
def test_both_phases_of_a_submission(digits: str, tmp_path: Path) -> None:
    """The second phase has a start of its own, and its rows go on where the first one's end."""
    tables, told = [], []
    for folder, more in (("one", []), ("many", ["--workers", 3])):
        words = ["--submission", "--scenario", "Server", "--qps", "1000", "--time", "0.6", "--max-latency", "5", *more]
        there = ["--url", digits, "--output", tmp_path / folder]
        result = result_of(here("run", "triton", "digits", *there, *words, *JSON), 0)
        assert result["accuracy"]["total"] == 500
        assert result["system"]["server"]["reconciliation"]["requests"]["equal"]
        assert differences(load(tmp_path / folder)) == {}
        tables.append(columns(tmp_path / folder))
        told.append((result["accuracy"], log_of(tmp_path / folder)))
    assert told[0] == told[1]
    for name in ("sample_index", "scheduled", "status"):
        assert tables[0][name].tobytes() == tables[1][name].tobytes()


@pytest.mark.parametrize("scenario", ["SingleStream", pytest.param("MultiStream", marks=pytest.mark.slow)])
def test_streams_that_are_independent_say_so(scenario: str, tmp_path: Path) -> None:
    with Peer("grpc") as peer:
        asked = ["--scenario", scenario, "--time", "0.5", "--workers", 2, *JSON]
        one_line_error(here(*arguments(peer, tmp_path / "no", *asked)), "a single stream", "--independent-streams")
        done = here(*arguments(peer, tmp_path / "out", *asked, "--independent-streams"))
    assert done.returncode in (0, 1), done.stdout + done.stderr
    result = result_of(done, done.returncode)
    assert result["hosts"]["independent_streams"]
    assert any("2 independent streams" in text for text in result["warnings"])
    found = columns(tmp_path / "out")
    known = found["status"] == Status.OK
    assert set(found["status"].tolist()) <= {Status.OK, Status.MISSING}
    assert known.sum() == result["delivered"]["samples"] > 100
    assert result["lateness_ns"]["early"] == 0
    assert differences(load(tmp_path / "out")) == {}


def test_what_can_not_be_divided(tmp_path: Path) -> None:
    there = ["--output", tmp_path / "out"]
    server = ["--scenario", "Server"]
    for given, words in (
        (["onnxruntime", "digits", *server, "--workers", 2], ["--workers has no effect with onnxruntime"]),
        (["triton", "echo", *server, "--workers", 2, "--until-confident"], ["--until-confident", "--workers"]),
        (["triton", "echo", *server, "--workers", 8, "--concurrency", 3], ["--concurrency 3", "8"]),
        (["triton", "echo", *server, "--independent-streams"], ["--independent-streams", "--workers"]),
        (["triton", "echo", *server, "--ray-address", "a:1", "--workers", 2], ["--ray-address", "--hosts"]),
        (["triton", "echo", *server, "--hosts", 2, "--shared-memory", "system"], ["--shared-memory", "--hosts"]),
        (["triton", "echo", *server, "--workers", 0], ["--workers"]),
    ):
        one_line_error(here("run", *given, *there), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("policy", "how"),
    [
        ("abort", signal.SIGKILL),
        pytest.param("abort", signal.SIGSTOP, marks=[pytest.mark.slow, pytest.mark.serial]),
        pytest.param("continue", signal.SIGKILL, marks=[pytest.mark.slow, pytest.mark.serial]),
        pytest.param("continue", signal.SIGSTOP, marks=[pytest.mark.slow, pytest.mark.serial]),
    ],
)
def test_a_worker_is_lost(policy: str, how: signal.Signals, tmp_path: Path) -> None:
    """Killed, and standing still: PARTIAL, and what it had measured is kept."""
    asked = [*LONG, "--time", "12" if policy == "continue" else "30", "--workers", 3, "--on-host-loss", policy]
    with Peer("grpc") as peer, under_way(*arguments(peer, tmp_path / "out", *asked)) as (process, workers):
        assert len(workers) == 3
        victim = max(workers)
        os.kill(victim, how)
        done = finished(process)
    result, found = result_of(done, 1), columns(tmp_path / "out")
    assert result["validity"] == "INVALID"
    assert result["reasons"][0].startswith("PARTIAL: worker ")
    hosts = result["hosts"]
    assert hosts["status"] == "partial"
    (lost,) = [one for one in hosts["generators"] if one["lost"]]
    assert lost["lost"]["reason"] == ("ended by SIGKILL" if how == signal.SIGKILL else "not heard for 3 s")
    rows = np.arange(len(found["status"]))
    of_lost = rows % 3 == lost["part"]
    status = found["status"]
    # What it did until then is in its table, which outlives it.
    assert lost["known"] == ((status != Status.MISSING) & of_lost).sum() > 20
    assert (status[~of_lost] == Status.OK).mean() > 0.98
    assert result["delivered"]["samples"] == (status == Status.OK).sum()
    whole = [one["state"] for one in hosts["generators"]].count("done")
    assert whole == 2
    if policy == "continue":
        assert result["delivered"]["duration_s"] > 11
        assert (status[of_lost] == Status.MISSING).sum() > 0
        assert all(one["known"] == one["samples"] for one in hosts["generators"] if not one["lost"])
    else:
        assert any("--on-host-loss is abort" in reason for reason in result["reasons"])
        assert all(one["known"] < one["samples"] for one in hosts["generators"])
    assert "INVALID" in (tmp_path / "out" / "mlperf_log_summary.txt").read_text()
    assert differences(load(tmp_path / "out")) == {}
    assert not any(map(alive, workers))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupted(number: signal.Signals, tmp_path: Path) -> None:
    with Peer("grpc") as peer, under_way(*arguments(peer, tmp_path / "out", *LONG, "--workers", 2)) as (process, pids):
        press(process, number)
        done = finished(process)
    result, found = result_of(done, 130), columns(tmp_path / "out")
    assert number.name in result["reasons"][0]
    assert result["hosts"]["status"] == "complete"
    assert result["delivered"]["samples"] == (found["status"] == Status.OK).sum() > 100
    assert not any(map(alive, pids))


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_the_driver_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    """No child is left within 10 s; also where the driver is there and says nothing."""
    with Peer("grpc") as peer, under_way(*arguments(peer, tmp_path / "out", *LONG, "--workers", 2)) as (process, pids):
        assert len(pids) == 2
        os.kill(process.pid, number)
        until(lambda: not any(map(alive, pids)), "the end of the generators", seconds=10)


def test_a_worker_that_can_not_start(tmp_path: Path) -> None:
    """The server takes the driver's questions and no more: one line, and nothing is left."""

    def play(talk: Talk) -> None:
        for call in talk.calls():
            if (tmp_path / "out" / "settings.json").exists():
                talk.refuse(call, "no more of you")
            else:
                talk.answer(call)

    with Peer("grpc", play) as peer:
        asked = [*TRAFFIC["Server"], "--workers", 2, *JSON]
        done = here(*arguments(peer, tmp_path / "out", *asked))
    assert (done.returncode, done.stdout) == (2, "")
    *notes, error = done.stderr.strip().split("\n")
    assert all(note.startswith("note: ") for note in notes), done.stderr
    assert "could not start" in error
    assert "no more of you" in error


@pytest.mark.slow
def test_the_system_fails_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From when all generators have warmed up."""
    begun = threading.Event()
    begin = Child.begin

    def noted(child: Child, at_ns: int) -> None:
        begun.set()
        begin(child, at_ns)

    def play(talk: Talk) -> None:
        for call in talk.calls():
            if begun.is_set() and call.ordinal % 20 == 0:
                talk.refuse(call, "out of memory")
            else:
                talk.answer(call)

    monkeypatch.setattr(Child, "begin", noted)
    with Peer("grpc", play) as peer:
        result = result_of(here(*arguments(peer, tmp_path / "out", *TRAFFIC["Server"], "--workers", 2, *JSON)), 1)
    status = columns(tmp_path / "out")["status"]
    assert result["errors"]["failed"] == (status == Status.FAILED).sum() > 0
    assert any("out of memory" in text for text in result["errors"]["messages"])
    assert result["hosts"]["status"] == "complete"


def test_the_program_by_itself_says_what_it_is_for() -> None:
    command = [sys.executable, "-m", "drumfire.bench.fleet.generator"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("no plan came")
