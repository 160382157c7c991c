"""The pulse of ranks, and their launcher."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")


from drumfire.loadgen.installation import ROOT
from drumfire.training import launch, ranks
from drumfire.training.ranks import Place, Pulse


@pytest.fixture
def restored_handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where these tests run under nohup
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Beats:
    """A store of counters."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, name: str, amount: int) -> int:
        self.counts[name] = self.counts.get(name, 0) + amount
        return self.counts[name]


def pulse(rank: int, world: int, beats: Beats) -> Pulse:
    return Pulse(Place(rank, world, rank), beats)  # type: ignore[arg-type]


def test_a_silent_rank_is_named_once_and_again_when_it_is_back(capfd: pytest.CaptureFixture[str]) -> None:
    """By its own beats, not by time: a rank 0 that was stopped itself names nobody."""
    beats = Beats()
    first, second, third = (pulse(rank, 3, beats) for rank in range(3))

    def said(*beating: Pulse) -> list[str]:
        for one in (*beating, first):
            one.beat()
        return capfd.readouterr().err.splitlines()

    assert [said(second) for _ in range(7)] == [[]] * 7
    (line,) = said(second)
    assert line.startswith("training: nothing has been heard of rank 2 for 16 s: it or its host may be stopped or gone")
    assert said() == []
    assert said(third) == ["training: rank 2 is heard of again"]
    assert [said(third) for _ in range(5)] == [[]] * 5
    assert said(third) == [line.replace("rank 2", "rank 1")]


def test_rank_1_looks_after_rank_0(capfd: pytest.CaptureFixture[str]) -> None:
    """Where the store is in a third process, as torchrun's is."""
    beats = Beats()
    first, second, third = (pulse(rank, 3, beats) for rank in range(3))
    first.beat()
    for _ in range(9):
        second.beat()
        third.beat()
    (line,) = capfd.readouterr().err.splitlines()
    assert "rank 0 for 16 s" in line


def test_rank_1_looks_after_rank_0_whose_store_is_stopped_with_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Stopped(Beats):
        def add(self, name: str, amount: int) -> int:
            """Answer once the other thread has spoken and ended."""
            for late in threading.enumerate():
                if isinstance(late, threading.Timer):
                    late.join(10)
            return super().add(name, amount)

    pulse(1, 3, Beats()).timed_beat()
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(ranks, "_BEAT_S", 0.01)
    pulse(1, 3, Stopped()).timed_beat()
    silent, back = capfd.readouterr().err.splitlines()
    assert silent.startswith("training: nothing has been heard of rank 0 for ")
    assert back == "training: rank 0 is heard of again"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_launcher_ends_its_ranks(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, restored_handlers: None
) -> None:
    """Stand-ins for the ranks, as only their ends matter."""
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def stand_in(command: list[str], **_: object) -> subprocess.Popen[bytes]:
        started.append(popen(["sleep", "60"]))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", stand_in)
    monkeypatch.setattr(launch, "_status", lambda processes: signal.raise_signal(number))
    assert launch.main(["--ranks", "2", "shapes"]) == 130
    assert [process.returncode for process in started] == [-signal.SIGTERM] * 2


def test_wrong_usage_of_the_launcher(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["shapes"]) == 2
    assert "--ranks" in capfd.readouterr().err


def listening(pid: int) -> set[str]:
    """The addresses, in the kernel's hexadecimal form, at which a process listens by TCP."""
    links = [os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()]
    inodes = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    tables = (Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    rows = [line.split() for table in tables for line in table]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ranks_listen_on_loopback_and_a_signal_to_the_group_is_one_line(data: Path, tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "drumfire.training.launch", "--ranks", "2", "shapes", "--data-dir", str(data),
         "--output", str(tmp_path / "run"), "--workers", "0", "--epochs", "1000"],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "run/checkpoint.pt").exists():
            assert run.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        addresses = [listening(int(pid)) for pid in children]
        os.killpg(run.pid, signal.SIGTERM)
        _, told = run.communicate(timeout=60)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
    assert len(addresses) == 2
    assert set.union(*addresses) == {"0100007F"}
    assert run.returncode == 130
    assert told == "training: rank 0: interrupted; --resume continues from the last checkpoint\n"
