"""``drumfire`` as tests call it: in this process, which costs no start, or in a new one, as a user starts it.

Both ways give status and output alike, for the same checks.  What only a process can show stays with those that start
one: signals, the live view, what is left behind, and a stdout that holds one JSON object and nothing else.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from drumfire.bench import commands
from drumfire.bench.cli import main
from drumfire.bench.options import parser, values
from drumfire.loadgen.installation import ROOT

SCHEMA = json.loads((ROOT / "loadgen" / "result.schema.json").read_text())
Done = subprocess.CompletedProcess[str]
SMALL = {"settings.json", "environment.json", "result.json", "report.txt", "mlperf_log_summary.txt", "columns"}
"""The parts of a run's folder that are saved first."""
WHOLE = SMALL | {"mlperf_log_detail.txt", "mlperf_log_accuracy.json", "histograms"}


def here(*words: object) -> Done:
    """In this process.  Give runs ``--no-dashboard``: the live view would be a process, and write past us."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = main([str(word) for word in words])
    return subprocess.CompletedProcess(words, status, stdout.getvalue(), stderr.getvalue())


def paths() -> list[list[str]]:
    """The words of every command's name."""
    return [name.split() for name in commands.everything()]


def options(*words: object) -> Any:
    """The options that the command in ``words`` receives.  Raises ``UserError``."""
    line = list(map(str, words))
    path = max((path for path in paths() if path == line[: len(path)]), key=len)
    command = commands.load(" ".join(path))
    return values.build(command.options, parser.parse(command, line[len(path) :]).values, line)


def start(*words: object, fault: str | None = None, script: str | None = None, **options: Any) -> subprocess.Popen[str]:
    """A new process, with the fault of ``faulty_run`` in it, if any; ``script`` is a file here to run in its place."""
    program = ["-m", "drumfire"] if fault is None else [str(Path(__file__).with_name("faulty_run.py")), fault]
    if script is not None:
        program = [str(Path(__file__).with_name(script))]
    return subprocess.Popen(
        [sys.executable, *program, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        **{"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}} | options,
    )  # fmt: skip


def drumfire(*words: object, **options: Any) -> Done:
    """Run a new process to its end."""
    return finished(start(*words, **options))


def finished(process: subprocess.Popen[str], seconds: float = 120) -> Done:
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def await_answers(process: subprocess.Popen[str]) -> None:
    """Wait until a run with ``--json`` has answers; without any, it has ended, and said why."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        if "p50" in line:  # the live view's first line with answers in it
            return
        said.append(line)
    raise AssertionError("".join(said))


def press(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal again and again until the process has ended, within two seconds: who is impatient gets no less."""
    for _ in range(400):
        if process.poll() is not None:
            break
        os.kill(process.pid, number)
        time.sleep(0.005)


def result_of(done: Done, status: int) -> dict[str, Any]:
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(result, SCHEMA)
    return result


def one_line_error(done: Done, *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().split("\n")) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def columns(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in (folder / "columns").glob("*.npy")}
