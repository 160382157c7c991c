"""``drumfire run --find-peak-performance`` and ``--until-confident`` as a user types them: real processes and files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "bench" / "result.schema.json").read_text())
FAULTY = Path(__file__).with_name("faulty_run.py")
SEARCH = [
    "run", "onnxruntime", "digits", "--scenario", "Server", "--find-peak-performance", "--qps", "100", "--time", "0.6",
    "--max-latency", "0.1", "--max-batchsize", "1", "--no-dashboard", "--json",
]  # fmt: skip


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A search on a system that is slow, so that neither it nor this machine is hurried."""
    return subprocess.Popen(
        [sys.executable, str(FAULTY), "slow", *(arguments or SEARCH), "--output", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )  # fmt: skip


def lines(folder: Path) -> list[dict[str, Any]]:
    journal = folder / "search.jsonl"
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def probed(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Wait until so many probes are done."""
    while len(lines(folder)) <= count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_a_search_that_is_killed_and_interrupted_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = start(folder)
    try:
        probed(process, folder, 2)
        process.kill()
        process.communicate(timeout=30)
        known = lines(folder)
        assert not (folder / "result.json").exists()

        process = start(folder)
        probed(process, folder, len(known) + 1)
        os.kill(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        assert f"going on with the search in {folder}" in stderr
        assert "to go on with this search: drumfire run" in stderr
        assert "Traceback" not in stderr
        if stdout:  # in the middle of a probe
            jsonschema.validate(json.loads(stdout), SCHEMA)
        assert not (folder / "result.json").exists()
        assert lines(folder)[: len(known)] == known
        known = lines(folder)

        process = start(folder)
        stdout, stderr = process.communicate(timeout=280)
    finally:
        process.kill()
    assert "Traceback" not in stderr
    result = json.loads(stdout)
    jsonschema.validate(result, SCHEMA)
    found = result["search"]
    assert lines(folder)[: len(known)] == known
    assert len(found["probes"]) == len(lines(folder)) - 1
    assert process.returncode == (0 if result["validity"] == "VALID" else 1), stderr
    if found["peak"] is None:  # where the machine had no time for it
        assert result["validity"] == "INVALID"
        assert "No peak was found" in result["reasons"][0]
        return
    assert result["validity"] == "VALID"
    assert result["asked"]["qps"] == found["peak"]
    assert found["peak"] < 210
    assert found["probes"][-1]["purpose"] == "confirm"
    assert result["system"]["qps_source"] == "search"
    assert (folder / "mlperf_log_summary.txt").read_text().count("Result is : VALID") == 1


def test_a_journal_of_other_options_is_refused(tmp_path: Path) -> None:
    process = start(tmp_path)
    try:
        probed(process, tmp_path, 1)
    finally:
        process.kill()
        process.communicate(timeout=30)
    other = [*SEARCH]
    other[other.index("0.1")] = "0.3"
    process = start(tmp_path, *other)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stdout == ""
    assert "is of another search" in stderr.splitlines()[-1]


@pytest.mark.parametrize("command", [["run"], ["audit", "TEST04"]])
def test_other_modes_end_with_their_verdicts(command: list[str], tmp_path: Path) -> None:
    audit = command[0] == "audit"
    arguments = [
        *command, "onnxruntime", "digits", "--scenario", "Server", "--qps", "600", "--max-latency", "2", "--time", "1",
        "--no-dashboard", "--json", "--trace", *([] if audit else ["--submission", "--until-confident", "30"]),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments, "--output", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
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
    assert sum(event.get("ph") == "b" for event in trace["traceEvents"]) == found["delivered"]["samples"]
