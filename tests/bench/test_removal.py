"""What ``drumfire history prune`` takes for a session, and that it removes nothing else with it."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from drumfire.bench.cli import main
from drumfire.bench.history import find
from drumfire.loadgen.errors import UserError
from tests.support.command import here

JOURNAL = '{"session": {}, "again": "drumfire ab"}\n'


def run(folder: Path, hour: int) -> None:
    """A finished run with hardly anything in it."""
    (folder / "columns").mkdir(parents=True)
    (folder / "columns" / "latency.npy").write_text("any")
    result = {"tool": "Drumfire 0.1.0", "validity": "VALID", "started": f"2026-11-30T{hour:02}:00:00+00:00"}
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def session(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "mine"
    for hour, place in enumerate(("A/1", "B/1", "interrupted/B-2-1", "qps=1e3_max-batchsize=4/12")):
        run(folder / place, hour)
    (folder / "session.jsonl").write_text(JOURNAL)
    (folder / "sweep.json").write_text("{}")
    return folder


def inside(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def pruned(folder: Path, *rules: Any) -> Any:
    return here("history", "prune", folder, "--keep", 0, "--yes", *rules)


@pytest.mark.parametrize("place", ["config/prod/settings.json", "A/notes/report.txt", "A/1x/result.json", "photos/1/"])
def test_files_with_the_names_of_a_runs_are_still_not_a_sessions(place: str, session: Path) -> None:
    where = session / place
    if place.endswith("/"):
        where.mkdir(parents=True)
    else:
        where.parent.mkdir(parents=True)
        where.write_text('{"mine": "precious"}')
    before = inside(session)
    done = pruned(session.parent)
    assert "no run writes: move that first" in done.stderr
    assert inside(session) == before


@pytest.mark.parametrize("text", ['{"role": "user", "text": "hello"}\n', "", "precious", '{"session": 3}\n'])
def test_the_session_of_another_program_is_none(text: str, tmp_path: Path) -> None:
    for hour, place in enumerate(("old", "new")):
        run(tmp_path / "runs" / place, hour)
    for folder in (tmp_path, tmp_path / "runs"):
        (folder / "session.jsonl").write_text(text)
    listed = here("history", tmp_path).stdout.splitlines()[1:]
    assert [line.split()[-1] for line in listed] == [str(tmp_path / "runs" / name) for name in ("new", "old")]
    done = here("history", "prune", tmp_path, "--keep", 1, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.name.endswith((".json", ".jsonl"))}
    assert left == {"session.jsonl", "runs/session.jsonl", "runs/new/result.json"}


@pytest.mark.parametrize("is_claimed", [True, False])
def test_no_link_is_a_way_to_a_run_of_a_session(is_claimed: bool, session: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(session / "A")
    fd = os.open(session, os.O_RDONLY)
    try:
        if is_claimed:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        before = inside(session)
        done = pruned(tmp_path / "link")
        assert f"kept {tmp_path / 'link' / '1'}: it" in done.stderr
        assert inside(session) == before
    finally:
        os.close(fd)


def test_the_journal_of_a_session_goes_last(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is interrupted before that can be removed by another call."""
    removed = []
    unlink = Path.unlink

    def note(path: Path) -> None:
        removed.append(path.name)
        unlink(path)

    monkeypatch.setattr(Path, "unlink", note)
    assert pruned(session.parent).returncode == 0
    assert removed[-1] == "session.jsonl"
    assert not session.exists()


@pytest.mark.parametrize("empty", ["A/2", "A", "B"])
def test_a_session_that_was_removed_in_part_can_be_removed(empty: str, session: Path) -> None:
    for path in ("columns/latency.npy", "columns", "result.json", "."):
        where = session / "B" / "1" / path
        where.rmdir() if where.is_dir() else where.unlink()
    (session / empty).mkdir(exist_ok=True)
    assert pruned(session.parent).stderr == ""
    assert not session.exists()


@pytest.mark.parametrize("place", ["interrupted/B-2-1", "A", ".", ".."])
@pytest.mark.parametrize("really", [True, False])
def test_nothing_is_removed_of_what_cannot_be_removed_whole(
    place: str, really: bool, session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    locked = session / place
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path).resolve() != locked.resolve() and access(path, mode)
    )
    before = inside(session)
    done = here("history", "prune", session.parent, "--keep", 0, *(["--yes"] if really else []))
    assert done.returncode == 1
    assert f"kept {session}: {locked.resolve()} cannot be written to" in done.stderr
    assert inside(session) == before


def test_another_run_in_the_folder_of_a_session_is_none_of_its(session: Path) -> None:
    """Nor is one of a session inside it."""
    for hour, place in enumerate(("alone", "set/alone", "set/ab/A/1"), 10):
        run(session / place, hour)
    (session / "set" / "ab" / "session.jsonl").write_text(JOURNAL)
    listed = [(line.split()[2], line.split()[-1]) for line in here("history", session).stdout.splitlines()[1:]]
    assert [(state, folder) for state, folder in listed if folder.startswith("/")] == [
        ("resumable", str(session / "set/ab")),
        ("VALID", str(session / "set/alone")),
        ("VALID", str(session / "alone")),
        ("resumable", str(session)),
    ]
    done = here("history", "prune", session / "set", "--keep", 1, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (session / "set/alone").exists()
    assert f"kept {session}: it holds" in here("history", "prune", session, "--keep", 2, "--yes").stderr
    assert pruned(session).stderr == ""
    assert not session.exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("rule", [["--unfinished"], ["--keep", "1"]])
def test_what_has_changed_while_a_person_was_asked_is_kept(
    rule: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for hour, place in enumerate(("old", "mine", "newest")):
        run(tmp_path / place, hour)
    finished = (tmp_path / "mine" / "result.json").rename(tmp_path / "result.json")
    (tmp_path / "mine" / "settings.json").write_text('{"requested": {}, "effective": {}}')
    os.utime(tmp_path / "mine" / "settings.json", (0, 0))

    def answer(_: str) -> str:
        finished.rename(tmp_path / "mine" / "result.json")
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", Terminal())
    assert main(["history", "prune", str(tmp_path), *rule]) == 0
    assert f"kept {tmp_path / 'mine'}: it has changed since the question" in capfd.readouterr().err
    assert (tmp_path / "mine" / "result.json").exists()
    assert (tmp_path / "old").exists() == (rule == ["--unfinished"])


def test_a_session_without_a_run_is_listed_and_removed(session: Path) -> None:
    """Such as one that was killed, or whose removal was interrupted."""
    for path in session.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    (session / "sweep.json").unlink()
    (session / "A" / "1").mkdir(parents=True)
    (line,) = here("history", session.parent).stdout.splitlines()[1:]
    assert (line.split()[2], line.split()[-1]) == ("resumable", str(session))
    assert here("history", "prune", session.parent, "--unfinished", "--yes").stdout == "removed 0 runs, 0.00 kB\n"
    assert find("mine", session.parent, sessions=True) == session
    with pytest.raises(UserError, match="several runs by ab or sweep"):
        find("mine", session.parent)
    assert pruned(session.parent).stderr == ""
    assert not session.exists()
