"""What a killed run leaves: all that was answered, whoever was killed and when.

What is killed here was started here.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import drumfire
from drumfire.bench import statuses
from drumfire.bench.keeper import Keeper
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.flat_columns import Flat
from drumfire.loadgen.record import Gauge, Record, Status
from drumfire.loadgen.saved import load
from drumfire.loadgen.share import Slice
from drumfire.sut import module_process
from tests.support.command import columns, finished, here, start
from tests.support.scripted_peer import Peer, until

MINUTE = ["--scenario", "Server", "--time", "60", "--max-latency", "2000", "--no-dashboard", "--qps"]
ENDED = "drumfire: the run's process ended before it had saved: "


class Broken(Exception):
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A run's folder, and its descriptor."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield tmp_path, fd
    os.close(fd)


def table(rows: int = 10, issued: int = 7, answered: int = 5, extra: Any = None, spare: int = 0) -> Record:
    """A run's first rows; its gauges are a few rows behind, as in a run."""
    record = Record(rows, extra, spare)
    record.sample_index[:rows] = np.arange(rows) * 3
    record.scheduled[:rows] = np.arange(rows) * 100
    record.issued[:issued] = record.scheduled[:issued] + 1
    record.completed[:answered] = record.issued[:answered] + 10
    record.status[:answered] = Status.OK
    record.gauges[Gauge.ISSUED], record.gauges[Gauge.ANSWERED] = issued - 2, answered - 2
    return record


def leave_broken(record: Record, fd: int, *children: Any) -> None:
    """The end of a run's process, to its keeper: here, that of the block."""
    with contextlib.suppress(Broken), Keeper(record, fd) as keeper:
        for child in children:
            keeper.take(child)
        raise Broken


def test_what_was_issued_is_saved_and_what_has_no_answer_is_unanswered(folder: tuple[Path, int]) -> None:
    path, fd = folder
    record = table(extra={"marks": Flat(np.int64, 2)}, spare=5)
    record.issued[10:] = record.status[10:] = 1  # a warm-up's
    for row in range(5):
        record.flat_columns["marks"].append(row, row)
    leave_broken(record, fd)
    saved = load(path)
    assert saved.unfinished
    for name in ("sample_index", "scheduled", "issued", "completed"):
        assert saved.columns[name].tolist() == record.columns[name][:7].tolist()
    assert saved.columns["status"].tolist() == [Status.OK] * 5 + [Status.UNANSWERED] * 2
    assert [values.tolist() for values in map(saved.flat_columns["marks"].__getitem__, range(7))] == [
        *([row] for row in range(5)), [], []
    ]  # fmt: skip
    assert saved.ended is not None
    counts = {"issued": 7, "ok": 5, "failed": 0, "unanswered": 2, "missing": 0, "generators": 1, "unsaved": None}
    assert {name: saved.ended[name] for name in counts} == counts
    assert not list(path.rglob("*.partial"))


def test_generators_rows_are_put_together(folder: tuple[Path, int]) -> None:
    """One is further than the other; neither had told the driver anything."""
    path, fd = folder
    whole = table(rows=20, issued=0, answered=0)
    children, shares = [], [Slice(0, 2, 2), Slice(1, 2, 2)]
    for share, issued, answered in zip(shares, (8, 4), (6, 4), strict=True):
        part = Record(10)
        theirs = share.whole(np.arange(10))
        part.sample_index[:], part.scheduled[:] = whole.sample_index[theirs], whole.scheduled[theirs]
        part.issued[:issued] = part.scheduled[:issued] + 1 + share.part
        part.completed[:answered] = part.issued[:answered] + 10
        part.status[:answered] = Status.OK
        part.gauges[Gauge.DONE] = 1
        children.append(SimpleNamespace(record=part, pid=os.getpid(), assignment=SimpleNamespace(slice=share)))
    whole.gauges[Gauge.ISSUED] = 1  # the driver counts what it has been told
    leave_broken(whole, fd, *children)
    saved = load(path)
    ok, unanswered, missing = Status.OK, Status.UNANSWERED, Status.MISSING
    expected = [ok] * 8 + [ok, ok, missing, missing] + [unanswered] * 2
    assert saved.columns["status"].tolist() == expected
    known = np.array(expected) != missing
    late = saved.columns["issued"][known] - saved.columns["scheduled"][known]
    assert late.tolist() == [1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 1, 1]
    assert saved.columns["sample_index"].tolist() == whole.sample_index[:14].tolist()
    assert saved.ended is not None
    assert (saved.ended["issued"], saved.ended["generators"]) == (12, 2)


