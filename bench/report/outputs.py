"""Files that options name: whether they may be written, known before anything is measured; and their writing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from drumfire.bench.peak import journal
from drumfire.bench.report import terminal
from drumfire.bench.report.audits import AUDIT
from drumfire.loadgen import directory, series
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import in_one_step

AB, SWEEP, SESSION = "ab.json", "sweep.json", "session.jsonl"
"""What several runs in an order came to, and their journal."""
_FOLDERS = (directory.COLUMNS, directory.HISTOGRAMS, series.FOLDER)
_FILES = (
    directory.RESULT, directory.SETTINGS, directory.ENVIRONMENT, directory.UNFINISHED, directory.REPORT,
    directory.SCORE, AUDIT, journal.JOURNAL, AB, SWEEP, SESSION,
)  # fmt: skip


def check(outputs: Mapping[str, Path | None], inputs: Iterable[Path] = (), folder: Path | None = None) -> None:
    """Raise ``UserError`` for a path that cannot become a file, or is one that a run wrote.

    ``outputs``: by the option that names each.  ``inputs``: what is read.  ``folder``: where a run will be saved.
    """
    read = {path.resolve() for path in inputs}
    written: dict[Path, str] = {}
    for flag, path in outputs.items():
        if path is None:
            continue
        place = path.resolve()
        if path.is_dir():
            raise UserError(f"{flag} {path} is a folder: name a file, such as {path / directory.PAGE}")
        if path.exists() and not path.is_file():
            raise UserError(f"{flag} {path} is no file: name one that may be replaced")
        if not place.parent.is_dir():
            raise UserError(f"{flag}: there is no folder {path.absolute().parent}: make it first")
        if place in read or _is_a_runs(place, folder):
            raise UserError(f"{flag} {path} is a file of a run, which it would replace: name another")
        if place in written:
            raise UserError(f"{flag} and {written[place]} name the same file, {path}: name two")
        written[place] = flag


def form(output: Path | None, ends: Mapping[str, str], wanted: str | None, usual: str, option: str = "--format") -> str:
    """The format to write: ``wanted``, or that of the end of the file's name, or ``usual`` where neither says.

    ``ends``: formats by the ends of names.  ``option``: the one that says what is wanted.  Raises ``UserError`` where
    the two contradict each other, and for an unknown end.
    """
    end = "" if output is None else output.suffix.lower()
    named = ends.get(end)
    if wanted is not None:
        if named not in (None, wanted):
            raise UserError(f"{option} writes {wanted}, and --output {output} ends as {named} does: change one of them")
        return wanted
    if end and named is None:
        raise UserError(
            f"--output {output} does not say by its end what to write: end it in {', '.join(ends)}, or add --format"
        )
    return named or usual


class _Standard:
    """Standard output, as a file of bytes."""

    def write(self, text: bytes) -> None:
        terminal.write(text)


@contextlib.contextmanager
def opened(output: Path | None) -> Iterator[Any]:
    """The file ``output`` for bytes, which replaces another when it is whole; without one, standard output.

    Raises ``UserError`` where the file cannot be written.
    """
    if output is None:
        yield _Standard()
        return
    try:
        with in_one_step(output) as file:
            yield file
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror or error}") from None


def _is_a_runs(path: Path, folder: Path | None) -> bool:
    parent = path.parent
    if parent.name in _FOLDERS and _is_run(parent.parent):
        return True
    own = path.name in _FILES or path.name.startswith("mlperf_log_")
    return own and ((path.exists() and path.name != directory.REPORT) or _is_run(parent, folder))


def _is_run(path: Path, folder: Path | None = None) -> bool:
    names = (directory.RESULT, directory.SETTINGS, directory.COLUMNS, AUDIT, journal.JOURNAL, AB, SWEEP, SESSION)
    return any((path / name).exists() for name in names) or (folder is not None and path == folder.resolve())
