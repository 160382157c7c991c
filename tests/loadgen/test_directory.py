"""The run's folder: claimed by one process, and checked before a run."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drumfire.loadgen import directory
from drumfire.loadgen.installation import ROOT


def test_a_folder_is_claimed_by_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(16) as threads:
        claimed = list(threads.map(lambda _: directory.claim("same"), range(64)))
    assert len(set(claimed)) == 64
    assert all(path.is_dir() and path.parent == Path("runs") and "-same" in path.name for path in claimed)


def test_processes_claim_different_folders(tmp_path: Path) -> None:
    code = "from drumfire.loadgen.directory import claim\nfor _ in range(50): print(claim('same'))"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    claimed = [line for process in running for line in process.communicate(timeout=60)[0].splitlines()]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(claimed) == len(set(claimed)) == 150


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(directory.OutputError, match=r"cannot write to runs: .*; choose another --output"):
        directory.claim("any")
