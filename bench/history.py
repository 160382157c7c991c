"""The runs and audits below a folder: what there is of each, and which of them a word on a command line means.

Reads of each only what a list needs, so that a thousand take a fraction of a second.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from drumfire.bench.peak import journal
from drumfire.bench.peak.journal import JOURNAL, Begun
from drumfire.bench.report import audits
from drumfire.bench.report.audits import AUDIT
from drumfire.bench.report.outputs import AB, SESSION, SWEEP
from drumfire.bench.session.session import is_run_of, is_session
from drumfire.loadgen import series
from drumfire.loadgen.claim import RUNS, is_claimed
from drumfire.loadgen.directory import COLUMNS, HISTOGRAMS, RESULT, SETTINGS
from drumfire.loadgen.errors import UserError, printable
from drumfire.loadgen.files import read_bytes
from drumfire.loadgen.record import BASE_COLUMNS
from drumfire.loadgen.results import judged_latency
from drumfire.loadgen.saved import SavedRun
from drumfire.loadgen.schema import fault
from drumfire.loadgen.wording import counted

FINISHED = ("VALID", "INVALID")
"""The states of runs that have a result."""
DONE = "done"
"""The state of a session whose runs are all done."""
_DEEPEST = 4
"""Levels below the folder."""
_NEW = re.compile(r"\d{8}-\d{6}-.+")
"""The name of a folder that a run makes itself: it is empty until something is saved."""
_OWN = (COLUMNS, HISTOGRAMS, series.FOLDER)
"""A run's own folders, in which there are no further runs."""
_WORD, _OBJECT = {"type": "string"}, {"type": ["object", "null"]}
_LATENCY = _OBJECT | {"properties": {"p99": {"type": "number"}}}
_METRIC = {"name": _WORD, "value": {"type": "number"}, "unit": _WORD}
_LISTED: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "validity": {"type": "string"},
        "scenario": _WORD,
        "mode": _WORD,
        "started": {"type": ["string", "null"]},
        "sut_name": _WORD,
        "system": _OBJECT,
        "metric": _OBJECT | {"properties": _METRIC},
        "latency_ns": _LATENCY,
        "query_latency_ns": _LATENCY,
    },
}
"""The parts of a result that a list needs; ``SavedRun.result`` checks all of it, which takes ten times as long."""
_LAST = re.compile(r"last(?:~([0-9]{1,9}))?")
_AGE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([mhdw]?)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MOST_NAMED = 4
"""Folders in a line of an error."""


@dataclass(frozen=True)
class Found:
    """A run, an audit or a session in a list."""

    folder: str
    state: str
    """VALID, INVALID, ``running``, ``unfinished``, ``search`` for a search for the peak that can be resumed, or
    ``damaged`` where its result cannot be read.  An audit is PASS or FAIL in place of VALID and INVALID,
    and a session ``done``, ``running`` or ``resumable``.
    """
    started: str
    """ISO 8601, UTC; where the run does not say, when its settings were saved, or its folder last changed."""
    what: str
    scenario: str
    mode: str
    metric: Mapping[str, Any] | None
    """Name, value and unit, as in a result; None without one."""
    bytes: int
    """On the disk."""
    p99_ns: float | None = None
    """The p99 of the queries' latencies; None in Offline, whose one query has a latency for each of its samples."""
    system: Mapping[str, Any] = field(default_factory=dict)
    """``backend`` and ``model``, as far as they are known."""
    session: str = ""
    """The folder of the ``ab`` or ``sweep`` that it is a run of; empty for any other run."""

    @property
    def began(self) -> datetime:
        return datetime.fromisoformat(self.started)


def runs_in(folder: Path) -> list[Found]:
    """The runs in ``folder``, the newest first.  Raises ``UserError`` where there is no such folder."""
    if not folder.is_dir():
        if folder == RUNS and not folder.exists():
            return []
        raise UserError(f"{folder} is no folder: name one that holds runs")
    found = [
        replace(_audit(path) if is_audit else _found(path), session=session)
        for path, is_audit, session in _folders(folder, _DEEPEST)
    ]
    return sorted(found, key=lambda one: one.began, reverse=True)


def grouped(runs: Sequence[Found]) -> list[tuple[Found, Sequence[Found]]]:
    """The ``runs``, of which those of a session are one entry, which the list has beside them; the newest first."""
    groups: dict[str, list[Found]] = {}
    for one in runs:
        groups.setdefault(one.session or one.folder, []).append(one)
    return [(_session(each[0]), each) if each[0].session else (each[0], ()) for each in groups.values()]


