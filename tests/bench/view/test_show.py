"""Keys and the terminal: what they do to the picture and to the run, and what is left of the terminal."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from drumfire.bench import statuses
from drumfire.bench.fleet.overview import Row
from drumfire.bench.view.screen import Look
from drumfire.bench.view.show import Show
from drumfire.bench.view.terminal import Keys, Saved
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.saved import load
from tests.bench.view.test_dashboard import SERVER
from tests.bench.view.test_screen import at, long_run, spread
from tests.support.terminal import Screen, open_terminal

COOKED = termios.ICANON | termios.ECHO


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal: where a person types, and what programs read."""
    person, program = open_terminal()
    yield person, program
    for fd in (person, program):
        with contextlib.suppress(OSError):
            os.close(fd)


def modes(fd: int) -> int:
    return int(termios.tcgetattr(fd)[3]) & COOKED


def pressed(keys: Keys, person: int, text: str) -> str:
    os.write(person, text.encode())
    return keys.read()


def test_keys_come_one_by_one_and_the_terminal_is_put_back(terminal: tuple[int, int]) -> None:
    person, program = terminal
    before = termios.tcgetattr(program)
    keys = Keys(program)
    assert keys.fds == []  # not before they are claimed
    keys.claim()
    assert modes(program) == 0
    assert termios.tcgetattr(program)[3] & termios.ISIG  # Ctrl-C and Ctrl-Z are still signals
    assert pressed(keys, person, "p") == "p"
    assert pressed(keys, person, "Q?") == "q?"
    keys.release()
    assert termios.tcgetattr(program) == before
    assert keys.fds == []


@pytest.mark.parametrize("text", ["\x1b[A", "\x1bOQ", "\x1b[15~", "sudo apt quit\n", "x", "qx", "é?", "\x1bq"])
def test_arrows_and_pasted_text_are_no_keys(terminal: tuple[int, int], text: str) -> None:
    person, program = terminal
    keys = Keys(program)
    keys.claim()
    assert pressed(keys, person, text) == ""
    keys.release()


def test_settings_of_another_program_are_let_be(terminal: tuple[int, int]) -> None:
    _, program = terminal
    keys = Keys(program)
    keys.claim()
    shell = termios.tcgetattr(program)
    shell[3] = (shell[3] | termios.ECHO) & ~termios.ISIG
    termios.tcsetattr(program, termios.TCSANOW, shell)
    theirs = termios.tcgetattr(program)
    keys.release()
    assert termios.tcgetattr(program) == theirs


def test_a_terminal_that_is_gone_has_no_more_keys(terminal: tuple[int, int]) -> None:
    person, program = terminal
    keys = Keys(program)
    keys.claim()
    os.close(person)
    assert keys.read() == ""
    assert keys.fds == []
    keys.claim()
    assert keys.fds == []


@pytest.mark.parametrize("fd", ["pipe", None])
def test_what_is_no_terminal_has_no_keys(fd: str | None) -> None:
    ends = os.pipe()
    keys, saved = Keys(None if fd is None else ends[0]), Saved(ends[0])
    keys.claim()
    assert keys.fds == []
    keys.release()
    saved.restore()
    for end in ends:
        os.close(end)


def test_the_run_puts_back_what_a_view_could_not(terminal: tuple[int, int]) -> None:
    _, program = terminal
    before, saved = termios.tcgetattr(program), Saved(program)
    Keys(program).claim()  # and the view is killed
    saved.restore()
    assert termios.tcgetattr(program) == before


class Shown:
    """A show on a screen of 80 x 24, with a person at its keys."""

    def __init__(self, person: int, program: int) -> None:
        self.person, self.ended = person, 0
        self.screen = Screen(80, 24)
        console = Console(file=self.screen, force_terminal=True, width=80, height=24, highlight=False)
        self.show = Show(console, program, self.end)

    def end(self) -> None:
        self.ended += 1

    def press(self, key: str) -> str:
        os.write(self.person, key.encode())
        self.show.press()
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(self.screen.seen)


@pytest.fixture
def shown(terminal: tuple[int, int]) -> Iterator[Shown]:
    made = Shown(*terminal)
    with made.show:
        snapshot, history = long_run()
        made.show.show(Look(SERVER, snapshot, history=history))
        yield made


