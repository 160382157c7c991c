"""``drumfire show``: the report of a saved run, byte for byte, on a terminal and as JSON; old and unfinished runs."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drumfire.bench.peak.journal import Journal
from drumfire.bench.peak.search import Ask, Outcome, Probe
from drumfire.loadgen.installation import ROOT
from tests.support.command import drumfire, here, one_line_error
from tests.support.terminal import open_terminal

OLD = sorted((ROOT / "tests" / "loadgen" / "old_runs").iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("show") / "run"
    words = ["--scenario", "Server", "--qps", "1500", "--max-latency", "2", "--time", "0.4", "--no-dashboard"]
    assert here("run", "onnxruntime", "digits", *words, "--output", found).returncode == 0
    return found


def on_terminal(*words: object, columns: int) -> str:
    """What the command prints on a terminal of this width, which understands colours."""
    main, terminal = open_terminal()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "drumfire", *map(str, words)], stdout=terminal, stdin=terminal, env=environment
    )
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(main, 1 << 16):
            shown += part
    except OSError:  # the other end has been closed
        pass
    finally:
        os.close(main)
    assert process.wait(60) == 0
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("environment", [{}, {"COLUMNS": "200", "FORCE_COLOR": "1"}, {"PYTHONIOENCODING": "ascii"}])
def test_redirected_it_is_the_kept_report(folder: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    path = tmp_path / "shown"
    with path.open("wb") as file:
        command = [sys.executable, "-m", "drumfire", "show", folder]
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.PIPE, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert path.read_bytes() == (folder / "report.txt").read_bytes()
    lines = path.read_text().splitlines()
    assert lines[0] == "Result is : VALID"
    assert all(len(line) <= 80 for line in lines[:-1])


def test_a_folder_that_was_moved_is_named_where_it_is(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    kept, shown = (folder / "report.txt").read_text(), here("show", moved).stdout
    assert str(folder) in kept
    assert str(folder) not in shown
    assert shown.splitlines()[-1].split()[-1] == str(moved)


def test_a_run_prints_what_it_keeps(tmp_path: Path) -> None:
    words = ["--scenario", "Offline", "--qps", "1000", "--time", "0.1", "--no-dashboard"]
    done = here("run", "null", "digits", *words, "--output", tmp_path / "run")
    assert done.stdout.endswith((tmp_path / "run" / "report.txt").read_text())


def test_a_terminal_gets_colour_and_its_width(folder: Path) -> None:
    narrow, wide = (on_terminal("show", folder, columns=columns) for columns in (60, 200))
    assert narrow.startswith("\x1b[1;32mResult is : VALID\x1b[0m\n")
    assert wide.count("\n") < narrow.count("\n")


def test_letters_that_the_text_has_no_form_for(folder: Path, tmp_path: Path) -> None:
    """Such as of a file's name in another encoding."""
    result = json.loads((folder / "result.json").read_text())
    result["system"]["model"] = "caf\udce9 \u2713"
    (tmp_path / "result.json").write_text(json.dumps(result))
    done = drumfire("show", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "onnxruntime caf\\udce9 \u2713 cpu" in done.stdout


def test_json_is_the_result(folder: Path) -> None:
    done = drumfire("show", folder, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("old", OLD, ids=lambda path: path.name)
def test_old_runs_have_a_report(old: Path) -> None:
    done = here("show", old)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("Result is : INVALID\n  - ")
    assert f"\nscenario     {old.name.partition('-')[2]}, PerformanceOnly\n" in done.stdout
    assert done.stdout.replace("saved in\n", "saved in     ").endswith(f"saved in     {old}\n")


def test_an_unfinished_run_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_bytes((folder / "settings.json").read_bytes())
    (tmp_path / "columns").symlink_to(folder / "columns")
    done = here("show", tmp_path)
    assert (done.returncode, done.stderr) == (4, "")
    verdict, *lines = done.stdout.splitlines()
    assert verdict == "Result is : unfinished"
    rows = json.loads((folder / "result.json").read_text())["delivered"]["queries"]
    assert "scenario     Server, PerformanceOnly" in lines
    assert f"samples      {rows:,} issued, {rows:,} answered" in lines
    assert "system       onnxruntime digits cpu" in lines
    at = lines.index("command")
    assert lines[at + 1].startswith("drumfire run onnxruntime digits --scenario Server --qps 1500 ")
    assert "there        columns, settings.json" in lines
    (tmp_path / "settings.json").unlink()
    assert here("show", tmp_path).returncode == 4
    done = here("show", tmp_path, "--json")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("\n") == 1
    assert "unfinished" in done.stderr


def test_an_unfinished_run_shows_what_its_columns_have(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_bytes((folder / "settings.json").read_bytes())
    (tmp_path / "columns").symlink_to(folder / "columns")
    whole, lines = here("show", folder).stdout.splitlines(), here("show", tmp_path).stdout.splitlines()
    for label in ("latency ", "lateness "):
        (at,) = [number for number, line in enumerate(whole) if line.startswith(label)]
        assert whole[at] in lines
        assert whole[at + 1] in lines
    counts = dict.fromkeys(("issued", "ok", "generators"), 1) | dict.fromkeys(("failed", "unanswered", "missing"), 0)
    note = {"seen": "2026-01-02T03:04:05+00:00", "unsaved": None, **counts}
    (tmp_path / "unfinished.json").write_text(json.dumps(note))
    assert "seen at 2026-01-02T03:04:05+00:00" in " ".join(here("show", tmp_path).stdout.split())
    (tmp_path / "unfinished.json").write_text(json.dumps(note | {"unsaved": "No space left on device"}))
    assert "could not be saved: No space left on device" in here("show", tmp_path).stdout
    for damaged in ({**note, "generators": 10**9}, {**note, "generators": 0}, {"seen": "now"}, {**note, "ok": None}):
        (tmp_path / "unfinished.json").write_text(json.dumps(damaged))
        one_line_error(here("show", tmp_path), "unfinished.json")


def test_a_finished_run_that_lacks_columns_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes((folder / "result.json").read_bytes())
    counts = dict.fromkeys(("issued", "ok", "failed", "unanswered", "missing", "generators"), 1)
    note = {"seen": "2026-01-02T03:04:05+00:00", "unsaved": "No space left on device", **counts}
    (tmp_path / "unfinished.json").write_text(json.dumps(note))
    done = here("show", tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("Result is : VALID\n")
    (line,) = done.stderr.splitlines()
    assert line.endswith("No space left on device")


def test_a_run_under_way_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_bytes((folder / "settings.json").read_bytes())
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        done = here("show", tmp_path)
        assert done.returncode == 4
        assert "It is under way" in done.stdout
    finally:
        os.close(fd)
    assert "do it again" in here("show", tmp_path).stdout


def test_a_search_says_how_to_resume_it(tmp_path: Path) -> None:
    again = f"drumfire run null digits --find-peak-performance --output {tmp_path}"
    begun = again.replace(str(tmp_path), "x")
    journal = Journal(tmp_path / "search.jsonl", {"system": "null digits cpu"}, begun)
    journal.add(Probe(Ask(100.0, 1.0, 1, 0, "bracket", 1), Outcome(100, 0, 1.0, valid=False)))
    done = here("show", tmp_path)
    assert (done.returncode, done.stderr) == (4, "")
    assert "a search for the peak with 1 finished probe: " in done.stdout
    assert "do it again" not in done.stdout
    assert "system       null digits cpu" in done.stdout
    assert f"\nto resume    {again}\n" in done.stdout.replace("to resume\n", "to resume    ")


@pytest.mark.parametrize(
    ("changes", "status", "verdict"),
    [
        ({}, 1, "TEST04 is : FAIL\n  - performance: twice as fast\n"),
        ({"passed": True}, 0, "TEST04 is : PASS\n"),
        (
            {"interrupted": True},
            4,
            "TEST04 is : unfinished\n  - It ended before all of its runs were done: do it again.\n",
        ),
    ],
)
def test_an_audit_has_its_outcome_and_its_runs(
    changes: dict[str, bool], status: int, verdict: str, tmp_path: Path
) -> None:
    metric = {"name": "samples per second", "value": 1234.5, "unit": "1/s"}
    runs = {"usual": {"validity": "VALID", "metric": metric}, "audited": {"validity": "INVALID", "metric": None}}
    check = {"name": "performance", "passed": False, "text": "twice as fast"}
    outcome = {"test": "TEST04", "passed": False, "interrupted": False, "checks": [check], "runs": runs} | changes
    (tmp_path / "audit.json").write_text(json.dumps(outcome))
    done = here("show", tmp_path)
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.startswith(verdict)
    assert "usual run    VALID, 1,234/s, in performance/run_1\n" in done.stdout
    assert "audited run  INVALID, in TEST04/performance/run_1\n" in done.stdout
    assert json.loads(here("show", tmp_path, "--json").stdout) == outcome
    for damaged in ({**outcome, "test": "TEST09"}, {**outcome, "checks": [{}]}, {**outcome, "runs": 1}, {}):
        (tmp_path / "audit.json").write_text(json.dumps(damaged))
        one_line_error(here("show", tmp_path), "audit.json")


def test_what_is_no_run(tmp_path: Path) -> None:
    one_line_error(here("show", tmp_path), str(tmp_path), "not the folder of a run")
    one_line_error(here("show", tmp_path / "nowhere"), "nowhere", "no folder")
    one_line_error(here("show"), "RUN")
