"""A measurement in its own process: start it, send it its case, wait for it, and read what it cost.

Does not depend on what is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.installation import ROOT

PROGRAM = (sys.executable, "-m", "drumfire")
"""The command line of this checkout, started from its root."""
_PATIENCE_S = 300


class MeasurementError(UserError):
    """A measurement failed; the text is the end of its process's output."""


@dataclass(frozen=True)
class Finished:
    """A process that has ended."""

    status: int
    output: str
    errors: str
    cpu_s: float
    """User and system time of all its threads, and of the children that it waited for."""

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object in the last line of the output."""
        document: dict[str, Any] = json.loads(self.output.strip().rsplit("\n", 1)[-1])
        return document


def say(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def run(
    command: Sequence[str],
    text: str = "",
    *,
    variables: Mapping[str, str] | None = None,
    fine: Sequence[int] = (0,),
    patience_s: float = _PATIENCE_S,
) -> Finished:
    """Run a command in the project's root.

    ``text``: its standard input.  ``variables``: its environment; None: that of this process.  ``fine``: the exit
    statuses of a successful measurement.  Raises ``MeasurementError``.
    """
    with started(command, text, env=variables) as (process, texts):
        cpu_s = _await(process, patience_s)
        status, (output, errors) = process.returncode, texts()
    if cpu_s is None:
        raise MeasurementError(f"{_name(command)} did not end within {patience_s:g} s")
    if status not in fine:
        raise MeasurementError(f"{_name(command)} ended with {status}: {(errors.strip() or output.strip())[-500:]}")
    return Finished(status, output, errors, cpu_s)


@contextmanager
def started(
    command: Sequence[str], text: str, **options: Any
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], tuple[str, str]]]]:
    """Start a command in the project's root; the caller waits for its end within the block.

    ``text``: its standard input.  ``options``: of ``Popen``.  Gives the process, and what reads its output and errors.
    """
    # Files, not pipes: reading while it measures would cost CPU on the same machine.
    with tempfile.TemporaryFile() as case, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        case.write(text.encode())
        case.seek(0)
        process = subprocess.Popen(command, stdin=case, stdout=output, stderr=errors, cwd=ROOT, **options)
        yield process, lambda: (_text(output), _text(errors))


def _await(process: subprocess.Popen[bytes], patience_s: float) -> float | None:
    """Wait for a process; returns its CPU time, s, or None where it had to be killed."""
    ended = os.pidfd_open(process.pid)
    late = True
    try:
        late = not wait([ended], patience_s)
    finally:
        if late:
            process.kill()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait again
        os.close(ended)
    return None if late else usage.ru_utime + usage.ru_stime


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _name(command: Sequence[str]) -> str:
    """What a message calls it: the module or the program."""
    return command[command.index("-m") + 1] if "-m" in command[:3] else Path(command[0]).name
