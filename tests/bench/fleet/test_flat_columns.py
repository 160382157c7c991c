"""Flat columns of whole runs: a system that records several times a row, alone and in generators.

``tests/support/recording_run.py`` says what a row records.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from drumfire.loadgen.record import Status
from drumfire.loadgen.saved import SavedRun
from tests.support.command import await_answers, columns, finished, result_of, start
from tests.support.recording_run import WIDTH, fails, values_of
from tests.support.scripted_peer import Peer

SERVER = ["--scenario", "Server", "--max-latency", "20", "--json"]


def run(peer: Peer, folder: Path, *more: object) -> subprocess.Popen[str]:
    words = ["run", "triton", "echo", "--url", peer.url, "--output", folder, *SERVER, *more]
    return start(*words, script="recording_run.py")


def check(folder: Path) -> list[list[int]]:
    """Each answered or failed row has its values, and no other row has any; returns the values by row."""
    found, flat = columns(folder), SavedRun(folder).flat_columns["marks"]
    rows = [flat[row].tolist() for row in range(len(flat))]
    assert len(rows) == found["status"].size > 0
    for row, (status, sample) in enumerate(zip(found["status"].tolist(), found["sample_index"].tolist(), strict=True)):
        values = values_of(sample)
        expected = values if len(values) <= WIDTH else [*values[: WIDTH - 1], values[-1]]
        assert status != (Status.OK if fails(sample) else Status.FAILED)
        assert rows[row] == (expected if status in (Status.OK, Status.FAILED) else []), row
    return rows


@pytest.mark.parametrize("workers", [(), ("--workers", 2)], ids=["alone", "two generators"])
def test_rows_keep_their_values_failed_ones_too(tmp_path: Path, workers: tuple[object, ...]) -> None:
    with Peer("grpc") as peer:
        done = finished(run(peer, tmp_path / "out", "--qps", 500, "--time", 0.6, "--no-dashboard", *workers))
    result = result_of(done, 1)
    rows = check(tmp_path / "out")
    assert [] in rows
    status = columns(tmp_path / "out")["status"]
    assert np.count_nonzero(status == Status.FAILED) == result["errors"]["failed"] > 0
    lost = sum(max(len(values_of(sample)) - WIDTH, 0) for sample in columns(tmp_path / "out")["sample_index"].tolist())
    assert any(f"{lost} values of marks had no room" in text for text in result["warnings"])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--workers", 2)], ids=["alone", "two generators"])
def test_an_interrupted_run_keeps_what_was_recorded(tmp_path: Path, workers: tuple[object, ...]) -> None:
    with Peer("grpc") as peer:
        process = run(peer, tmp_path / "out", "--qps", 300, "--time", 60, *workers)
        await_answers(process)
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGINT)
        result_of(finished(process), 130)
    rows = check(tmp_path / "out")
    assert sum(map(len, rows)) > 100
