"""``drumfire clean``: removes runs and audits by rule, or what is large of them; first it says what it would remove.

Removes nothing that a run did not write, and nothing of a run that goes on.  An audit is removed whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from drumfire.bench import statuses
from drumfire.bench.commands.runs import Found, line, runs_in, size
from drumfire.bench.options.parser import Command
from drumfire.bench.outcome import SCORE
from drumfire.bench.peak.journal import JOURNAL
from drumfire.bench.report import audits
from drumfire.bench.report.audits import AUDIT
from drumfire.loadgen import logs, series, summary, trace
from drumfire.loadgen.claim import RUNS, is_claimed
from drumfire.loadgen.directory import COLUMNS, ENVIRONMENT, PAGE, REPORT, RESULT, SETTINGS, UNFINISHED
from drumfire.loadgen.errors import UserError, one_line, printable
from drumfire.loadgen.options import option
from drumfire.loadgen.wording import counted

_LARGE = (COLUMNS, series.FOLDER, "histograms", logs.DETAIL, logs.ACCURACY, trace.TRACE)
_SMALL = (REPORT, PAGE, ENVIRONMENT, SCORE, JOURNAL, summary.SUMMARY, SETTINGS, UNFINISHED, RESULT)
_PARTS = {f"{name}.partial": name for name in (*_SMALL, *_LARGE)}
"""By the name that a file has while it is written."""
_SUFFIXES = (".npy", ".json", ".hgrm", ".hlog", ".partial")
"""Of the files in a run's own folders."""


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire clean``."""

    folder: Path = option(RUNS, metavar="FOLDER", position=True, help="where the runs are (default: runs)")
    older_than: float | None = option(None, metavar="DAYS", least=0, help="runs that began more than DAYS ago")
    keep: int | None = option(None, least=0, help="all but the newest N runs of the folder")
    invalid: bool = option(False, help="runs that are INVALID, and audits that FAIL")
    unfinished: bool = option(False, help="runs that ended before they were saved; no search that can be resumed")
    keep_results: bool = option(
        False,
        help="remove only what is large, columns, series, histograms and logs: report, result and settings remain",
    )
    yes: bool = option(False, help="remove it; without this, only show what would be removed")


def clean(options: Options) -> int:
    """Remove the runs for which every rule holds, and print what was removed; the status says whether all of it was."""
    if options.older_than is None and options.keep is None and not options.invalid and not options.unfinished:
        raise UserError("say which runs: --older-than DAYS, --keep N, --invalid, --unfinished, or several of them")
    freed, count, failed = 0, 0, False
    done = "removed" if options.yes else "would remove"
    part = "what is large of " if options.keep_results else ""
    for one in _chosen(options, runs_in(options.folder)):
        try:
            bytes_of_run = _clean(Path(one.folder), options)
        except (_KeptError, UserError, OSError) as error:
            failed = failed or isinstance(error, OSError)
            print(printable(f"kept {one.folder}: {one_line(error)}"), file=sys.stderr)
            continue
        if bytes_of_run or not options.keep_results:
            freed, count = freed + bytes_of_run, count + 1
            print(f"{done} {part} {line(replace(one, bytes=bytes_of_run), sys.maxsize)}")
    more = "; to do so, add --yes" if count and not options.yes else ""
    print(f"{done} {part}{counted(count, 'run')}, {size(freed)}{more}")
    return statuses.FAILED if failed else statuses.DONE


COMMAND = Command(
    Options,
    clean,
    "Remove runs by rule; first, show what would be removed.",
    "drumfire clean --older-than 30 --keep 10",
)


class _KeptError(Exception):
    """Why a run is not removed."""


def _chosen(options: Options, found: Sequence[Found]) -> Iterator[Found]:
    """The runs for which every rule that was given holds; ``found``: the newest first."""
    states = {
        "INVALID": options.invalid,
        "FAIL": options.invalid,
        "unfinished": options.unfinished,
        "running": options.unfinished,
    }
    now = datetime.now(UTC)
    for number, one in enumerate(found):
        if options.keep is not None and number < options.keep:
            continue
        if options.older_than is not None and (now - one.began) / timedelta(days=1) <= options.older_than:
            continue
        if any(states.values()) and not states.get(one.state, False):
            continue
        yield one


def _clean(folder: Path, options: Options) -> int:
    """Remove a run or an audit, or what is large of it; returns the bytes it frees.  Without ``yes``, only these.

    Raises ``_KeptError`` for a run that is not removed, ``OSError`` where it cannot be.
    """
    with _unclaimed(folder, options.folder):
        wanted = _LARGE if options.keep_results else _LARGE + _SMALL
        files, folders = _of_audit(folder, wanted) if (folder / AUDIT).is_file() else _of_run(folder, wanted)
        freed = sum(path.lstat().st_blocks * 512 for path in files)
        if options.yes:
            for path in files:
                path.unlink()
            for path in folders:
                path.rmdir()
            if not options.keep_results:
                _remove_empty(folder, options.folder)
    return freed


def _of_run(folder: Path, wanted: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The files of a run to remove, the result last as it shows what the folder is, and folders that they leave empty.

    ``wanted``: the parts of a run to remove, in this order.  Raises ``_KeptError`` where something else is there.
    """
    names = os.listdir(folder)
    if foreign := sorted({*names} - {*_LARGE, *_SMALL, *_PARTS}):
        raise _KeptError(f"it holds {foreign[0]}, which no run writes: move that first")
    files: list[Path] = []
    folders: list[Path] = []
    owned = {name: _PARTS.get(name, name) for name in names}
    places = {name: wanted.index(part) for name, part in owned.items() if part in wanted}
    for name in sorted(places, key=places.__getitem__):
        path = folder / name
        mode = path.lstat().st_mode
        if not any(is_kind(mode) for is_kind in (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)):
            raise _KeptError(f"{name} is no file, and no run writes such: move it first")
        if stat.S_ISDIR(mode):
            folders.append(path)
            files += _within(path)
        else:
            files.append(path)
    return files, folders


