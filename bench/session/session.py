"""Does several runs one after another, each in a process of its own, as what differs between runs is the machine.

A process each also starts each run as cold as the first.  The journal in the session's folder has a line for each run
that has ended, so that the same command does only those that are missing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from drumfire.bench import interrupts, journal, statuses
from drumfire.bench.journal import Journal
from drumfire.bench.report import figures
from drumfire.bench.report.outputs import SESSION
from drumfire.bench.session.progress import Progress
from drumfire.loadgen.claim import Claim, is_claimed
from drumfire.loadgen.directory import RESULT
from drumfire.loadgen.errors import UnsavedError, UserError
from drumfire.loadgen.run import CUT_SHORT
from drumfire.loadgen.saved import SavedRun, load
from drumfire.loadgen.wording import counted

KIND = "session"
ASIDE = "interrupted"
"""The folder of runs that did not end by themselves."""
GROUP = re.compile(rf"[AB]|[^=/]+=[^/]*|{ASIDE}")
"""The names of the folders that a session has its runs in."""
PLACE = re.compile(rf"([AB]|[^=/]+=[^/]*)/[0-9]+|{ASIDE}/.+-[0-9]+-[0-9]+")
"""The paths of its runs below it, such as A/1, qps=100/1 or interrupted/A-1-1."""
_SUBJECT = {"type": "object"}
_LINE = {"run": {"type": "string"}, "seconds": {"type": "number"}}
_ENDED = (statuses.VALID, statuses.INVALID, statuses.UNMET, statuses.UNDECIDED)
_PROGRAM = "drumfire.bench.bound"
Runs = Mapping[str, SavedRun]
"""The runs that are done, by the name of their step."""
Left = Callable[[Runs], Sequence["Step"]]
"""The steps that are still to be done, in their order."""


@dataclass(frozen=True)
class Step:
    """A run that is to be done."""

    name: str
    """Its folder in the session's."""
    words: tuple[str, ...]
    """The words after ``drumfire run``."""
    seconds: float
    """The time that it will take, about; 0: not known."""


def about(plan: Sequence[Step]) -> str:
    """The time that all steps will take, in words; empty where it is not known of each."""
    return f", about {figures.clock(sum(step.seconds for step in plan))}" if all(step.seconds for step in plan) else ""


def show(plan: Sequence[Step], folder: Path | None, subject: Mapping[str, Any]) -> None:
    """Print the command of each step, and which are done in ``folder``.  Raises ``UserError`` as ``Session`` does."""
    runs: Runs = {}
    if folder is not None and folder.exists():
        begun = _resumed(folder)
        if begun is not None:
            journal.check_same(folder / SESSION, KIND, begun, subject)
            runs = _done(folder, plan, begun)
    for step in plan:
        done = " (done)" if step.name in runs else ""
        print(f"{step.name}: {shlex.join(['drumfire', 'run', *step.words])}{done}")


class Session:
    """The runs in a folder.  ``with`` it, Ctrl-C and SIGTERM end the run that is under way, which is saved."""

    def __init__(self, folder: Path, subject: Mapping[str, Any], again: str, plan: Sequence[Step]) -> None:
        """Begin or resume it.  ``subject``: what its runs have in common; ``again``: the command that resumes it.

        Raises ``UserError`` where the folder holds something else.
        """
        self.folder, self.plan, self._again = folder, plan, again
        self.stopped: str | None = None
        """Why it ends early."""
        begun = _resumed(folder)
        self._journal = Journal(folder / SESSION, KIND, begun, subject, again)
        self._is_new = begun is None
        self.runs = {} if begun is None else _done(folder, plan, begun)
        lines = {} if begun is None else _seconds(begun)
        self._seconds = {name: lines[name] for name in self.runs if name in lines}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Session:
        interrupts.notify(self._stop)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        interrupts.abandon()
        if kind is not None and self._is_new and not self.runs and not (self.folder / ASIDE).exists():
            self._undo()

    def _undo(self) -> None:
        """Leave nothing of a session whose first run could not even begin: other words may come to the same folder."""
        (self.folder / SESSION).unlink(missing_ok=True)
        for step in self.plan:
            with contextlib.suppress(OSError):
                (self.folder / step.name).parent.rmdir()

    def drive(self, left: Left, progress: Progress) -> bool:
        """Do the steps that ``left`` gives until there are none; False where it was stopped before.

        Raises ``UserError`` and others where a run could not be done.
        """
        if self.runs:
            progress.say(f"resuming in {self.folder}: {counted(len(self.runs), 'run')} done")
        while steps := left(self.runs):
            if self.stopped is not None:
                return False
            progress.begin(len(self.runs) + 1, len(self.runs) + len(steps), steps[0].name, self._left_s(steps))
            if (run := self._perform(steps[0])) is None:
                return False
            progress.end(run, steps[0].name)
        return True

    def interruption(self) -> KeyboardInterrupt:
        """The error that a command raises after ``drive`` was stopped: it says how to resume."""
        done = f"{len(self.runs):,} of {counted(len(self.plan), 'run')}"
        return KeyboardInterrupt(f"{self.stopped}, after {done}; to resume: {self._again}")

    def _left_s(self, steps: Sequence[Step]) -> float:
        """The time that the steps will take, judged by the runs so far; 0 where nothing is known of it."""
        done = [(step.seconds, self._seconds[step.name]) for step in self.plan if step.name in self._seconds]
        foreseen, took = sum(each for each, _ in done), sum(each for _, each in done)
        scale, mean = (took / foreseen if foreseen else 1.0), (took / len(done) if done else 0.0)
        return sum(step.seconds * scale or mean for step in steps)

    def _perform(self, step: Step) -> SavedRun | None:
        """Do one run; None where it was interrupted."""
        place = self.folder / step.name
        if is_claimed(place):
            raise UserError(f"a run of before is still writing to {place}: wait for its end")
        self._put_aside(step)
        place.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        status, said = measure(step.words, place, self._started)
        self._process = None
        if status in _ENDED:
            seconds = round(time.monotonic() - began, 3)
            self.runs[step.name] = run = load(place)
            self._seconds[step.name] = seconds
            self._journal.write({"run": step.name, "seconds": seconds})
            return run
        self._put_aside(step)
        if status == statuses.INTERRUPTED:
            self.stopped = self.stopped or f"{step.name} was interrupted"
            return None
        if self.stopped is not None:
            return None
        raise _error(step.name, status, said)

    def _put_aside(self, step: Step) -> None:
        """Move what an earlier try has left out of the way."""
        place = self.folder / step.name
        if not place.exists():
            return
        number = 1
        while (aside := self.folder / ASIDE / f"{step.name.replace('/', '-')}-{number}").exists():
            number += 1
        aside.parent.mkdir(exist_ok=True)
        place.rename(aside)
        with contextlib.suppress(OSError):  # further runs are there
            place.parent.rmdir()

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        if self.stopped is not None:
            process.send_signal(signal.SIGINT)

    def _stop(self, reason: str) -> None:
        self.stopped = reason
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)


