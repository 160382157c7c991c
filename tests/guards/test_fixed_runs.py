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
    """Of this checkout, in a process whose time is virtual."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "tests.guards.fixed_runs"]
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
