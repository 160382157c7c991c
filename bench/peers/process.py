"""A measurement in a process of its own: started, given its case, waited for, and what it cost.

Knows processes; must not know what they measure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from drumfire.loadgen.installation import ROOT

PROGRAM = (sys.executable, "-m", "drumfire")
"""The command line of this checkout, started from its root."""
_PATIENCE_S = 300


class MeasurementError(RuntimeError):
    """A measurement that gave no figures; the text is the end of what its process said."""


@dataclass(frozen=True)
class Finished:
    """A process that has ended."""

    status: int
    output: str
    errors: str
    cpu_s: float
    """User and system time of all its threads, and of those of its children that it waited for."""

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object in the last line of the output."""
        found: dict[str, Any] = json.loads(self.output.strip().rsplit("\n", 1)[-1])
        return found


def say(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def run(
    command: Sequence[str],
    given: str = "",
    *,
    variables: Mapping[str, str] | None = None,
    fine: Sequence[int] = (0,),
    patience_s: float = _PATIENCE_S,
) -> Finished:
    """Run a command in the project's root.

    ``given``: its standard input.  ``variables``: its environment, this process's where None.  ``fine``: the exit
    statuses that come with figures.  Raises ``MeasurementError``.
    """
    # Files, not pipes: nothing has to be read while it measures, which would cost CPU beside it.
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        told.write(given.encode())
        told.seek(0)
        process = subprocess.Popen(command, stdin=told, stdout=output, stderr=errors, cwd=ROOT, env=variables)
        cpu_s = _await(process, patience_s)
        status = process.returncode
        said = [_text(file) for file in (output, errors)]
    if cpu_s is None:
        raise MeasurementError(f"{_name(command)} did not end within {patience_s:g} s")
    if status not in fine:
        last = (said[1].strip() or said[0].strip())[-500:]
        raise MeasurementError(f"{_name(command)} ended with {status}: {last}")
    return Finished(status, said[0], said[1], cpu_s)


def _await(process: subprocess.Popen[bytes], patience_s: float) -> float | None:
    """The CPU seconds of a process when it has ended; None where it had to be killed."""
    ended = os.pidfd_open(process.pid)
    late = True
    try:
        late = not wait([ended], patience_s)
    finally:
        if late:
            process.kill()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # Popen need not wait for it any more
        os.close(ended)
    return None if late else usage.ru_utime + usage.ru_stime


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode(errors="replace")
    return text


def _name(command: Sequence[str]) -> str:
    """What to call it: the module or the program."""
    return command[command.index("-m") + 1] if "-m" in command[:3] else Path(command[0]).name