def _session(newest: Found) -> Found:
    """The session of its newest run."""
    folder = Path(newest.session)
    ended = (folder / AB).is_file() or bool((_read(folder / SWEEP) or {}).get("finished"))
    state = "running" if is_claimed(folder) else DONE if ended else "resumable"
    kind = "sweep" if (folder / SWEEP).is_file() else "ab" if (folder / AB).is_file() else "session"
    what = f"{kind}: {newest.what}"
    size = _bytes(newest.session)
    return replace(
        newest, folder=newest.session, state=state, what=what, metric=None, p99_ns=None, bytes=size, session=""
    )


def find(word: str, folder: Path = RUNS, *, sessions: bool = False) -> Path:
    """The path that ``word`` is, or the run in ``folder`` that it means.

    ``last`` is the finished run that began last, ``last~1`` the one before it; what else began later is named on
    standard error.  The runs of an ``ab`` or a ``sweep`` count as one there, which is what the word then means; only
    with ``sessions`` that is no error.  Any other word is the folder's name or a part of it that no other has, or with
    a slash, of its path.  Raises ``UserError`` where there is no such run, or more than one.
    """
    if os.path.lexists(word):
        return Path(word)
    if (last := _LAST.fullmatch(word)) is not None:
        return _one(word, _last(word, int(last[1] or 0), folder), sessions)
    there = list(_folders(folder, _DEEPEST)) if folder.is_dir() else []
    paths = list(dict.fromkeys([path for path, _, _ in there] + sorted({Path(one) for _, _, one in there if one})))
    names = {path: str(path.relative_to(folder)) if os.sep in word else path.name for path in paths}
    found = [path for path in paths if names[path] == word] or [path for path in paths if word in names[path]]
    if not found:
        raise UserError(
            f"{word} is no folder, and no run in {folder} has it in its name: name a run's folder, a part of its name, "
            "last, or last~1"
        )
    if len(found) > 1:
        raise UserError(f"{word} can mean {_some([str(path) for path in sorted(found)])}: write more of the name")
    return _one(word, found[0], sessions)


def _one(word: str, path: Path, sessions: bool) -> Path:
    """The path of the run or session that is meant.  Raises ``UserError`` for a session where only a run will do."""
    if not sessions and is_session(path):
        first = min((str(run) for run, _, _ in _folders(path, _DEEPEST) if run != path), default=str(path / "A" / "1"))
        raise UserError(f"{word} is {path}, several runs by ab or sweep: name one of them, such as {first}")
    return path


def age_of(text: str) -> timedelta:
    """A time from text such as ``30d``, ``12h``, ``2w`` or ``90m``; a number alone is days.  Raises ``UserError``."""
    if (found := _AGE.fullmatch(text)) is None:
        raise UserError(f"{text[:60]!r} is not an age: write it as 30d, 12h, 2w or 90m")
    try:
        return timedelta(**{_UNITS[found[2] or "d"]: float(found[1])})
    except OverflowError:
        raise UserError(f"{text[:60]!r} is longer than any run is old") from None


def moment_of(text: str) -> datetime:
    """A point in time from ISO text, here if it has no zone, or from how long ago it was, such as ``30d``.

    Raises ``UserError``.
    """
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return datetime.fromisoformat(text).astimezone()
    with contextlib.suppress(UserError, OverflowError):
        if text[-1:] in _UNITS:
            return datetime.now(UTC) - age_of(text)
    raise UserError(
        f"{text[:60]!r} is not a time: write a date as 2026-11-30, with 2026-11-30T18:00 for a time, or 30d"
    )