def test_what_the_run_has_saved_stays_and_the_rest_is_added(
    folder: tuple[Path, int], capfd: pytest.CaptureFixture[str]
) -> None:
    path, fd = folder
    record = table()
    (path / "columns").mkdir()
    (path / "result.json").write_text("{}")
    np.save(path / "columns" / "issued.npy", np.arange(3))
    (path / "columns" / "status.npy.partial").write_bytes(b"half")
    leave_broken(record, fd)
    found = columns(path)
    assert found["issued"].tolist() == [0, 1, 2]
    assert found["completed"].tolist() == record.completed[:7].tolist()
    assert found["status"].tolist() == [1] * 5 + [3] * 2
    assert sorted(one.name for one in path.iterdir()) == ["columns", "result.json"]
    assert not list(path.rglob("*.partial"))
    assert "its result and its columns are whole" in capfd.readouterr().err


def test_a_block_left_in_order_leaves_nothing(folder: tuple[Path, int], capfd: pytest.CaptureFixture[str]) -> None:
    path, fd = folder
    with Keeper(table(), fd) as keeper:
        pid = keeper._process.pid
    assert list(path.iterdir()) == []
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(Broken), Keeper(Record(10), fd):
        raise Broken  # before anything was issued
    assert list(path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_signals_to_all_leave_the_keeper(folder: tuple[Path, int]) -> None:
    path, fd = folder
    with contextlib.suppress(Broken), Keeper(table(), fd) as keeper:
        assert os.getsid(keeper._process.pid) == keeper._process.pid != os.getsid(0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            os.kill(keeper._process.pid, number)
        raise Broken
    assert load(path).columns["status"].size == 7


def test_a_keeper_that_is_killed_costs_a_warning(folder: tuple[Path, int], capfd: pytest.CaptureFixture[str]) -> None:
    _, fd = folder
    with Keeper(table(), fd) as keeper:
        keeper._process.kill()
        keeper._process.wait()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert "-9" in line


def test_a_keeper_that_cannot_start_costs_a_warning(
    folder: tuple[Path, int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(module_process, "start", fail)
    done = here("run", "null", "digits", "--time", "0.01", "--no-dashboard", "--output", folder[0] / "run")
    assert done.returncode in (statuses.VALID, statuses.INVALID)
    (line,) = [line for line in done.stderr.splitlines() if "killed" in line]
    assert line.startswith("warning: ")
    assert "Resource temporarily unavailable" in line


def test_no_room_leaves_a_note_and_no_half(folder: tuple[Path, int]) -> None:
    """A bound of the size of files stands in for a full disk: a column's second half cannot be written."""
    path, fd = folder
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    record = table(rows=3000, issued=2000, answered=2000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        keeper = Keeper(record, fd)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(Broken), keeper:
        raise Broken
    saved = load(path)
    assert saved.ended is not None
    assert "File too large" in saved.ended["unsaved"]
    assert saved.ended["ok"] == 2000
    assert [one.name for one in (path / "columns").iterdir()] == ["sample_index.npy"]
    done = here("show", path)
    assert done.returncode == statuses.UNDECIDED
    assert "could not be saved" in done.stdout


def killed(when: str, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return finished(start(when, folder, *words, "--output", folder, script="killed_run.py"))


def table_at_death(folder: Path, number: int = 0) -> dict[str, np.ndarray]:
    """The run's table when its process had ended, or from 1 that of a generator."""
    path = folder.with_name(f"{folder.name}{number}.npz")
    until(path.exists, "the witness's copy")
    with np.load(path) as file:
        return dict(file)


RUNS = [
    pytest.param(system, scenario, marks=() if (system, scenario) == ("null", "Server") else pytest.mark.slow)
    for system in ("null", "onnxruntime")
    for scenario in ("Server", "SingleStream", "MultiStream", "Offline")
]


@pytest.mark.parametrize(("system", "scenario"), RUNS)
def test_kill_9_in_a_run_loses_no_answer(system: str, scenario: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["--scenario", scenario, "--no-dashboard", "--time", "10"]
    if system == "null" and scenario != "Server":
        words[-1] = "0.1"  # its table has room for millions of queries a second
    if scenario in ("Server", "Offline"):
        words += ["--qps", "2000"] if scenario == "Server" or system != "null" else ["--qps", "10000000"]
    done = killed("running", folder, "run", system, "digits", *words)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(ENDED)]
    assert line.endswith(f"are saved; drumfire show {folder}")
    expected, saved = table_at_death(folder), drumfire.load(folder)
    ok = saved.columns["status"] == Status.OK
    answered = (expected["status"] == Status.OK)[: ok.size]
    assert ok.sum() >= 1000
    assert ok[answered].all()
    if system == "null":  # else the model's process may have answered more until it ended
        assert (ok == answered).all()
    assert (saved.columns["status"][~ok] == Status.UNANSWERED).all()
    for name, column in expected.items():
        if name != "status":
            assert np.array_equal(saved.columns[name][answered], column[: ok.size][answered])
    assert not (expected["status"][ok.size :] == Status.OK).any()
    assert (saved.columns["completed"][ok] > 0).all()
    assert saved.ended is not None
    assert saved.ended["ok"] == ok.sum()
    assert saved.results is not None
    assert not saved.results.valid
    latencies = np.sort((saved.columns["completed"] - saved.columns["scheduled"])[ok])
    assert saved.figures["latency_ns"]["p50"] == latencies[int(latencies.size * 0.5)]
    shown = here("show", folder)
    assert shown.returncode == statuses.UNDECIDED
    verdict, *lines = shown.stdout.splitlines()
    assert verdict == "Result is : unfinished"
    assert any(line.startswith("latency      p50 ") for line in lines)
    assert any(line.startswith("lateness     p50 ") for line in lines)
    assert f"{ok.sum():,} answered" in shown.stdout
    with pytest.raises(UserError, match="unfinished"):
        saved.result  # noqa: B018


@pytest.mark.slow
def test_kill_9_while_the_run_is_saved(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["--scenario", "Server", "--qps", "2000", "--time", "1", "--max-latency", "1000", "--no-dashboard"]
    done = killed("saving", folder, "run", "null", "digits", *words)
    assert done.returncode == -signal.SIGKILL
    expected, found = table_at_death(folder), columns(folder)
    assert set(found) == set(expected)
    for name, column in expected.items():
        assert found[name].tolist() == column[: found[name].size].tolist()
    assert (found["status"] == Status.OK).all()
    assert found["status"].size > 1500
    assert not list(folder.rglob("columns/*.partial"))
    shown = here("show", folder)
    if (folder / "result.json").exists():
        assert shown.returncode in (statuses.VALID, statuses.INVALID)
        assert not (folder / "unfinished.json").exists()
        assert shown.stderr == ""
    else:
        assert shown.returncode == statuses.UNDECIDED


@pytest.mark.slow
@pytest.mark.parametrize("everyone", [False, True])
def test_kill_9_of_a_driver_loses_nothing_of_its_generators(everyone: bool, tmp_path: Path) -> None:
    """With ``everyone`` the generators are killed too."""
    folder = tmp_path / "run"
    with Peer("grpc") as peer:
        words = ["run", "triton", "echo", "--url", peer.url, "--workers", 2, *MINUTE, 1500]
        done = killed("everyone" if everyone else "running", folder, *words)
    assert done.returncode == -signal.SIGKILL
    assert ENDED in done.stderr
    saved = load(folder)
    status = saved.columns["status"]
    for part in range(2):
        at_death = table_at_death(folder, part + 1)
        answered = np.flatnonzero(at_death["status"] == Status.OK)
        there = Slice(part, 2).whole(answered)
        assert answered.size > 100
        assert (status[there] == Status.OK).all()
        for name, column in at_death.items():
            assert np.array_equal(saved.columns[name][there], column[answered])
    assert saved.ended is not None
    assert saved.ended["generators"] == 2
    assert saved.figures["latency_ns"]["count"] == np.count_nonzero(status == Status.OK) == saved.ended["ok"]
    shown = here("show", folder)
    assert shown.returncode == statuses.UNDECIDED
    assert f"{saved.ended['issued']:,} issued, {saved.ended['ok']:,} answered" in shown.stdout


def children_of(pid: int) -> list[int]:
    """The processes that any thread of this one started."""
    return [int(child) for each in Path(f"/proc/{pid}/task").glob("*/children") for child in each.read_text().split()]


@pytest.mark.slow
def test_sigterm_to_a_whole_group_is_an_ordinary_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start("run", "null", "digits", *MINUTE, 500, "--output", folder)
    until((folder / "settings.json").exists, "the run's beginning", seconds=60)
    time.sleep(2)
    for pid in [*children_of(process.pid), process.pid]:  # as systemd does: the keeper comes first
        os.kill(pid, signal.SIGTERM)
    done = finished(process)
    assert done.returncode == statuses.INTERRUPTED
    assert "warning: what kept" not in done.stderr
    assert json.loads((folder / "result.json").read_text())["validity"] == "INVALID"
    assert not (folder / "unfinished.json").exists()


@pytest.mark.parametrize("when", ["__init__", "__enter__"])
def test_an_interrupt_before_the_run_leaves_nothing(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait, made = Keeper.__dict__[when], list[Keeper]()

    def interrupted(keeper: Keeper, *arguments: Any) -> None:
        made.append(keeper)
        if when == "__init__":
            wait(keeper, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Keeper, when, interrupted)
    done = here("run", "null", "digits", "--time", "0.1", "--no-dashboard", "--output", tmp_path / "run")
    assert done.returncode == 130
    assert done.stderr == "drumfire: interrupted, and nothing was saved\n"
    (keeper,) = made
    keeper._line.close()
    assert keeper._process is not None
    assert keeper._process.wait(30) == 0
    assert not (tmp_path / "run").exists()
