"""A run whose folder is spoilt while it lasts: the result is shown, then a line says what is not saved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drumfire.bench import statuses
from drumfire.bench.commands import run
from tests.support.command import here, result_of

QUIET = ["--no-dashboard"]


def replace_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("in the way")


def take_the_room_of_a_file(folder: Path) -> None:
    """The last file of a run cannot take the place of a folder."""
    (folder / "result.json").mkdir()


@pytest.mark.parametrize("spoil", [replace_by_a_file, take_the_room_of_a_file])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_result_that_cannot_be_saved_is_shown(
    spoil: Callable[[Path], None], as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    drive = run._drive

    def drive_and_spoil(*arguments: Any, **further: Any) -> None:
        drive(*arguments, **further)
        spoil(folder)

    monkeypatch.setattr(run, "_drive", drive_and_spoil)
    done = here("run", "null", "digits", "--time", "0.01", "--output", folder, *QUIET, *(["--json"] if as_json else []))
    assert done.returncode == statuses.UNSAVED == 74
    *_, line = done.stderr.splitlines()
    assert line.startswith(f"drumfire: the run could not be saved in {folder}: ")
    assert str(folder / "columns") in line or str(folder / "result.json") in line
    if as_json:
        result = result_of(done, 74)
        assert result["directory"] is None
        assert line == f"drumfire: {result['unsaved']}"
    else:
        assert done.stdout.startswith("Result is : ")
        assert "saved in" not in done.stdout


def test_an_interruption_is_more_than_a_result_that_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    drive = run._drive

    def drive_interrupt_and_spoil(test: Any, *arguments: Any, **further: Any) -> None:
        drive(test, *arguments, **further)
        test.interrupt("Ctrl-C")
        replace_by_a_file(folder)

    monkeypatch.setattr(run, "_drive", drive_interrupt_and_spoil)
    done = here("run", "null", "digits", "--time", "0.01", "--output", folder, *QUIET)
    assert done.returncode == statuses.INTERRUPTED
    assert "could not be saved" in done.stderr
    assert "Result is : " in done.stdout


def test_an_audit_ends_where_a_run_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "audit"
    drive = run._drive

    def drive_and_spoil(*arguments: Any, **further: Any) -> None:
        drive(*arguments, **further)
        replace_by_a_file(folder / "performance" / "run_1")

    monkeypatch.setattr(run, "_drive", drive_and_spoil)
    done = here("audit", "TEST05", "null", "digits", "--time", "0.01", "--output", folder, *QUIET)
    assert done.returncode == statuses.UNSAVED
    assert done.stderr.startswith(f"drumfire: the run could not be saved in {folder}/performance/run_1: ")
    assert not (folder / "audit.json").exists()
