"""The pulse of ranks, and their launcher."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")


from drumfire.loadgen.installation import ROOT
from drumfire.training import launch
from drumfire.training.ranks import Place, Pulse


class Beats:
    """A store of counters."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, name: str, amount: int) -> int:
        self.counts[name] = self.counts.get(name, 0) + amount
        return self.counts[name]


def pulse(rank: int, world: int, beats: Beats, monkeypatch: pytest.MonkeyPatch) -> Pulse:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    return Pulse(Place(rank, world, rank), beats)  # type: ignore[arg-type]


def test_a_silent_rank_is_named_once_and_again_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Beats()
    first = pulse(0, 3, beats, monkeypatch)

    def told(now_s: float, *beating: int) -> list[str]:
        for rank in beating:
            beats.add(f"pulse/{rank}", 1)
        first.listen(now_s)
        return list(first.look(now_s))

    assert [told(now_s, 1) for now_s in (4, 8, 12, 14.9)] == [[]] * 4
    (line,) = told(16, 1)
    assert line.startswith("nothing has been heard of rank 2 for 16 s: it or its host may be stopped or gone")
    assert told(20) == []
    assert told(22, 2) == ["rank 2 is heard of again"]
    assert told(27, 2) == []
    assert told(32, 2) == ["nothing has been heard of rank 1 for 16 s" + line[line.index(": it") :]]


def test_rank_1_looks_after_rank_0_also_where_the_store_is_stopped_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be read from it then."""
    second = pulse(1, 3, Beats(), monkeypatch)
    assert [list(second.look(now_s)) for now_s in (7, 14)] == [[], []]
    (line,) = second.look(15)
    assert "rank 0" in line
    third = pulse(2, 3, Beats(), monkeypatch)
    assert [list(third.look(now_s)) for now_s in (7, 14, 21)] == [[], [], []], "one line is enough"


def test_a_rank_that_was_stopped_itself_names_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    first = pulse(0, 2, Beats(), monkeypatch)
    assert list(first.look(2)) == []
    assert list(first.look(60)) == []
    assert [list(first.look(now_s)) for now_s in (67, 74)] == [[], []]
    assert len(list(first.look(75))) == 1


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