def _of_audit(folder: Path, wanted: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """As ``_of_run``, of an audit with its runs.  Raises ``UserError`` where it does not say what it is."""
    outcome = audits.read(folder)
    assert outcome is not None
    runs, own = audits.places(outcome["test"]).values(), audits.files(outcome["test"])
    known = {*own, *runs, *(parent for place in [*runs, *own] for parent in place.parents)}
    files: list[Path] = []
    folders: list[Path] = []
    for path, below, names in os.walk(folder, topdown=False):
        place = Path(path).relative_to(folder)
        if any(run in place.parents for run in runs):
            continue
        if place in runs:
            more, emptied = _of_run(Path(path), wanted)
            files, folders = files + more, folders + emptied
        else:
            links = [name for name in below if os.path.islink(os.path.join(path, name))]
            for name in [*names, *links, *(name for name in below if place / name not in known)]:
                if place / name not in own or name in below:
                    raise _KeptError(f"it holds {place / name}, which no audit writes: move that first")
            files += [Path(path, name) for name in sorted(names) if RESULT in wanted or name in wanted]
        if RESULT in wanted and place.parts:
            folders.append(Path(path))
    return files, folders


def _within(folder: Path) -> list[Path]:
    """The files in one of a run's own folders."""
    files = list(folder.iterdir())
    for path in files:
        if stat.S_ISDIR(path.lstat().st_mode) or path.suffix not in _SUFFIXES:
            raise _KeptError(f"it holds {folder.name}/{path.name}, which no run writes: move that first")
    return files


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove the folder and, below ``root``, those that held nothing else."""
    folder.rmdir()
    with contextlib.suppress(OSError):  # it holds something
        while (folder := folder.parent) != root and root in folder.parents:
            folder.rmdir()


@contextlib.contextmanager
def _unclaimed(folder: Path, root: Path) -> Iterator[None]:
    """Hold the folder as a run would, so that none begins in it.  Raises ``_KeptError`` if one has it, or one above."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _KeptError("it is running") from None
        if any(is_claimed(parent) for parent in folder.parents if parent == root or root in parent.parents):
            raise _KeptError("it belongs to a run that goes on")
        if audit := next((above for above in folder.absolute().parents if (above / AUDIT).is_file()), None):
            raise _KeptError(f"it belongs to the audit {audit}: remove that as a whole")
        yield
    finally:
        os.close(fd)
