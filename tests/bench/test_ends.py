"""How a run can end: for each way, the status of its process and what is in its folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drumfire.bench import statuses
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.saved import load
from tests.support import command
from tests.support.command import SMALL, WHOLE, Done, await_answers, finished
from tests.support.served import serving
from tests.support.terminal import open_terminal

RUN = ["run", "null", "digits", "--scenario", "Server", "--qps", "2000", "--max-latency", "1", "--time", "0.25"]
RUN += ["--count", "500"]
LONG = ["run", "null", "digits", "--scenario", "Server", "--qps", "500", "--max-latency", "1", "--time", "60"]
CLOSED = "drumfire: standard output could not be written: it is closed\n"
FULL = "drumfire: standard output could not be written: No space left on device\n"
PROGRAM = f"{sys.executable} -P -m drumfire"


def shell(line: str, folder: Path, *words: str, **environment: str) -> Done:
    """Run a line of bash in which ``$RUN`` is a run into ``folder``, and ``$PROGRAM`` the program."""
    run = " ".join([PROGRAM, *RUN, *words, "--output", f"'{folder}'"])
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    line = line.replace("$RUN", run).replace("$PROGRAM", PROGRAM)
    return subprocess.run(["bash", "-c", line], env=variables, capture_output=True, text=True, check=False, timeout=60)


def ended(done: Done, status: int, folder: Path, there: set[str] = WHOLE) -> dict[str, Any]:
    """Check the status and the folder's files; returns the result."""
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in folder.iterdir()} == there
    return load(folder).result


# Where its output cannot be read.


@pytest.mark.parametrize(
    ("line", "stderr"),
    [
        ("$RUN | head -1; exit ${PIPESTATUS[0]}", ""),
        ("$RUN > /dev/full", FULL),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("$RUN | true; exit ${PIPESTATUS[0]}", ""),
                ("$RUN --json > /dev/full", FULL),
                ("$RUN >&-", CLOSED),
                ("$RUN 2>&-", ""),
                ("$RUN 2>/dev/full", ""),
                ("$RUN <&-", ""),
                ("$RUN <&- >&- 2>&-", ""),
            )
        ),
    ],
)
def test_the_status_is_the_verdicts(line: str, stderr: str, tmp_path: Path) -> None:
    done = shell(line, tmp_path / "run")
    assert ended(done, statuses.VALID, tmp_path / "run")["validity"] == "VALID"
    assert done.stderr == stderr
    assert len(load(tmp_path / "run").columns["status"]) == 500


@pytest.mark.slow
def test_an_invalid_run_that_nobody_can_read(tmp_path: Path) -> None:
    done = shell("$RUN > /dev/full", tmp_path / "run", "--max-latency", "1e-9")
    assert ended(done, statuses.INVALID, tmp_path / "run")["validity"] == "INVALID"
    assert done.stderr == FULL


@pytest.mark.parametrize(
    ("line", "status"), [("| head -1; exit ${PIPESTATUS[0]}", 0), ("> /dev/full", 74), (">&-", 74)]
)
@pytest.mark.parametrize("words", ["models", "run --help", "--help"])
def test_what_is_only_printed_is_lost(words: str, line: str, status: int, tmp_path: Path) -> None:
    done = shell(f"$PROGRAM {words} {line}", tmp_path)
    assert done.returncode == status
    assert done.stderr in ("", FULL, CLOSED)
    assert (done.stderr == "") == (status == 0)


@pytest.mark.parametrize(
    ("line", "status"),
    [("| true; exit ${PIPESTATUS[0]}", 0), ("> /dev/full", 74), (">&-", 74), ("--json > /dev/full", 74), ("2>&-", 0)],
)
def test_a_saved_run_is_shown_or_the_status_says_that_it_is_not(line: str, status: int, tmp_path: Path) -> None:
    assert command.here(*RUN, "--output", tmp_path / "run", "--no-dashboard").returncode == statuses.VALID
    done = shell(f"$PROGRAM show {tmp_path / 'run'} {line}", tmp_path)
    assert done.returncode == status
    assert done.stderr in ("", FULL, CLOSED)


@pytest.mark.slow
def test_a_path_that_the_locale_cannot_write(tmp_path: Path) -> None:
    folder = tmp_path / "\u00fcn\u00efcode"
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = shell("$RUN", folder, **ascii_only)
    ended(done, statuses.VALID, folder)
    again = shell("$RUN", folder, **ascii_only)
    assert again.returncode == statuses.USAGE
    assert "already holds a run" in again.stderr


# Where it is told to end.


