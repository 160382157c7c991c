"""The fixed runs leave what they left before: traffic, order of issue, columns, results and logs (``fixed_runs``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drumfire.loadgen.installation import ROOT

HASHES: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("fixed_runs.json").read_text(encoding="utf-8"))
HELP = (
    "Where this is meant: python -m tests.guards.fixed_runs --write, and say in the commit why it moved. "
    "To see what moved: --keep FOLDER in each of two checkouts, then diff -r."
)


@pytest.fixture(scope="module")
def hashes() -> dict[str, dict[str, str]]:
    return hashes_of()


def hashes_of(*words: str) -> dict[str, dict[str, str]]:
    """Of this checkout, in a process whose time is virtual."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "tests.guards.fixed_runs", *words]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_runs_are_the_ones_recorded(hashes: dict[str, dict[str, str]]) -> None:
    assert sorted(hashes) == sorted(HASHES), HELP


@pytest.mark.parametrize("run", HASHES)
def test_a_fixed_run_leaves_what_it_left(run: str, hashes: dict[str, dict[str, str]]) -> None:
    now, before = hashes.get(run, {}), HASHES[run]
    moved = sorted(part for part in now.keys() | before.keys() if now.get(part) != before.get(part))
    assert not moved, f"The run {run!r} differs in: {', '.join(moved)}. {HELP}"


@pytest.mark.parametrize("warm_up", ["70", pytest.param("0.15s", marks=pytest.mark.slow)])
def test_a_warm_up_leaves_the_measured_part_as_it_is(warm_up: str) -> None:
    """The columns to the last bit, the evaluated results, and the logs that have no times of day."""
    found = hashes_of("--warm-up", warm_up)
    assert len(found) > 10
    for run, now in found.items():
        before = HASHES[run]
        same = {"results", "mlperf_log_accuracy.json", "mlperf_log_summary.txt"}
        same |= {part for part in before if part.startswith("column ")}
        assert len(same) > 7
        assert {part: now[part] for part in same} == {part: before[part] for part in same}, run
        assert now["calls"] != before["calls"], run
