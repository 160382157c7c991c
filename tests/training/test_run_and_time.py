"""The script of one timed run, with a program of the test's own in place of Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from drumfire.loadgen.installation import ROOT


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_the_result_is_told_only_after_success_and_the_status_is_the_programs(status: int, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "called with $*"\nexit {status}\n')
    program.chmod(0o755)
    done = subprocess.run(
        [ROOT / "training" / "run_and_time.sh"],
        env=os.environ | {"PYTHON": str(program), "LOG_DIR": str(tmp_path / "logs"), "DGXNGPU": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    called, *told = done.stdout.splitlines()
    assert "--nproc_per_node=2 -m drumfire.training maskrcnn" in called
    assert [line.split(",")[:2] for line in told] == ([["RESULT", "OBJECT_DETECTION"]] if status == 0 else [])
