"""A run that cannot be saved as a whole: its verdict is told, then a line says what is not saved."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drumfire.bench import outcome, statuses
from drumfire.bench.cli import main
from drumfire.bench.commands import run
from drumfire.loadgen import directory, trace
from drumfire.loadgen.record import Record
from tests.support.command import SMALL, WHOLE, here, result_of

QUIET = ["--no-dashboard"]


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def spoil(monkeypatch: pytest.MonkeyPatch, how: Callable[[], object]) -> None:
    """Let something happen between the run and its end."""
    drive = run._drive

    def drive_and_spoil(*arguments: Any, **further: Any) -> None:
        drive(*arguments, **further)
        how()

    monkeypatch.setattr(run, "_drive", drive_and_spoil)


def replace_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("in the way")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_folder_replaced_by_a_file(as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    spoil(monkeypatch, lambda: replace_by_a_file(folder))
    done = here("run", "null", "digits", "--time", "0.01", "--output", folder, *QUIET, *(["--json"] if as_json else []))
    assert done.returncode == statuses.UNSAVED == 74
    *_, line = done.stderr.splitlines()
    assert line.startswith(f"drumfire: the run could not be saved in {folder} as a whole, it lacks settings.json, ")
    assert all(name in line for name in WHOLE)
    assert line.endswith("(Not a directory)")
    if as_json:
        result_of(done, 74)
    else:
        assert done.stdout.startswith("Result is : ")
        assert "saved in" not in done.stdout


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    spoil(monkeypatch, lambda: shutil.rmtree(folder))
    done = here("run", "null", "digits", "--time", "0.01", "--output", folder, *QUIET)
    assert done.returncode in (statuses.VALID, statuses.INVALID)
    assert {path.name for path in folder.iterdir()} == WHOLE


def test_each_part_is_tried_and_those_that_fail_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"

    def half(record: Record, columns: Path) -> None:
        (columns / "issued.npy").write_bytes(b"half")
        no_room()

    monkeypatch.setattr(Record, "save", half)
    monkeypatch.setattr(trace, "write", no_room)
    spoil(monkeypatch, lambda: (folder / "result.json").mkdir())
    done = here("run", "null", "digits", "--time", "0.01", "--output", folder, "--trace", *QUIET)
    assert done.returncode == statuses.UNSAVED
    *_, line = done.stderr.splitlines()
    where = f"drumfire: the run could not be saved in {folder} as a whole, it lacks "
    assert line == f"{where}result.json (Is a directory); columns, mlperf_log_trace.json (No space left on device)"
    assert {path.name for path in folder.iterdir()} == WHOLE
    assert [path.name for path in (folder / "columns").iterdir()] == ["layout.json"]


def test_a_disk_that_is_full_takes_nothing_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"

    def fill_disk() -> None:
        for name in ("write_text", "write_bytes"):
            monkeypatch.setattr(Path, name, no_room)
        monkeypatch.setattr(directory, "in_one_step", no_room)

    spoil(monkeypatch, fill_disk)
    done = here("run", "null", "digits", "--time", "0.01", "--output", folder, *QUIET)
    assert done.returncode == statuses.UNSAVED
    assert "it lacks result.json, mlperf_log_summary.txt, report.txt, " in done.stderr
    assert {path.name for path in folder.iterdir()} >= {"settings.json", "environment.json", "columns"}
    assert "environment" not in done.stderr


def test_what_is_small_is_saved_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, there = tmp_path / "run", set[str]()
    monkeypatch.setattr(Record, "save", lambda *_: there.update(path.name for path in folder.iterdir()))
    done = here("run", "null", "digits", "--time", "0.01", "--output", folder, *QUIET)
    assert done.returncode in (statuses.VALID, statuses.INVALID)
    assert there == SMALL


@pytest.mark.parametrize("as_json", [False, True])
def test_the_verdict_is_told_before_it_is_saved(
    as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    save = directory.save

    def look_and_save(*arguments: Any) -> None:
        told.append(capsys.readouterr().out)
        save(*arguments)

    monkeypatch.setattr(directory, "save", look_and_save)
    words = ["run", "null", "digits", "--time", "0.01", "--output", str(tmp_path / "run"), *QUIET]
    main([*words, *(["--json"] if as_json else [])])
    (first,) = told
    if as_json:
        assert json.loads(first)["directory"] == str(tmp_path / "run")
    else:
        assert first.startswith("Result is : ")
        assert capsys.readouterr().out.split() == ["saved", "in", str(tmp_path / "run")]
        whole = (tmp_path / "run" / "report.txt").read_text()
        assert whole.startswith(first)
        assert whole.removeprefix(first).split() == ["saved", "in", str(tmp_path / "run")]


def test_a_reader_that_does_not_read_does_not_keep_it_from_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, told = threading.Event(), []
    save = directory.save

    def save_and_report(*arguments: Any) -> None:
        save(*arguments)
        saved.set()

    monkeypatch.setattr(outcome, "SHOW_S", 0.01)
    monkeypatch.setattr(directory, "save", save_and_report)
    monkeypatch.setattr(outcome.Printer, "verdict", lambda *_: told.append(saved.wait(30)))
    done = here("run", "null", "digits", "--time", "0.01", "--output", tmp_path / "run", *QUIET)
    assert done.returncode in (statuses.VALID, statuses.INVALID)
    assert told == [True]
    assert done.stdout.split() == ["saved", "in", str(tmp_path / "run")]


@pytest.mark.parametrize("fault", ["verdict", "_document"])
def test_a_fault_of_ours_leaves_what_was_measured(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(outcome.Printer if fault == "verdict" else run, fault, lambda *_: 1 // 0)
    done = here("run", "null", "digits", "--time", "0.01", "--output", folder, *QUIET)
    assert done.returncode == statuses.CRASH
    assert "ZeroDivisionError" in done.stderr
    assert {path.name for path in folder.iterdir()} >= WHOLE - {"result.json", "report.txt"}
    assert (folder / "result.json").exists() == (fault == "verdict")
    assert (folder / "columns" / "completed.npy").exists()


def test_a_fault_of_ours_in_one_part_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(Record, "save", lambda *_: 1 // 0)
    done = here("run", "null", "digits", "--time", "0.01", "--output", folder, *QUIET)
    assert done.returncode == statuses.CRASH
    assert "it lacks columns (ZeroDivisionError: " in done.stderr
    assert {path.name for path in folder.iterdir()} == WHOLE


def test_a_run_that_raises_is_saved_as_far_as_it_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    spoil(monkeypatch, lambda: 1 // 0)
    done = here("run", "null", "digits", "--time", "0.01", "--output", folder, *QUIET)
    assert done.returncode == statuses.CRASH
    assert done.stdout.startswith("Result is : ")
    assert {path.name for path in folder.iterdir()} == WHOLE


def test_a_run_that_raises_before_anything_was_measured_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_drive", lambda *_, **__: 1 // 0)
    done = here("run", "null", "digits", "--time", "0.01", "--output", tmp_path / "run", *QUIET)
    assert done.returncode == statuses.CRASH
    assert not (tmp_path / "run").exists()


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
    spoil(monkeypatch, lambda: replace_by_a_file(folder / "performance" / "run_1"))
    done = here("audit", "TEST05", "null", "digits", "--round", "v2.1", "--time", "0.01", "--output", folder, *QUIET)
    assert done.returncode == statuses.UNSAVED
    assert done.stderr.startswith(f"drumfire: the run could not be saved in {folder}/performance/run_1 as a whole, ")
    outcome = json.loads((folder / "audit.json").read_text())
    assert (outcome["interrupted"], outcome["passed"], outcome["runs"]) == (True, False, {})
