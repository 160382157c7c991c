"""Removes a run or an audit, or what is large of it.

Removes nothing that a run did not write, and nothing of a run that goes on.  An audit is removed whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from drumfire.bench.peak.journal import JOURNAL
from drumfire.bench.report import audits
from drumfire.bench.report.audits import AUDIT
from drumfire.loadgen import logs, series, summary, trace
from drumfire.loadgen.claim import held, is_claimed
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

ROWS = (COLUMNS, series.FOLDER, logs.DETAIL, logs.ACCURACY, trace.TRACE)
"""The parts of a run that have a row for each sample."""
LARGE = (*ROWS, HISTOGRAMS)
_SMALL = (REPORT, PAGE, ENVIRONMENT, SCORE, JOURNAL, summary.SUMMARY, SETTINGS, UNFINISHED, RESULT)
ALL = (*LARGE, *_SMALL)
"""The result last, as it shows what the folder is."""
_PARTS = {f"{name}.partial": name for name in ALL}
"""By the name that a file has while it is written."""
_SUFFIXES = (".npy", ".json", ".hgrm", ".hlog", ".partial")
"""Of the files in a run's own folders."""


class KeptError(Exception):
    """Why a run is not removed."""


def remove(folder: Path, root: Path, wanted: Sequence[str], *, really: bool) -> int:
    """Remove the parts ``wanted`` of a run or an audit below ``root``; returns the bytes that frees.

    Not ``really``: only these.  Raises ``KeptError`` for a run that is not removed, ``OSError`` where it cannot be.
    """
    with _unclaimed(folder, root):
        of_kind = _of_audit if (folder / AUDIT).is_file() else _of_run
        files, folders = of_kind(folder, wanted)
        freed = sum(path.lstat().st_blocks * 512 for path in files)
        if really:
            for path in files:
                path.unlink()
            for path in folders:
                path.rmdir()
            if RESULT in wanted:
                _remove_empty(folder, root)
    return freed


def _of_run(folder: Path, wanted: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The files of a run to remove, the result last as it shows what the folder is, and folders that they leave empty.

    ``wanted``: the parts of a run to remove, in this order.  Raises ``KeptError`` where something else is there.
    """
    names = os.listdir(folder)
    if foreign := sorted({*names} - {*ALL, *_PARTS}):
        raise KeptError(f"it holds {foreign[0]}, which no run writes: move that first")
    files: list[Path] = []
    folders: list[Path] = []
    owned = {name: _PARTS.get(name, name) for name in names}
    places = {name: wanted.index(part) for name, part in owned.items() if part in wanted}
    for name in sorted(places, key=places.__getitem__):
        path = folder / name
        mode = path.lstat().st_mode
        if not any(is_kind(mode) for is_kind in (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)):
            raise KeptError(f"{name} is no file, and no run writes such: move it first")
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
                    raise KeptError(f"it holds {place / name}, which no audit writes: move that first")
            files += [Path(path, name) for name in sorted(names) if RESULT in wanted or name in wanted]
        if RESULT in wanted and place.parts:
            folders.append(Path(path))
    return files, folders


def _within(folder: Path) -> list[Path]:
    """The files in one of a run's own folders."""
    files = list(folder.iterdir())
    for path in files:
        if stat.S_ISDIR(path.lstat().st_mode) or path.suffix not in _SUFFIXES:
            raise KeptError(f"it holds {folder.name}/{path.name}, which no run writes: move that first")
    return files


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove the folder and, below ``root``, those that held nothing else."""
    folder.rmdir()
    with contextlib.suppress(OSError):  # it holds something
        while (folder := folder.parent) != root and root in folder.parents:
            folder.rmdir()


@contextlib.contextmanager
def _unclaimed(folder: Path, root: Path) -> Iterator[None]:
    """Hold the folder as a run would, so that none begins in it.  Raises ``KeptError`` if one has it, or one above."""
    with held(folder) as is_ours:
        if not is_ours:
            raise KeptError("it is running")
        if any(is_claimed(parent) for parent in folder.parents if parent == root or root in parent.parents):
            raise KeptError("it belongs to a run that goes on")
        if audit := next((above for above in folder.absolute().parents if (above / AUDIT).is_file()), None):
            raise KeptError(f"it belongs to the audit {audit}: remove that as a whole")
        yield
