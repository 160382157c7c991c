"""Series of whole runs: what a server said of itself, alone, in generators, interrupted, and without a server."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from drumfire.bench.commands.run import missed
from drumfire.loadgen import series
from tests.support.command import await_answers, finished, here, options, result_of, start
from tests.support.scripted_peer import Peer
from tests.support.served import Served, serving

SERVER = ["--scenario", "Server", "--qps", "300", "--max-latency", "1000", "--json"]
S = 1_000_000_000


@pytest.fixture(scope="module")
def served() -> object:
    with serving("null", "identity") as served:
        yield served


def words(served: Served, folder: Path, *more: object) -> list[object]:
    urls = ["--url", served.ready["grpc"], "--metrics-url", served.ready["metrics"]]
    return ["run", "triton", "identity", *urls, "--input", "INPUT0:4", "--output", folder, *SERVER, *more]


@pytest.mark.parametrize(
    "workers",
    [pytest.param((), id="alone"), pytest.param(("--workers", 2), id="two generators", marks=pytest.mark.slow)],
)
def test_the_servers_figures_are_kept(served: Served, tmp_path: Path, workers: tuple[object, ...]) -> None:
    done = here(*words(served, tmp_path / "out", "--time", "2.5", "--no-dashboard", *workers))
    result = result_of(done, done.returncode)
    assert done.returncode in (0, 1)
    found = series.load(tmp_path / "out")
    kept = {one["name"]: one for one in result["series"]["kept"]}
    assert result["series"]["notes"] == []
    assert found.keys() == kept.keys() >= {"server.requests_per_s", "server.queue_ns", "server.pending_requests"}
    for name, one in found.items():
        assert one.summary() == kept[name]
        assert one.source == served.ready["grpc"]
        times = one.points["time"]
        assert (times[1:] > times[:-1]).all()
    rates = found["server.requests_per_s"].points
    # Each reading covers the time since the one before; what was sent before the start is not of the run.
    times, success = rates["time"], result["system"]["server"]["servers"][0]["success"]
    counted = sum(
        rate * (end - begin) / S
        for begin, end, rate in zip(times, times[1:], rates["value"][1:], strict=False)
        if begin >= 0
    )
    assert 0.1 * success < counted < 1.1 * success
    assert found["server.pending_requests"].points["time"][0] < 0
    assert result["system"]["server"]["servers"][0]["metrics"]["samples"] == kept["server.pending_requests"]["count"]


@pytest.mark.slow
def test_an_interrupted_run_keeps_them(served: Served, tmp_path: Path) -> None:
    process = start(*words(served, tmp_path / "out", "--time", "60"))
    await_answers(process)
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    result = result_of(finished(process), 130)
    found = series.load(tmp_path / "out")
    assert found["server.requests_per_s"].points.size >= 2
    assert len(result["series"]["kept"]) == len(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("time_s", "reason"), [(2, "server: no statistics: "), (0.3, "no series: the run's least duration is below 2 s")]
)
def test_why_there_is_no_series_is_a_note(tmp_path: Path, time_s: float, reason: str) -> None:
    with Peer("grpc") as peer:
        words = ["run", "triton", "echo", "--url", peer.url, "--output", tmp_path / "out"]
        done = here(*words, *SERVER, "--time", time_s, "--no-dashboard")
    result = result_of(done, done.returncode)
    assert result["series"]["kept"] == []
    (note,) = result["series"]["notes"]
    assert note.startswith(reason)
    assert not (tmp_path / "out" / "series").exists()


def test_a_run_without_meters_has_no_series(tmp_path: Path) -> None:
    done = here("run", "null", "digits", "--output", tmp_path / "out", "--time", "0.1", "--json", "--no-dashboard")
    assert "series" not in result_of(done, done.returncode)
    assert not (tmp_path / "out" / "series").exists()


@pytest.mark.parametrize("given", [True, False])
def test_metrics_that_are_missing_at_an_address_by_hand_are_a_warning(given: bool) -> None:
    words = ["--metrics-url", "http://127.0.0.1:1/metrics"] if given else []
    asked = options("run", "triton", "digits", "--url", "http://127.0.0.1:1", *words)
    notes = ["server: no metrics: refused", "server: no statistics: refused"]
    assert missed(asked, notes) == notes[:given]
