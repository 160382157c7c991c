"""Removes a run, an audit or a session, or what is large of it.

Removes nothing that a run did not write, and nothing of a run that goes on.  An audit and a session are removed as a
whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator, Sequence, Set
from pathlib import Path

from drumfire.bench.peak.journal import JOURNAL
from drumfire.bench.report import audits
from drumfire.bench.report.audits import AUDIT
from drumfire.bench.report.outputs import AB, SESSION, SWEEP
from drumfire.bench.session.session import GROUP, PLACE, is_run_of, is_session
from drumfire.loadgen import logs, series, summary, trace
from drumfire.loadgen.claim import held, is_claimed
from drumfire.loadgen.directory import (
    COLUMNS,
    ENVIRONMENT,
    HISTOGRAMS,
    LAYOUT,
    PAGE,
    REPORT,
    RESULT,
    SCORE,
    SETTINGS,
    UNFINISHED,
)
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import parse_json, read_bytes

ROWS = (COLUMNS, series.FOLDER, logs.DETAIL, logs.ACCURACY, trace.TRACE)
"""The parts of a run that have a row for each sample."""
LARGE = (*ROWS, HISTOGRAMS)
_SMALL = (REPORT, PAGE, ENVIRONMENT, SCORE, JOURNAL, summary.SUMMARY, SETTINGS, UNFINISHED, RESULT)
ALL = (*LARGE, *_SMALL)
"""The result last, as it shows what the folder is."""
_PARTS = {f"{name}.partial": name for name in ALL}
"""The part by the name that its file has while it is written."""
_SESSION = (SESSION, *(f"{name}{end}" for name in (AB, SWEEP, PAGE) for end in ("", ".partial")))
"""The files that a session has beside its runs."""
_FOLDERS = {COLUMNS: LAYOUT, series.FOLDER: series.LIST, HISTOGRAMS: ""}
"""A run's own folders; each with the file that says what else is there, if any."""


class KeptError(Exception):
    """Why a run is not removed."""


def remove(folder: Path, root: Path, wanted: Sequence[str], *, really: bool) -> int:
    """Remove the parts ``wanted`` of a run, an audit or a session below ``root``; returns the bytes that frees.

    Not ``really``: only these.  Raises ``KeptError`` for a run that is not removed, ``OSError`` where it cannot be.
    """
    with _unclaimed(folder, wanted):
        of_kind = _of_audit if (folder / AUDIT).is_file() else _of_session if is_session(folder) else _of_run
        files, folders = of_kind(folder, wanted)
        freed = sum(path.lstat().st_blocks * 512 for path in files)
        gone = [*files, *folders, folder] if RESULT in wanted else [*files, *folders]
        for parent in dict.fromkeys(path.parent for path in gone):
            if not os.access(parent, os.W_OK | os.X_OK):
                raise PermissionError(f"{parent} cannot be written to, and nothing was removed")
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
            raise KeptError(f"{name} is neither a file nor a folder, and no run writes that: move it first")
        if stat.S_ISDIR(mode):
            if owned[name] not in _FOLDERS:
                raise KeptError(f"its {name} is a folder, which no run writes: move that first")
            folders.append(path)
            files += _within(path, owned[name])
        else:
            files.append(path)
    return files, folders


def _of_audit(folder: Path, wanted: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """As ``_of_run``, of an audit with its runs.  Raises ``UserError`` where it does not say what it is."""
    outcome = audits.read(folder)
    assert outcome is not None
    return _of_several(folder, wanted, audits.places(outcome["test"]).values(), audits.files(outcome["test"]))


def _of_session(folder: Path, wanted: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """As ``_of_run``, of a session with its runs.  Its journal is the last file, as it shows what the folder is."""
    below = [path for depth in ("*", "*/*") for path in folder.glob(depth) if path.is_dir() and not path.is_symlink()]
    places = [path.relative_to(folder) for path in below]
    runs = [place for place in places if PLACE.fullmatch(str(place))]
    groups = {place for place in places if GROUP.fullmatch(str(place))}
    files, folders = _of_several(folder, wanted, runs, {*map(Path, _SESSION), *groups})
    return sorted(files, key=lambda path: path == folder / SESSION), folders


def _of_several(
    folder: Path, wanted: Sequence[str], runs: Collection[Path], own: Set[Path]
) -> tuple[list[Path], list[Path]]:
    """As ``_of_run``, of a folder with ``runs`` in it, and files of its ``own``."""
    if running := next((place for place in runs if is_claimed(folder / place)), None):
        raise KeptError(f"its run {running} goes on")
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
                    raise KeptError(f"it holds {place / name}, which no run writes: move that first")
            files += [Path(path, name) for name in sorted(names) if RESULT in wanted or name in wanted]
        if RESULT in wanted and place.parts:
            folders.append(Path(path))
    return files, folders


def _within(folder: Path, part: str) -> list[Path]:
    """The files in one of a run's own folders."""
    files = list(folder.iterdir())
    names = _declared(folder, part)
    for path in files:
        name = path.name.removesuffix(".partial")
        stem = name.removesuffix(".npy").removesuffix(".offsets")
        if part == HISTOGRAMS:
            is_own = name.endswith((".hgrm", ".hlog"))
        else:
            is_own = name == _FOLDERS[part] or (name.endswith(".npy") and (names is None or stem in names))
        if not is_own or stat.S_ISDIR(path.lstat().st_mode):
            raise KeptError(f"it holds {folder.name}/{path.name}, which no run writes: move that first")
    return files


def _declared(folder: Path, part: str) -> Collection[str] | None:
    """The columns or series that a run's own folder has by its list; None without one."""
    try:
        listed = parse_json(read_bytes(folder / _FOLDERS[part]))
        names: Collection[str] = (listed["columns"] if part == COLUMNS else listed).keys()
    except (UserError, ValueError, TypeError, LookupError, AttributeError):
        return None
    return names


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove the folder and, below ``root``, those that held nothing else."""
    folder.rmdir()
    with contextlib.suppress(OSError):  # it holds something
        while (folder := folder.parent) != root and root in folder.parents:
            folder.rmdir()


@contextlib.contextmanager
def _unclaimed(folder: Path, wanted: Sequence[str]) -> Iterator[None]:
    """Hold the folder as a run would, so that none begins in it.  Raises ``KeptError`` if one has it, or one above."""
    real = folder.resolve()
    above = real.parents
    with held(folder) as is_ours:
        if not is_ours:
            raise KeptError("it is running")
        if any(is_claimed(parent) for parent in above):
            raise KeptError("it belongs to a run that goes on")
        if audit := next((parent for parent in above if (parent / AUDIT).is_file()), None):
            raise KeptError(f"it belongs to the audit {audit}: remove that as a whole")
        session = next((parent for parent in above if is_session(parent) and is_run_of(parent, real)), None)
        if session and RESULT in wanted:
            raise KeptError(f"it is a run of {session}: remove that as a whole")
        yield
