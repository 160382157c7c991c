"""How far a session is: a table that fills on a terminal, lines elsewhere, and the time that is left."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from drumfire.bench.report.rows import Row
from drumfire.bench.session.progress import Progress
from drumfire.loadgen.saved import SavedRun, load
from tests.support.made_run import made, queued


def saved(folder: Path) -> SavedRun:
    return load(made(folder / "run", queued(100)))


def console(*, terminal: bool, height: int = 24) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, height=height, color_system=None)


def drawn(progress: Progress) -> list[str]:
    shown = console(terminal=False)
    shown.print(progress._drawn())
    return shown.file.getvalue().splitlines()


def test_a_terminal_shows_the_table_as_it_is_and_what_is_under_way(tmp_path: Path) -> None:
    rows = [Row("qps", ["-"])]
    progress = Progress(console(terminal=True), lambda: [rows])
    progress.begin(9, 12, "qps=5/1", 65.4)
    rows[:] = [Row("qps", ["12/s"])]
    progress.end(saved(tmp_path), "qps=5/1")
    assert drawn(progress) == ["qps          12/s", "", " 9 of 12  qps=5/1  about 1:05 left"]


def test_a_table_that_is_longer_than_the_terminal_leaves_room_for_what_is_under_way(tmp_path: Path) -> None:
    rows = [Row(str(number), ["x"]) for number in range(50)]
    progress = Progress(console(terminal=True, height=10), lambda: [rows])
    progress.end(saved(tmp_path), "50")
    progress.begin(1, 50, "A/1", 0.0)
    lines = drawn(progress)
    assert len(lines) == 9
    assert lines[-1] == " 1 of 50  A/1"


def test_elsewhere_each_run_is_a_line(tmp_path: Path) -> None:
    plain = console(terminal=False)
    with Progress(plain, lambda: [[Row("qps", ["-"])]]) as progress:
        progress.begin(1, 2, "A/1", 61.0)
        progress.end(saved(tmp_path), "A/1")
        progress.begin(2, 2, "B/1", 0.0)
        progress.end(saved(tmp_path / "other"), "B/1")
    first, second = plain.file.getvalue().splitlines()
    assert first == "1 of 2  A/1  INVALID  288.8/s  p99 2.34 ms  about 1:01 left"
    assert second == "2 of 2  B/1  INVALID  288.8/s  p99 2.34 ms"