def test_p_freezes_the_picture_and_again_shows_what_is_now(shown: Shown) -> None:
    assert "q ends the run and saves" in shown.text
    frozen = shown.press("p")
    assert "FROZEN" in frozen
    assert "done 590" in frozen
    _, history = long_run()
    history.add(at(61.0, 700, spread(1)))
    shown.show.show(Look(SERVER, at(61.0, 12_345, spread(1)), history=history))
    assert shown.text == frozen
    now = shown.press("p")
    assert "done 12,345" in now
    assert "FROZEN" not in now


def test_a_frozen_history_does_not_grow(shown: Shown) -> None:
    snapshot, history = long_run()
    shown.show.show(Look(SERVER, snapshot, history=history))
    frozen = shown.press("p")
    history.add(at(100.0, 50_000, spread(1)))
    shown.show.draw()
    assert shown.text == frozen


def test_the_question_mark_explains_and_again_returns(shown: Shown) -> None:
    before = shown.text
    explained = shown.press("?")
    for name in ("so far", "rate", "latency", "lateness", "in flight", "generator", "rate/time", "bars"):
        assert re.search(rf"^{name}  ", explained, re.MULTILINE), name
    assert "? returns" in explained
    assert shown.press("?") == before


def test_q_ends_the_run(shown: Shown) -> None:
    shown.press("x")
    assert shown.ended == 0
    shown.press("q")
    assert shown.ended == 1


@pytest.mark.parametrize(
    ("width", "height", "workers", "below"),
    [
        (80, 14, 2, ["state", "worker 0", "worker 1"]),
        (60, 12, 2, ["state", "worker 0", "worker 1"]),
        (60, 13, 3, ["state", "worker 0", "worker 1", "worker 2"]),
        (60, 13, 30, ["state", "worker 0", "worker 1", "and 28 more"]),
        (80, 24, 16, ["state", *(f"worker {n}" for n in range(13)), "and 3 more"]),
    ],
)
def test_generators_have_room_on_a_low_screen_too(
    terminal: tuple[int, int], width: int, height: int, workers: int, below: list[str]
) -> None:
    screen = Screen(width, height)
    console = Console(file=screen, force_terminal=True, width=width, height=height, highlight=False)
    snapshot, history = long_run()
    rows = [Row(f"worker {n}", "running", 1.0, None, 0, 0, 0.1) for n in range(workers)]
    with Show(console, terminal[1], lambda: None) as show:
        show.show(Look(SERVER, snapshot, history=history, rows=rows))
        assert len(screen.seen) == height - 1
        shown = [line.strip() for line in screen.seen[-len(below) :]]
        assert all(line.startswith(start) for line, start in zip(shown, below, strict=True)), shown
        for text in ("ETA", "so far", "in flight", "q ends the run"):
            assert any(text in line for line in screen.seen[: -len(below)])
    assert not any(screen.seen)


# From here on with real processes.


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("q", "ended by the key q"),
        pytest.param("SIGTERM", "interrupted by SIGTERM", marks=pytest.mark.slow),
        pytest.param("killed view", "interrupted by SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_the_terminal_of_a_real_run_is_as_before(how: str, reason: str, tmp_path: Path) -> None:
    words = ["run", "null", "digits", "--scenario", "Server", "--qps", "200", "--time", "60"]
    keeper, alive = open_terminal()  # ours too, so that its settings can be read after the run
    before = termios.tcgetattr(alive)
    run = subprocess.Popen(
        [sys.executable, "-m", "drumfire", *words, "--output", str(tmp_path / "run")],
        cwd=ROOT, stdin=alive, stdout=alive, stderr=alive, start_new_session=True, env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    output = b""

    def read_until(text: bytes) -> None:
        nonlocal output
        while text not in output:
            assert run.poll() is None, output
            output += os.read(keeper, 65536)

    read_until(b"in flight")
    assert modes(alive) == 0
    if how == "q":
        os.write(keeper, b"q")
    else:
        if how == "killed view":
            children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
            os.kill(next(int(pid) for pid, line in commands.items() if b"bench.view.dashboard" in line), signal.SIGKILL)
            read_until(b"the run goes on without it")
            assert termios.tcgetattr(alive) == before
        run.terminate()
    while run.poll() is None or select.select([keeper], [], [], 0)[0]:
        if select.select([keeper], [], [], 0.1)[0]:
            output += os.read(keeper, 65536)
    assert run.returncode == statuses.INTERRUPTED, output
    assert termios.tcgetattr(alive) == before
    assert output.rindex(b"\x1b[?25h") > output.rindex(b"\x1b[?25l")
    assert load(tmp_path / "run").result["reasons"][0] == f"The run was cut short: {reason}."
    for fd in (keeper, alive):
        os.close(fd)
