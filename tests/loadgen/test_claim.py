"""The run's folder: claimed by one process, and checked before a run."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drumfire.loadgen.claim import Claim
from drumfire.loadgen.directory import OutputError
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.record import Record
from drumfire.loadgen.run import Test
from drumfire.loadgen.saved import load
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut.local.null import NullSystem, null_library


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def a_test() -> Test:
    settings = TestSettings(scenario=Scenario.Server, server_target_qps=1000.0, min_duration_ms=50, min_query_count=9)
    return Test(NullSystem(Mode.PerformanceOnly), null_library(), settings)


def test_a_folder_is_claimed_by_one_alone() -> None:
    with ThreadPoolExecutor(16) as threads:
        claims = list(threads.map(lambda _: Claim.new("same"), range(64)))
    folders = {claim.folder for claim in claims}
    assert len(folders) == 64
    assert all(path.is_dir() and path.parent == Path("runs") and "-same" in path.name for path in folders)
    for claim in claims:
        claim.close()


def test_processes_claim_different_folders(tmp_path: Path) -> None:
    code = (
        "from drumfire.loadgen.claim import Claim\n"
        "claims = [Claim.new('same') for _ in range(50)]\n"
        "for claim in claims: print(claim.folder)\n"
        "input()"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    claimed = [line for process in running for line in process.communicate("\n", timeout=60)[0].splitlines()]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(claimed) == len(set(claimed)) == 150


def test_a_claimed_folder_is_refused_to_others(tmp_path: Path) -> None:
    with Claim.take(tmp_path / "run"), pytest.raises(OutputError, match=r"another run is writing to .*--output"):
        Claim.take(tmp_path / "run")
    Claim.take(tmp_path / "run").close()


def test_who_inherits_the_descriptor_holds_the_claim(tmp_path: Path) -> None:
    claim = Claim.take(tmp_path / "run")
    heir = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[claim.fd])
    (tmp_path / "run" / "mine").write_text("")
    claim.close()
    with heir, pytest.raises(OutputError, match="another run is writing"):
        Claim.take(tmp_path / "run")
    Claim.take(tmp_path / "run").close()


def test_a_process_started_otherwise_does_not_hold_it(tmp_path: Path) -> None:
    claim = Claim.take(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as other:
        claim.close()
        Claim.take(tmp_path / "run").close()
        assert other.poll() is None


@pytest.mark.parametrize("name", ["deep/er/run", "run"])
def test_a_claim_without_a_run_leaves_nothing(name: str, tmp_path: Path) -> None:
    def interrupted() -> None:
        with Claim.take(tmp_path / name) as claim:
            claim.begin(a_test(), {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with Claim.new("any"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with Claim.take(tmp_path / "run"):
        pass
    assert (tmp_path / "run").is_dir()


def test_a_folder_that_its_holder_removes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening of the folder and its lock."""
    folder, lock, times = tmp_path / "run", fcntl.flock, 0

    def remove_and_lock(fd: int, how: int) -> None:
        nonlocal times
        times += 1
        if times == 1:
            folder.rmdir()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    with Claim.take(folder) as claim:
        assert times == 2
        assert os.path.samestat(os.fstat(claim.fd), folder.stat())


def test_what_is_known_before_the_run_is_there(tmp_path: Path) -> None:
    test = a_test()
    with Claim.take(tmp_path / "run") as claim:
        claim.begin(test, {"cpu": "any"})
    saved = load(tmp_path / "run")
    assert saved.unfinished
    assert (saved.requested, saved.effective) == (test.requested, test.effective)
    assert saved.environment == {"cpu": "any"}
    assert saved.columns == {}
    same = Record.attach(os.dup(test.record.fd), (tmp_path / "run" / "columns" / "layout.json").read_text())
    assert (same.scheduled == test.record.scheduled).all()


def test_ctrl_c_while_it_begins_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)  # the file under its partial name is there
    with pytest.raises(KeyboardInterrupt), Claim.take(tmp_path / "run") as claim:
        claim.begin(a_test(), {})
    assert list(tmp_path.iterdir()) == []


def test_room_for_the_result_is_held_during_the_run(tmp_path: Path) -> None:
    """In a file without a name, which ends with its process."""

    def held() -> int:
        files = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
        mine = [file for file in files if os.path.lexists(file) and os.readlink(file).startswith(f"{tmp_path}/run/")]
        return sum(file.stat().st_size for file in mine)

    with Claim.take(tmp_path / "run") as claim:
        claim.begin(a_test(), {})
        claim.begin(a_test(), {})
        assert held() == 256 * 1024
        assert {path.name for path in claim.folder.iterdir()} == {"settings.json", "environment.json", "columns"}
        claim.make_room()
        assert held() == 0


def test_the_folder_of_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with Claim.take(tmp_path / "run") as claim:
        claim.begin(a_test(), {})
    with pytest.raises(OutputError, match="holds an unfinished run: choose another --output"):
        Claim.take(tmp_path / "run")
    with pytest.raises(OutputError, match="unfinished"):
        Claim.take(tmp_path / "run", resumed="journal")
    (tmp_path / "run" / "journal").write_text("")
    Claim.take(tmp_path / "run", resumed="journal").close()


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(OutputError, match="already holds a run"):
        Claim.take(tmp_path)
    with pytest.raises(OutputError, match="already holds a run"):
        Claim.take(tmp_path, resumed="result.json")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot write to runs: .*; choose another --output"):
        Claim.new("any")
    with pytest.raises(OutputError, match=r"choose another --output"):
        Claim.take(tmp_path / "runs" / "run")
    with pytest.raises(OutputError, match=r"choose another --output"):
        Claim.take(tmp_path / "runs")


def test_a_folder_that_cannot_be_locked_is_claimed_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Claim.take(tmp_path / "run") as claim:
        assert "without locks" in str(claim.note)


def test_a_run_larger_than_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")(4_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="make room"), Claim.take(tmp_path / "run") as claim:
        claim.begin(a_test(), {})
    assert not (tmp_path / "run").exists()