def _last(word: str, number: int, folder: Path) -> Path:
    every = [one for one, _ in grouped(runs_in(folder) if folder.is_dir() else [])]
    finished = [at for at, one in enumerate(every) if one.state in (*FINISHED, DONE)]
    if number >= len(finished):
        there = counted(len(finished), "finished run") if finished else "no finished run"
        raise UserError(f"there is no {word}: {folder} has {there}; name the folder of a run")
    place = finished[number]
    if skipped := [f"{one.folder} ({one.state})" for one in every[:place] if one.state not in (*FINISHED, DONE)]:
        text = f"note: {word} is {every[place].folder}; what began later is not a finished run: {_some(skipped)}"
        print(printable(text), file=sys.stderr)
    return Path(every[place].folder)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _folders(folder: Path, levels: int, session: str = "") -> Iterator[tuple[Path, bool, str]]:
    """The folders of runs and audits, each with whether it is an audit's, and with the ``Found.session`` it is in.

    Links are not followed, and an audit's own runs are part of it.  A session without a run stands for itself.
    """
    try:
        with os.scandir(folder) as entries:
            below = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    except OSError:
        return
    is_empty = SESSION in below and levels > 1 and is_session(folder)
    if is_empty:
        session = str(folder)
    if AUDIT in below and (folder / AUDIT).is_file():
        yield folder, True, ""
        return
    if _is_run(folder, below.keys()):
        yield folder, False, session if session and is_run_of(Path(session), folder) else ""
    if levels:
        for name, is_folder in below.items():
            if is_folder and name not in _OWN and not name.startswith("."):
                for one in _folders(folder / name, levels - 1, session):
                    is_empty = is_empty and one[2] != session
                    yield one
    if is_empty:
        yield folder, False, session


def _is_run(folder: Path, names: Collection[str]) -> bool:
    """Whether the folder certainly is a run's, finished or not: other programs have settings.json and columns too."""
    if RESULT in names and (result := _read(folder / RESULT)) is not None:
        return str(result.get("tool", "")).startswith("Drumfire")
    if SETTINGS in names and {"requested", "effective"} <= (_read(folder / SETTINGS) or {}).keys():
        return True
    if COLUMNS in names and all((folder / COLUMNS / f"{name}.npy").is_file() for name in BASE_COLUMNS):
        return True
    if _NEW.fullmatch(folder.name) is not None and set(names) <= {JOURNAL}:
        return True
    return JOURNAL in names and _search(folder) is not None


def _search(folder: Path) -> Begun | None:
    """The search for the peak that was begun in the folder, if any."""
    with contextlib.suppress(UserError):
        return journal.read(folder / JOURNAL) if (folder / JOURNAL).is_file() else None
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """An object in JSON; None for any other file, and without one."""
    with contextlib.suppress(UserError, ValueError):
        found = orjson.loads(read_bytes(path))
        return found if isinstance(found, dict) else None
    return None


def _found(folder: Path) -> Found:
    result: Mapping[str, Any] = {}
    subject: Mapping[str, Any] = {}
    scenario, mode = "", ""
    saved = SavedRun(folder)
    if not saved.unfinished:
        whole = _read(folder / RESULT) or {}
        result = subject = {name: whole[name] for name in whole if name in _LISTED["properties"]}
        state = str(result.get("validity"))
        if fault(result, _LISTED) is not None or state not in FINISHED:
            state, subject, result = "damaged", {}, {}
        scenario, mode = result.get("scenario", ""), result.get("mode", "")
    else:
        search = _search(folder)
        state = "running" if is_claimed(folder) else "unfinished" if search is None else "search"
        subject = {} if search is None else {"sut_name": search.subject.get("system", "")}
        with contextlib.suppress(UserError):
            subject = {**subject, **saved.subject}
            scenario, mode = saved.effective.kind, saved.effective.mode.name
    metric = result.get("metric") or {}
    system = subject.get("system") or {}
    return Found(
        folder=str(folder),
        state=state,
        started=_started(result, folder),
        what=_what(system, subject, folder),
        scenario=scenario,
        mode=mode,
        metric=metric if metric.keys() >= _METRIC.keys() else None,
        bytes=_bytes(str(folder)),
        p99_ns=None if scenario == "Offline" else judged_latency(result).get("p99"),
        system={name: str(system[name]) for name in ("backend", "model") if system.get(name)},
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
    return replace(one, folder=str(folder), state=state, what=what, mode="", bytes=_bytes(str(folder)))


def _started(result: Mapping[str, Any], folder: Path) -> str:
    with contextlib.suppress(ValueError, TypeError):
        began = datetime.fromisoformat(result.get("started") or "")
        return (began if began.tzinfo else began.replace(tzinfo=UTC)).isoformat()
    with contextlib.suppress(OSError):  # written when it began; the folder changes later too
        return _changed(folder / SETTINGS)
    return _changed(folder)


def _changed(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()


def _what(system: Mapping[str, Any], subject: Mapping[str, Any], folder: Path) -> str:
    words = [str(system[part]) for part in ("backend", "model", "device") if system.get(part)]
    return " ".join(words) or str(subject.get("sut_name", "")) or folder.name


def _bytes(folder: str) -> int:
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += _bytes(entry.path)
            else:
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
