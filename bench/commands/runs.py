"""``drumfire runs``: lists the runs and audits in a folder and in those below it, the newest first."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from drumfire.bench import statuses
from drumfire.bench.options.parser import Command
from drumfire.bench.peak import journal
from drumfire.bench.peak.journal import JOURNAL, Begun
from drumfire.bench.report import audits, figures
from drumfire.bench.report.audits import AUDIT
from drumfire.loadgen.claim import RUNS, is_claimed
from drumfire.loadgen.directory import COLUMNS, RESULT, SETTINGS
from drumfire.loadgen.errors import UserError, printable
from drumfire.loadgen.files import read_bytes
from drumfire.loadgen.options import option
from drumfire.loadgen.record import BASE_COLUMNS
from drumfire.loadgen.saved import SavedRun
from drumfire.loadgen.settings import Mode

_DEEPEST = 4
"""Levels below the folder."""
_NEW = re.compile(r"\d{8}-\d{6}-.+")
"""The name of a folder that a run makes itself: it is empty until something is saved."""


_MODES = {Mode.AccuracyOnly.name: " accuracy", Mode.SubmissionRun.name: " submission"}


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire runs``."""

    folder: Path = option(RUNS, metavar="FOLDER", position=True, help="where to look (default: runs)")
    json: bool = option(False, help="print one JSON object instead")


@dataclass(frozen=True)
class Found:
    """What there is of one run."""

    folder: str
    state: str
    """VALID, INVALID, ``running``, ``unfinished``, ``search`` for a search for the peak that can be resumed, or
    ``damaged`` where its result cannot be read.  An audit is PASS or FAIL in place of VALID and INVALID.
    """
    started: str
    """ISO 8601, UTC; where the run does not say, when its folder last changed."""
    what: str
    scenario: str
    mode: str
    metric: Mapping[str, Any] | None
    """Name, value and unit, as in a result; None without one."""
    bytes: int
    """On the disk."""

    @property
    def began(self) -> datetime:
        return datetime.fromisoformat(self.started)


def show(options: Options) -> int:
    """Print the list."""
    found = runs_in(options.folder)
    if options.json:
        print(json.dumps({"folder": str(options.folder), "runs": [asdict(one) for one in found]}))
        return statuses.DONE
    width = Console().width if sys.stdout.isatty() else sys.maxsize
    if found:
        print(_aligned("when", "state", "scenario", "figure", "size", "what") + "  folder")
    for one in found:
        print(line(one, width))
    if not found:
        print(printable(f"no runs in {options.folder}"))
    return statuses.DONE


COMMAND = Command(Options, show, "List the runs and audits in a folder, the newest first.", "drumfire runs")


def line(one: Found, width: int) -> str:
    """A run in a line, its folder in a second one where ``width`` columns are too few for both."""
    scenario = one.scenario + _MODES.get(one.mode, "")
    figure = "" if one.metric is None else figures.metric_value(one.metric)
    began = one.began.astimezone().strftime("%Y-%m-%d %H:%M")
    text = _aligned(began, one.state, scenario, figure, size(one.bytes), one.what)
    gap = "  " if len(text) + 2 + len(one.folder) <= width else "\n    "
    return printable(text) + gap + printable(one.folder)


def _aligned(when: str, state: str, scenario: str, figure: str, bytes_: str, what: str) -> str:
    return f"{when:<16}  {state:<10}  {scenario:<12}  {figure:>9}  {bytes_:>8}  {what}".rstrip()


def size(count: int) -> str:
    """Bytes, for people."""
    unit, each = next((one for one in (("GB", 1e9), ("MB", 1e6)) if count >= one[1]), ("kB", 1e3))
    return f"{figures.digits(count / each)} {unit}"


def runs_in(folder: Path) -> list[Found]:
    """The runs in ``folder``, the newest first.  Raises ``UserError`` where there is no such folder."""
    if not folder.is_dir():
        if folder == RUNS and not folder.exists():
            return []
        raise UserError(f"{folder} is no folder: name one that holds runs")
    found = (_audit(path) if (path / AUDIT).is_file() else _found(path) for path in _folders(folder, _DEEPEST))
    return sorted(found, key=lambda one: one.began, reverse=True)