def _ended_alone(folder: Path) -> bool:
    """Whether a run that has no line in the journal ended by itself after its session was killed."""
    run = load(folder)
    with contextlib.suppress(UserError):  # what cannot be read is done again
        return run.ended is None and not any(text.startswith(CUT_SHORT) for text in run.result.get("reasons") or ())
    return False


def _resumed(folder: Path) -> journal.Begun | None:
    """The session that is resumed in the folder.  Raises ``UserError`` where something else is there."""
    begun = begun_in(folder)
    if begun is None and (there := sorted(path.name for path in folder.iterdir() if path.name != SESSION)):
        raise UserError(f"{folder} is not empty, it has {there[0]}: choose another --output")
    return begun


def _seconds(begun: journal.Begun) -> dict[str, float]:
    """The time that each run took, for those that have a line."""
    return {line["run"]: line["seconds"] for line in begun.lines}


def _done(folder: Path, plan: Sequence[Step], begun: journal.Begun) -> dict[str, SavedRun]:
    """The runs of the plan that need not be done, by the name of their step."""
    lines = _seconds(begun)
    saved = [step.name for step in plan if (folder / step.name / RESULT).is_file()]
    return {name: load(folder / name) for name in saved if name in lines or _ended_alone(folder / name)}


def begun_in(folder: Path) -> journal.Begun | None:
    """The session in the folder; None where there is none.  Raises ``UserError`` for what no session wrote."""
    path = folder / SESSION
    found = journal.read(path, KIND, _SUBJECT) if path.exists() else None
    try:
        for line in [] if found is None else found.lines:
            journal.checked(line, _LINE, whole=True)
    except ValueError:
        raise journal.no_journal(path, KIND) from None
    return found


def is_session(folder: Path) -> bool:
    """Whether the folder certainly is a session's: other programs have a session.jsonl too."""
    with contextlib.suppress(UserError):
        return begun_in(folder) is not None
    return False


def is_run_of(session: Path, run: Path) -> bool:
    """Whether ``run``, a folder below that of ``session``, is one of its runs: others may lie there too."""
    return PLACE.fullmatch(str(run.relative_to(session))) is not None


@contextlib.contextmanager
def claimed(output: Path | None, name: str) -> Iterator[Path]:
    """The folder of a session, which no other process takes; without ``output`` a new one."""
    with Claim.new(name) if output is None else Claim.take(output, SESSION) as claim:
        yield claim.folder


def measure(words: Sequence[str], folder: Path, started: Callable[[subprocess.Popen[bytes]], None]) -> tuple[int, str]:
    """Do a run in a process of its own, and return its status and what it said on standard error."""
    own = ["run", *words, "--output", str(folder), "--no-dashboard"]
    line = [sys.executable, "-m", _PROGRAM, str(os.getpid()), *own]
    with tempfile.TemporaryFile() as said:
        # In a group of its own a terminal's Ctrl-C comes to us alone, and so to it once.
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, process_group=0
        )
        try:
            started(process)
            status = process.wait()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
        said.seek(0)
        return status, said.read().decode("utf-8", "replace")


def _error(name: str, status: int, said: str) -> Exception:
    """The error for a run that was not done, from what its process said."""
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "it does not say why")
    text = f"{name}: {last.removeprefix('drumfire run: ').removeprefix('drumfire: ')}"
    if status == statuses.USAGE:
        return UserError(text)
    if status == statuses.UNSAVED:
        return UnsavedError(text)
    if status < 0:
        return UserError(f"{name}: its process was ended by {signal.Signals(-status).name}: do it again")
    return RuntimeError(text)
