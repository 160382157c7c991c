"""Opens the runs that a word on the command line names, as one side of a comparison."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from drumfire.bench.history import find
from drumfire.bench.report import audits
from drumfire.loadgen.directory import RESULT
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.saved import SavedRun, is_run, load, read_result

FORMS = (
    "a run's folder, a part of its name in runs, or last; several with commas between them; or a folder that holds "
    "several"
)
"""The words that ``named`` and ``opened`` take, for help pages."""


class ResultFile(SavedRun):
    """A result document without the rest of its run, so with figures but no columns."""

    @property
    def unfinished(self) -> bool:
        return False

    @cached_property
    def result(self) -> dict[str, Any]:
        return read_result(self.folder)


def opened(word: str) -> list[SavedRun]:
    """The finished runs that a word names.  Raises ``UserError`` as ``named`` does, and for an unfinished run."""
    found = named(word)
    for run in found:
        _ = run.result  # raises where there is none
    return found


def named(word: str) -> list[SavedRun]:
    """The runs of a run's folder, a result file, several of these with commas between them, or a folder of runs.

    ``history.find`` looks up words that are not paths.  Raises ``UserError`` for anything else.
    """
    parts = [word] if os.path.lexists(word) else word.split(",")
    found = [run for part in parts if part for run in _opened(find(part))]
    if not found:
        raise UserError(f"{word!r} names no run")
    return found


def _opened(path: Path) -> Iterator[SavedRun]:
    if (outcome := audits.read(path)) is not None:
        place = path / next(iter(audits.places(outcome["test"]).values()))
        raise UserError(f"{path} is the folder of an audit: name one of its runs, such as {place}")
    if path.is_file():
        yield ResultFile(path.absolute())
    elif not path.is_dir():
        raise UserError(f"{path} is not a run: name the folder of a run, or its {RESULT}")
    elif is_run(path):
        yield load(path)
    else:
        runs = [each for each in sorted(path.iterdir()) if each.is_dir() and is_run(each)]
        if not runs:
            raise UserError(
                f"{path} is not the folder of a run, as it has no {RESULT}, and holds none (deeper folders are not "
                "looked at): name the folder right above the runs"
            )
        yield from map(load, runs)
