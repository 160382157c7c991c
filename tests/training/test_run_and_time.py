"""The script of one timed run, with a program of the test's own in place of Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from drumfire.loadgen.installation import ROOT


def run_script(tmp_path: Path, status: int, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script with 2 ranks and a program that prints its arguments and ends with ``status``."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "called with $*"\nexit {status}\n')
    program.chmod(0o755)
    own = {"PYTHON": str(program), "LOG_DIR": str(tmp_path / "logs"), "DGXNGPU": "2"}
    script = [ROOT / "training" / "run_and_time.sh"]
    return subprocess.run(script, env=os.environ | own | variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_the_result_is_told_only_after_success_and_the_status_is_the_programs(status: int, tmp_path: Path) -> None:
    done = run_script(tmp_path, status)
    assert done.returncode == status, done.stderr
    called, *told = done.stdout.splitlines()
    assert called.startswith("called with -m drumfire.training.launch --ranks 2 maskrcnn --data-dir ")
    assert [line.split(",")[:2] for line in told] == ([["RESULT", "OBJECT_DETECTION"]] if status == 0 else [])


def test_the_ranks_of_several_hosts_are_started_by_torchrun(tmp_path: Path) -> None:
    done = run_script(tmp_path, 0, NNODES="2", LAUNCH_PARAMS="--rdzv-backend=c10d")
    launched = "-m torch.distributed.run --rdzv-backend=c10d --nnodes=2 --nproc_per_node=2 -m drumfire.training "
    assert launched in done.stdout
    assert "--batch-size 32 " in done.stdout
