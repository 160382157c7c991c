"""``drumfire run … --warmup``: as a user types it, in this process, over the wire, and by several generators."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from drumfire.loadgen.record import Status
from tests.support.command import columns, drumfire, finished, here, one_line_error, press, result_of, start
from tests.support.scripted_peer import Peer, Talk, until
from tests.support.served import serving

SERVER = ["--scenario", "Server", "--qps", "400", "--time", "0.5", "--max-latency", "5", "--no-dashboard"]


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "workers"), [("grpc", 1), ("grpc", 2), ("http", 1)])
def test_over_the_wire(protocol: str, workers: int, tmp_path: Path) -> None:
    """The server gets these queries too, and no figure of the run has them: not even the server's own."""
    several = ["--workers", workers] if workers > 1 else []
    tables = []
    with serving("null", "identity") as served:
        for folder, more in (("warm", ["--warmup", "50"]), ("cold", [])):
            before = served.statistics("identity")["inference_stats"]["success"]["count"]
            words = ["run", "triton", "identity", "--url", served.ready[protocol], "--input", "INPUT0:16", *SERVER]
            done = here(*words, *several, *more, "--json", "--output", tmp_path / folder)
            result = result_of(done, done.returncode)
            sent = served.statistics("identity")["inference_stats"]["success"]["count"] - before
            samples = result["delivered"]["samples"]
            requests = result["system"]["server"]["reconciliation"]["requests"]
            assert requests["equal"]
            assert requests["client"] == requests["server"] == samples
            tables.append(columns(tmp_path / folder))
            if more:
                assert result["warmup"]["queries"] == -(-50 // workers) * workers
                assert result["warmup"]["failed"] == 0
                assert result["warmup"]["seconds"] > 0
                assert sent >= samples + result["warmup"]["queries"]
            else:
                assert "warmup" not in result
    warm, cold = tables
    for name in ("sample_index", "scheduled", "status"):
        assert warm[name].tobytes() == cold[name].tobytes()


def test_the_report_tells_it(tmp_path: Path) -> None:
    words = ["run", "null", "digits", "--scenario", "SingleStream", "--time", "0.2", "--warmup", "25"]
    done = drumfire(*words, "--no-dashboard", "--output", tmp_path / "out")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("warm-up")]
    assert "25 queries in " in line
    assert "unmeasured" in line


def test_it_travels_and_is_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    words = ["run", "null", "digits", "--scenario", "Server", "--qps", "100", "--output", tmp_path / "out"]
    one_line_error(here(*words, "--warmup", "5m"), "--warmup", "'5m'", "200", "5s")
    assert not (tmp_path / "out").exists()
    config = here(*words, "--warmup", "5s", "--print-config")
    assert 'warmup = "5s"' in config.stdout


def test_a_server_that_is_silent_ends_it(tmp_path: Path) -> None:
    """It answers until the settings are written, which is when the warm-up comes."""

    def play(talk: Talk) -> None:
        for call in talk.calls():
            if not (tmp_path / "out" / "settings.json").exists():
                talk.answer(call)

    with Peer("grpc", play) as peer:
        words = ["run", "triton", "echo", "--url", peer.url, "--output", tmp_path / "out", "--patience", "0.5"]
        done = here(*words, *SERVER, "--warmup", "40")
    assert done.returncode == 2
    assert done.stderr == (
        "drumfire: the warm-up got no answer for 0.5 s (raise --patience if the system is only slow)\n"
    )


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_during_it_ends_in_order(workers: int, tmp_path: Path) -> None:
    several = ["--workers", 2] if workers > 1 else []
    with Peer("grpc") as peer:
        words = ["run", "triton", "echo", "--url", peer.url, "--output", tmp_path / "out", "--json", *several]
        process: subprocess.Popen[str] = start(*words, *SERVER, "--warmup", "60s")
        try:
            until(lambda: (tmp_path / "out" / "settings.json").exists(), "its folder", seconds=60)
            time.sleep(4.0 if workers > 1 else 1.0)  # then nothing but the warm-up goes on
            press(process, signal.SIGINT)
            done = finished(process)
        finally:
            process.kill()
            process.wait()
    result = result_of(done, 130)
    assert result["validity"] == "INVALID"
    assert "SIGINT" in result["reasons"][0]
    assert result["delivered"]["samples"] == 0
    assert result["errors"] == {"failed": 0, "unanswered": 0, "refused": 0, "messages": {}}
    assert columns(tmp_path / "out")["status"].size == 0
    if workers == 1:
        assert result["warmup"]["queries"] > 50


def test_accuracy_is_judged_on_the_run_alone(tmp_path: Path) -> None:
    words = ["run", "null", "digits", "--scenario", "Offline", "--accuracy", "--warmup", "30", "--json"]
    done = here(*words, "--no-dashboard", "--output", tmp_path / "out")
    result = result_of(done, 1)  # it knows only zeros
    assert result["accuracy"]["total"] == result["accuracy"]["expected"] == 500
    found = columns(tmp_path / "out")
    assert np.sort(found["sample_index"]).tolist() == list(range(500))
    assert set(found["status"].tolist()) == {Status.OK}
