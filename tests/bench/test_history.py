"""Which run a word means, and when a word is a time."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drumfire.bench.history import age_of, find, moment_of, runs_in
from drumfire.loadgen.errors import UserError
from tests.support.command import here, one_line_error


def run(folder: Path, days: float, **further: object) -> None:
    """A result with what a list needs."""
    folder.mkdir(parents=True)
    began = datetime(2026, 11, 30, tzinfo=UTC) - timedelta(days=days)
    result = {"tool": "Drumfire 0.9", "validity": "VALID", "started": began.isoformat()} | further
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs of 1 to 4 days ago; that of 4 is in a folder of its own, and the newest is unfinished."""
    for days, name in ((1, "20261129-digits"), (2, "20261128-digits"), (3, "20261127-shapes"), (4, "set/four")):
        run(tmp_path / name, days, validity="INVALID" if days == 2 else "VALID")
    half = tmp_path / "20261130-half"
    half.mkdir()
    (half / "settings.json").write_text('{"requested": {}, "effective": {}}')
    os.utime(half / "settings.json", (4e9, 4e9))
    return tmp_path


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("last", "20261129-digits"),
        ("last~0", "20261129-digits"),
        ("last~1", "20261128-digits"),
        ("last~3", "set/four"),
        ("1128", "20261128-digits"),
        ("shapes", "20261127-shapes"),
        ("half", "20261130-half"),
        ("fou", "set/four"),
        ("set/f", "set/four"),
    ],
)
def test_a_word_means_a_run(word: str, name: str, runs: Path) -> None:
    assert find(word, runs) == runs / name


def test_the_runs_of_a_session_count_as_one(runs: Path) -> None:
    for days, name in ((0.3, "A/1"), (0.2, "B/1")):
        run(runs / "20261130-ab" / name, days)
    (runs / "20261130-ab" / "session.jsonl").write_text('{"session": {}, "again": "drumfire ab"}\n')
    assert find("last", runs, sessions=True) == runs / "20261129-digits"
    (runs / "20261130-ab" / "ab.json").write_text("{}")
    assert find("last", runs, sessions=True) == runs / "20261130-ab"
    assert find("last~1", runs) == runs / "20261129-digits"
    assert find("1130-ab", runs, sessions=True) == runs / "20261130-ab"
    assert find("ab/B/1", runs) == runs / "20261130-ab" / "B" / "1"
    for word in ("last", "1130-ab"):
        with pytest.raises(UserError, match=f"{word} is .*-ab, several runs by ab or sweep: .* such as .*-ab/A/1"):
            find(word, runs)
    assert [one.session for one in runs_in(runs) if one.session] == [str(runs / "20261130-ab")] * 2


def test_a_path_is_itself(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    (runs / "last").mkdir()
    assert find("last", runs) == Path("last")
    assert find(str(runs), runs) == runs


def test_a_whole_name_is_no_part_of_another(runs: Path) -> None:
    run(runs / "20261128-digits-2", 0.5)
    assert find("20261128-digits", runs) == runs / "20261128-digits"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("digits", "digits can mean .*20261128-digits, .*20261129-digits: write more of the name"),
        ("2026", "20261130-half: write more"),
        ("none", "none is no folder, and no run in .* has it in its name"),
        ("set/shapes", "set/shapes is no folder, and no run"),
        ("last~4", "there is no last~4: .* has 4 finished runs"),
        ("last~-1", "last~-1 is no folder"),
        ("x" * 5000, "is no folder"),
        ("a\0b", "is no folder"),
    ],
)
def test_what_means_no_run_or_several(word: str, says: str, runs: Path) -> None:
    with pytest.raises(UserError, match=says):
        find(word, runs)


def test_without_any_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no last: .* has no finished run"):
        find("last", tmp_path)
    with pytest.raises(UserError, match=r"there is no last: .* has no finished run"):
        find("last", tmp_path / "none")


def test_what_began_after_the_last_finished_run_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    find("last", runs)
    later = f"what began later is not a finished run: {runs}/20261130-half (unfinished)"
    assert capsys.readouterr().err == f"note: last is {runs}/20261129-digits; {later}\n"
    (runs / "20261130-half" / "settings.json").unlink()
    find("last", runs)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["show", "report"])
def test_commands_take_such_words(command: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs / "here").mkdir()
    monkeypatch.chdir(runs / "here")
    (runs / "here" / "runs").symlink_to(runs)
    one_line_error(here(command, "digits"), "digits can mean runs/20261128-digits, runs/20261129-digits")
    done = here("compare", "last~3", "1128")
    assert "runs/set/four" in done.stdout + done.stderr


def test_the_start_of_an_unfinished_run_is_when_its_settings_were_saved(runs: Path) -> None:
    (runs / "20261130-half" / "columns").mkdir()  # which changes the folder, as what is removed later does
    assert runs_in(runs)[0].began == datetime.fromtimestamp(4e9, UTC)


@pytest.mark.parametrize(
    "changed",
    [
        {"metric": {"name": "x", "value": "fast", "unit": "ns"}},
        {"validity": 3},
        {"validity": "VALID?"},
        {"latency_ns": {"p99": "x"}},
        {"system": []},
        {"scenario": None},
    ],
)
def test_a_result_that_is_not_one_is_named_damaged(changed: dict[str, object], runs: Path) -> None:
    run(runs / "broken", 0, **changed)
    assert {one.state for one in runs_in(runs) if one.folder.endswith("broken")} == {"damaged"}
    done = here("history", runs)
    assert done.returncode == 0
    assert "damaged" in done.stdout


def test_ages_and_moments() -> None:
    assert [age_of(text) for text in ("30d", "12 h", "2w", "90m", "1.5")] == [
        timedelta(days=30), timedelta(hours=12), timedelta(weeks=2), timedelta(minutes=90), timedelta(hours=36),
    ]  # fmt: skip
    assert moment_of("2026-11-30T18:00+00:00") == datetime(2026, 11, 30, 18, tzinfo=UTC)
    assert moment_of("2026-11-30") == datetime(2026, 11, 30).astimezone()
    assert abs(datetime.now(UTC) - timedelta(days=30) - moment_of("30d")) < timedelta(minutes=1)


@pytest.mark.parametrize("text", ["30x", "d", "-3d", "999999999w", "nan", "٣d"])
def test_what_is_no_age_is_a_line(text: str, tmp_path: Path) -> None:
    one_line_error(here("history", "prune", tmp_path, f"--older-than={text}"), text)


@pytest.mark.parametrize("text", ["30", "30x", "0001-01-01", "999999d", "2026-13-01", "yesterday"])
def test_what_is_no_time_is_a_line(text: str, tmp_path: Path) -> None:
    one_line_error(here("history", tmp_path, "--since", text), text)
