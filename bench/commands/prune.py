"""``drumfire history prune``: removes runs and audits by rule, or what is large of them; shows first what it would.

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
from datetime import UTC, datetime
from pathlib import Path

from drumfire.bench import statuses
from drumfire.bench.history import Found, age_of, runs_in
from drumfire.bench.options.parser import Command
from drumfire.bench.peak.journal import JOURNAL
from drumfire.bench.report import audits
from drumfire.bench.report.audits import AUDIT
from drumfire.bench.report.listing import line, size
from drumfire.loadgen import logs, series, summary, trace
from drumfire.loadgen.claim import RUNS, is_claimed
from drumfire.loadgen.directory import (
    COLUMNS,
    ENVIRONMENT,
    HISTOGRAMS,
    PAGE,
    REPORT,
    RESULT,
    SCORE,
    SETTINGS,
    UNFINISHED,
)
from drumfire.loadgen.errors import UserError, one_line, printable
from drumfire.loadgen.options import option
from drumfire.loadgen.wording import counted

_ROWS = (COLUMNS, series.FOLDER, logs.DETAIL, logs.ACCURACY, trace.TRACE)
_LARGE = (*_ROWS, HISTOGRAMS)
_SMALL = (REPORT, PAGE, ENVIRONMENT, SCORE, JOURNAL, summary.SUMMARY, SETTINGS, UNFINISHED, RESULT)
_PARTS = {f"{name}.partial": name for name in (*_SMALL, *_LARGE)}
"""By the name that a file has while it is written."""
_SUFFIXES = (".npy", ".json", ".hgrm", ".hlog", ".partial")
"""Of the files in a run's own folders."""


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire history prune``."""

    folder: Path = option(RUNS, metavar="FOLDER", position=True, help="where the runs are (default: runs)")
    older_than: str | None = option(
        None, metavar="AGE", check=age_of, help="runs that began longer ago than 30d, 12h or 2w; a number alone is days"
    )
    keep: int | None = option(None, least=0, help="all but the newest N runs of the folder")
    invalid: bool = option(False, help="runs that are INVALID, and audits that FAIL")
    unfinished: bool = option(False, help="runs that ended before they were saved; no search that can be resumed")
    columns: bool = option(
        False,
        help="remove only what has a row for each sample, columns, series and logs: result, report, settings and "
        "histograms remain. 'drumfire compare' then has no intervals of such a run alone, only of several a side",
    )
    keep_results: bool = option(False, help="as --columns, and the histograms too")
    yes: bool = option(False, help="remove it without a question; elsewhere than on a terminal, nothing else removes")

    @property
    def wanted(self) -> Sequence[str]:
        """The parts of a run to remove, in this order."""
        return _LARGE if self.keep_results else _ROWS if self.columns else _LARGE + _SMALL


def prune(options: Options) -> int:
    """Remove the runs for which every rule holds, and print what was removed; the status says whether all of it was."""
    if options.older_than is None and options.keep is None and not options.invalid and not options.unfinished:
        raise UserError("say which runs: --older-than AGE, --keep N, --invalid, --unfinished, or several of them")
    chosen = list(_chosen(options, runs_in(options.folder)))
    count, failed = _each(chosen, options, remove=options.yes)
    if count and not options.yes and sys.stdin.isatty() and sys.stdout.isatty() and _agreed():
        _, failed = _each(chosen, options, remove=True)
    return statuses.FAILED if failed else statuses.DONE


COMMAND = Command(
    Options,
    prune,
    "Remove runs by rule, or what is large of them; first, show what would be removed.",
    "drumfire history prune --older-than 30d --keep 10",
)


def _each(chosen: Sequence[Found], options: Options, *, remove: bool) -> tuple[int, bool]:
    """Remove each, or say what it would free; returns how many, and whether one could not be removed."""
    freed, count, failed = 0, 0, False
    done, whole = "removed" if remove else "would remove", RESULT in options.wanted
    part = "" if whole else "what is large of "
    for one in chosen:
        try:
            bytes_of_run = _prune(Path(one.folder), options, remove=remove)
        except (_KeptError, UserError, OSError) as error:
            failed = failed or isinstance(error, OSError)
            print(printable(f"kept {one.folder}: {one_line(error)}"), file=sys.stderr)
            continue
        if bytes_of_run or whole:
            freed, count = freed + bytes_of_run, count + 1
            print(f"{done} {part} {line(replace(one, bytes=bytes_of_run), sys.maxsize)}")
    more = "; to do so, add --yes" if count and not remove else ""
    print(f"{done} {part}{counted(count, 'run')}, {size(freed)}{more}")
    return count, failed


def _agreed() -> bool:
    """Whether the person at the terminal wants it; an empty line and the end of the input are no."""
    try:
        return input("remove that now? [y/N] ").strip().casefold() in ("y", "yes")
    except EOFError:
        print()
        return False


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
    before = None if options.older_than is None else datetime.now(UTC) - age_of(options.older_than)
    for number, one in enumerate(found):
        if options.keep is not None and number < options.keep:
            continue
        if before is not None and one.began >= before:
            continue
        if any(states.values()) and not states.get(one.state, False):
            continue
        yield one


def _prune(folder: Path, options: Options, *, remove: bool) -> int:
    """Remove a run or an audit, or what is large of it; returns the bytes it frees.  Without ``remove``, only these.

    Raises ``_KeptError`` for a run that is not removed, ``OSError`` where it cannot be.
    """
    with _unclaimed(folder, options.folder):
        of_kind = _of_audit if (folder / AUDIT).is_file() else _of_run
        files, folders = of_kind(folder, options.wanted)
        freed = sum(path.lstat().st_blocks * 512 for path in files)
        if remove:
            for path in files:
                path.unlink()
            for path in folders:
                path.rmdir()
            if RESULT in options.wanted:
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