def _folders(folder: Path, levels: int) -> Iterator[Path]:
    """Those of runs and audits; links are not followed, and an audit's own runs are part of it."""
    if (folder / AUDIT).is_file():
        yield folder
        return
    if _is_run(folder):
        yield folder
    if levels:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and entry.name != COLUMNS and not entry.name.startswith("."):
                    yield from _folders(Path(entry.path), levels - 1)


def _is_run(folder: Path) -> bool:
    """Whether it certainly is a run's, finished or not: other programs have settings.json and columns too."""
    if (result := _read(folder / RESULT)) is not None:
        return str(result.get("tool", "")).startswith("Drumfire")
    if {"requested", "effective"} <= (_read(folder / SETTINGS) or {}).keys():
        return True
    if all((folder / COLUMNS / f"{name}.npy").is_file() for name in BASE_COLUMNS):
        return True
    with contextlib.suppress(OSError):
        if _NEW.fullmatch(folder.name) is not None and set(os.listdir(folder)) <= {JOURNAL}:
            return True
    return _search(folder) is not None


def _search(folder: Path) -> Begun | None:
    """The search for the peak that was begun in the folder, if any."""
    with contextlib.suppress(UserError):
        return journal.read(folder / JOURNAL) if (folder / JOURNAL).is_file() else None
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """An object in JSON; None for any other file, and without one."""
    with contextlib.suppress(UserError, ValueError, RecursionError):
        found = json.loads(read_bytes(path))
        return found if isinstance(found, dict) else None
    return None


def _found(folder: Path) -> Found:
    saved, search = SavedRun(folder), _search(folder)
    result: Mapping[str, Any] = {}
    if not saved.unfinished:
        try:
            result = saved.result
            state = str(result["validity"])
        except UserError:
            state = "damaged"
    else:
        state = "running" if is_claimed(folder) else "unfinished" if search is None else "search"
    scenario, mode = result.get("scenario", ""), result.get("mode", "")
    subject: Mapping[str, Any] = {} if search is None else {"sut_name": search.subject.get("system", "")}
    with contextlib.suppress(UserError):
        subject = {**subject, **saved.subject}
        if not result:
            scenario, mode = saved.effective.kind, saved.effective.mode.name
    return Found(
        folder=str(folder),
        state=state,
        started=_started(result, folder),
        what=_what(subject, folder),
        scenario=scenario,
        mode=mode,
        metric=result.get("metric"),
        bytes=_bytes(folder),
    )


def _audit(folder: Path) -> Found:
    """The audit in ``folder``: its usual run says when, what and how fast."""
    state, test = "damaged", ""
    with contextlib.suppress(UserError):
        if (outcome := audits.read(folder)) is not None:
            test, state = outcome["test"], "PASS" if outcome["passed"] else "FAIL"
            if outcome["interrupted"]:
                state = "running" if is_claimed(folder) else "unfinished"
    usual = folder / audits.USUAL
    one = _found(usual if usual.is_dir() else folder)
    what = f"{test} {one.what}".strip() if usual.is_dir() else test
    return replace(one, folder=str(folder), state=state, what=what, mode="", bytes=_bytes(folder))


def _started(result: Mapping[str, Any], folder: Path) -> str:
    with contextlib.suppress(ValueError, TypeError):
        began = datetime.fromisoformat(result.get("started") or "")
        return (began if began.tzinfo else began.replace(tzinfo=UTC)).isoformat()
    return datetime.fromtimestamp(folder.stat().st_mtime, UTC).isoformat()


def _what(subject: Mapping[str, Any], folder: Path) -> str:
    system = subject.get("system") or {}
    words: Sequence[str] = [str(system[part]) for part in ("backend", "model", "device") if system.get(part)]
    return " ".join(words) or str(subject.get("sut_name", "")) or folder.name


def _bytes(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
    return total