@contextlib.contextmanager
def started(*words: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A run that has answers; SIGHUP ends it, also where these tests run under nohup."""

    def as_in_a_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    process = command.start(*words, **{"preexec_fn": as_in_a_terminal, **options})
    try:
        await_answers(process)
        yield process
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
@pytest.mark.parametrize("group", [False, True])
def test_a_signal(name: str, group: bool, tmp_path: Path) -> None:
    with started(*LONG, "--json", "--output", tmp_path / "run") as process:
        (os.killpg if group else os.kill)(process.pid, signal.Signals[name])
        done = finished(process)
    result = ended(done, statuses.INTERRUPTED, tmp_path / "run")
    assert result["reasons"][0] == f"The run was cut short: interrupted by {name}."
    assert json.loads(done.stdout) == result
    assert len(load(tmp_path / "run").columns["status"]) > 0


@pytest.mark.slow
def test_nohup(tmp_path: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with started(*LONG, "--json", "--output", tmp_path / "run", preexec_fn=ignore) as process:
        os.kill(process.pid, signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGTERM)
        result = ended(finished(process), statuses.INTERRUPTED, tmp_path / "run")
    assert result["reasons"][0] == "The run was cut short: interrupted by SIGTERM."


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--no-dashboard"], ["--json"]])
def test_a_terminal_that_closes(options: list[str], tmp_path: Path) -> None:
    """Each write to it fails, and SIGHUP comes."""
    ours, theirs = open_terminal()

    def take_it() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    words = [sys.executable, "-P", "-m", "drumfire", *LONG, *options, "--output", str(tmp_path / "run")]
    process = subprocess.Popen(
        words, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=take_it
    )
    try:
        os.close(theirs)
        until = time.monotonic() + 30
        while not (tmp_path / "run" / "columns" / "layout.json").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(1.5)  # the run has begun
        os.close(ours)
        assert process.wait(30) == statuses.INTERRUPTED
    finally:
        process.kill()
    done = subprocess.CompletedProcess(words, statuses.INTERRUPTED, "", "")
    result = ended(done, statuses.INTERRUPTED, tmp_path / "run")
    assert result["reasons"][0] == "The run was cut short: interrupted by SIGHUP."


# Where something else happens to it.


@pytest.mark.slow
def test_a_stop_of_two_seconds(tmp_path: Path) -> None:
    """What was due meanwhile is sent late and counts: the latency is from the scheduled time."""
    line = [*LONG[:-3], "0.5", "--time", "5", "--json", "--output", str(tmp_path / "run")]
    with started(*line) as process:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(process.pid, signal.SIGCONT)
        result = ended(finished(process), statuses.INVALID, tmp_path / "run")
    assert result["lateness_ns"]["max"] > 1.9e9
    assert result["latency_ns"]["max"] > 1.9e9
    assert result["errors"] == {"failed": 0, "unanswered": 0, "refused": 0, "messages": {}}
    assert len(load(tmp_path / "run").columns["status"]) == result["asked"]["generated_queries"]


@pytest.mark.slow
def test_two_runs_into_one_folder(tmp_path: Path) -> None:
    with started(*LONG, "--json", "--output", tmp_path / "run") as first:
        second = command.drumfire(*RUN, "--output", tmp_path / "run")
        command.one_line_error(second, "another run is writing to", "choose another --output")
        os.kill(first.pid, signal.SIGTERM)
        result = ended(finished(first), statuses.INTERRUPTED, tmp_path / "run")
    assert result["asked"]["qps"] == 500


@pytest.mark.slow
def test_runs_that_start_at_once(tmp_path: Path) -> None:
    words = [sys.executable, "-P", "-m", "drumfire", *RUN, "--no-dashboard"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    runs = [subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [run.wait(60) for run in runs] == [statuses.VALID] * 3
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 3
    assert all({path.name for path in folder.iterdir()} == WHOLE for folder in folders)


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_end(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with started(*LONG[:-1], "3", "--qps", "3000", "--json", "--output", disk / "run") as process:
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(4096))
            done = finished(process)
        assert done.returncode == statuses.UNSAVED
        *_, line = done.stderr.splitlines()
        assert line.startswith(f"drumfire: the run could not be saved in {disk / 'run'} as a whole, it lacks columns")
        assert "No space left on device" in line or "is the disk full?" in line
        assert "Traceback" not in done.stderr
        there = {path.name for path in (disk / "run").iterdir()}
        assert there >= SMALL
        assert load(disk / "run").result == json.loads(done.stdout)
        assert [path.name for path in (disk / "run" / "columns").iterdir()] == ["layout.json"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    """The run is judged without it, and says so."""
    with serving("onnxruntime", "digits") as server:
        words = ["run", "triton", "digits", "--url", server.ready["grpc"], *LONG[3:], "--workers", "2", "--json"]
        words += ["--output", tmp_path / "run"]
        with started(*words) as process:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            lines = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
            generators = [child for child, line in lines.items() if b"fleet.generator" in line]
            assert len(generators) == 2
            os.kill(int(generators[1]), signal.SIGKILL)
            time.sleep(1)
            os.kill(process.pid, signal.SIGTERM)
            done = finished(process)
    result = ended(done, statuses.INTERRUPTED, tmp_path / "run", WHOLE | {"series"})
    assert result["validity"] == "INVALID"
    assert any(reason.startswith("PARTIAL: ") for reason in result["reasons"])
    assert len(load(tmp_path / "run").columns["status"]) > 0
