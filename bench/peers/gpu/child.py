"""A part as a program: its case is JSON on standard input, what it finds are lines of JSON on standard output.

So whatever was found before an error, an interrupt or the end of its time is kept.  ``carry_out`` is the side of the
part, ``run`` that of the proof.  Does not depend on what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from drumfire.bench.peers.gpu.plan import Ended, Figure, Missing, Part
from drumfire.bench.peers.process import started
from drumfire.loadgen.errors import UserError

Found = Figure | Missing
_END_S = 6.0
"""How long a part may take to end what it has started."""
_POLL_S = 0.05
_LAST = 400
"""Characters of an error that are kept."""


class Case:
    """What a part is to measure."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._until: float = time.monotonic() + values["seconds"]

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    @property
    def left_s(self) -> float:
        """Seconds until the part is ended."""
        return self._until - time.monotonic()


def carry_out(measure: Callable[[Case], Iterator[Found]]) -> int:
    """Measure the case of standard input; returns the exit status."""
    # A shell that starts us in the background has us ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for found in measure(Case(json.load(sys.stdin))):
            line = {"missing": vars(found)} if isinstance(found, Missing) else {"figure": found}
            print(json.dumps(line), flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run(part: Part, seconds: float, device: str, variables: Mapping[str, str]) -> Ended:
    """Run a part for at most ``seconds``.  ``variables``: its environment.

    An interrupt ends it, with what it has found.
    """
    began = time.monotonic()
    case = json.dumps({**part.case, "device": device, "seconds": seconds})
    command = [sys.executable, "-m", f"drumfire.bench.peers.gpu.{part.module}"]
    # Ctrl-C reaches only the proof, which ends the part.
    with started(command, case, env=variables, start_new_session=True) as (process, texts):
        interrupted = late = False
        try:
            while process.poll() is None and not (late := time.monotonic() - began > seconds):
                time.sleep(_POLL_S)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            _end(process)
        ended = Ended(part.name, "done", took_s=time.monotonic() - began)
        output, errors = texts()
        _read(ended, output)
        if interrupted:
            ended.status, ended.why = "interrupted", "interrupted"
        elif late:
            ended.status, ended.why = "failed", f"it had not ended after {seconds:.0f} s"
        elif process.returncode:
            last = (errors.strip() or "it said nothing")[-_LAST:]
            ended.status, ended.why = "failed", f"it ended with {process.returncode}: {' '.join(last.split())}"
    if ended.status != "done":
        ended.missing.append(Missing(f"the whole of {part.name}", ended.why))
    return ended


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and all of its group; it may end its own first."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                process.wait(_END_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(ended: Ended, output: str) -> None:
    """Libraries print to standard output too."""
    for line in output.splitlines():
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            found = json.loads(line)
            if "figure" in found:
                ended.figures.append(found["figure"])
            elif "missing" in found:
                ended.missing.append(Missing(**found["missing"]))
