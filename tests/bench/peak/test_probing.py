"""``drumfire run --find-peak-performance`` and ``--until-confident`` as a user types them, and the files they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from drumfire.bench.peak import probing
from drumfire.bench.peak.search import next_step
from drumfire.sut.local import batcher
from drumfire.sut.local.batcher import BatchedSystem
from tests.support import faulty_run
from tests.support.command import SCHEMA, Done, finished, here, press, result_of, start

SEARCH = [
    "run", "onnxruntime", "digits", "--scenario", "Server", "--find-peak-performance", "--qps", "100", "--time", "0.6",
    "--max-latency", "0.1", "--max-batchsize", "1", "--no-dashboard", "--json",
    "--processes", "0",  # which faults change
]  # fmt: skip


def searching(folder: Path) -> subprocess.Popen[str]:
    """A search on a system that is slow, so that neither it nor this machine is hurried."""
    return start(*SEARCH, "--output", folder, fault="slow")


def lines(folder: Path) -> list[dict[str, Any]]:
    journal = folder / "search.jsonl"
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def probed(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Wait until so many probes are done."""
    while len(lines(folder)) <= count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
def test_a_search_that_is_killed_and_interrupted_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = searching(folder)
    try:
        probed(process, folder, 2)
        process.kill()
        process.communicate(timeout=30)
        known = lines(folder)
        assert not (folder / "result.json").exists()

        process = searching(folder)
        probed(process, folder, len(known) + 1)
        os.kill(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        assert f"resuming the search in {folder}" in stderr
        assert "to resume this search: drumfire run" in stderr
        assert "Traceback" not in stderr
        if stdout:  # in the middle of a probe
            jsonschema.validate(json.loads(stdout), SCHEMA)
        assert not (folder / "result.json").exists()
        assert lines(folder)[: len(known)] == known
        known = lines(folder)

        process = searching(folder)
        stdout, stderr = process.communicate(timeout=280)
    finally:
        process.kill()
    assert "Traceback" not in stderr
    assert lines(folder)[: len(known)] == known
    judge_search(subprocess.CompletedProcess(SEARCH, process.returncode, stdout, stderr), folder, most=210)


def judge_search(done: Done, folder: Path, most: float) -> None:
    """A search that has come to its end, at no more than so many queries a second."""
    result = result_of(done, done.returncode)
    found = result["search"]
    assert len(found["probes"]) == len(lines(folder)) - 1
    assert done.returncode == (0 if result["validity"] == "VALID" else 1), done.stderr
    if found["peak"] is None:  # where the machine had no time for it
        assert result["validity"] == "INVALID"
        assert "No peak was found" in result["reasons"][0]
        return
    assert result["validity"] == "VALID"
    assert result["asked"]["qps"] == found["peak"] < most
    assert found["probes"][-1]["purpose"] == "confirm"
    assert result["system"]["qps_source"] == "search"
    assert (folder / "mlperf_log_summary.txt").read_text().count("Result is : VALID") == 1


@pytest.mark.slow
def test_a_search_ends_with_a_full_run_at_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: BatchedSystem, run: Any, first: int, last: int) -> None:
        time.sleep(0.0005 * (last - first))
        faulty_run.batch_of(self, run, first, last)

    monkeypatch.setattr(BatchedSystem, "_run", run)
    monkeypatch.setattr(batcher, "_MOST_BATCHES", 1)  # so that each batch goes through it
    words = [*SEARCH, "--qps", "1000", "--time", "0.1"]
    # 2,000 a second are computed; in 0.1 s, 100 more queries can wait within the bound of 50 ms.
    judge_search(here(*words, "--output", tmp_path / "out"), tmp_path / "out", most=3000)


def test_a_search_interrupted_between_probes_says_how_to_resume_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(goal: Any, history: Any) -> Any:
        if history:
            raise KeyboardInterrupt
        return next_step(goal, history)

    monkeypatch.setattr(probing, "next_step", step)
    words = ["run", "null", "digits", "--scenario", "Server", "--time", "0.5", "--no-dashboard"]
    done = here(*words, "--find-peak-performance", "--output", tmp_path / "out")
    assert done.returncode == 130
    (line,) = done.stderr.splitlines()
    assert line.startswith("drumfire: interrupted; to resume this search: drumfire run null digits ")
    assert "drumfire run null digits" in here("show", tmp_path / "out").stdout


def test_an_interrupted_search_keeps_its_journal_which_other_options_may_not_use(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = searching(folder)
    try:
        probed(process, folder, 1)
        press(process, signal.SIGINT)
    finally:
        done = finished(process, 60)
    assert done.returncode == 130, done.stderr
    assert "to resume this search: drumfire run onnxruntime digits" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines(folder)) >= 2
    assert not (folder / "result.json").exists()
    done = here(*SEARCH, "--max-latency", "0.3", "--output", folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "is of another search" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", [["run"], ["audit", "TEST04"]])
def test_other_modes_end_with_their_verdicts(command: list[str], tmp_path: Path) -> None:
    audit = command[0] == "audit"
    arguments = [
        *command, "onnxruntime", "digits", "--scenario", "Server", "--qps", "1500", "--max-latency", "2",
        "--time", "0.4", "--no-dashboard", "--json", "--trace",
    ]  # fmt: skip
    more = [] if audit else ["--submission", "--until-confident", "30"]
    done = here(*arguments, *more, "--output", tmp_path / "out")
    found = json.loads(done.stdout)
    assert "Traceback" not in done.stderr
    if audit:
        assert done.returncode == (0 if found["passed"] else 1)
        assert (tmp_path / "out" / "TEST04" / "performance" / "run_1" / "mlperf_log_trace.json").exists()
        return
    jsonschema.validate(found, SCHEMA)
    assert done.returncode == 0, found["reasons"]
    assert found["mode"] == "SubmissionRun"
    assert found["accuracy"]["total"] == 500
    assert found["confidence"]["verdict"] == "passes"
    assert found["metric"]["name"] == "completed samples per second"
    trace = json.loads((tmp_path / "out" / "mlperf_log_trace.json").read_text())
    shown = sum(event.get("ph") == "b" for event in trace["traceEvents"])  # both phases
    assert shown == found["accuracy"]["total"] + found["delivered"]["samples"]
