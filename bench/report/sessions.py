"""The outcome of several runs in an order: its file in their folder, its report as rows, and its status."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drumfire.bench import gates, statuses
from drumfire.bench.compare.comparison import Comparison
from drumfire.bench.report import comparisons, sweeps, terminal
from drumfire.bench.report.outputs import AB as AB
from drumfire.bench.report.outputs import SWEEP as SWEEP
from drumfire.bench.report.rows import Row, Section, Style
from drumfire.bench.report.sweeps import Outcome
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import read_json

_SCHEMA = {"type": "object"}
Document = Mapping[str, Any]


def read(folder: Path) -> tuple[str, Document] | None:
    """The file's name and the document of the session in ``folder``; None where none has ended there.

    Raises ``UserError`` where it is damaged.
    """
    for name in (AB, SWEEP):
        if (folder / name).is_file():
            document: Document = read_json(folder / name, _SCHEMA)
            try:
                list(report(name, document))
                status(name, document)
            except (LookupError, TypeError, ValueError, AttributeError):
                raise UserError(f"{folder / name} does not hold what drumfire {name[:-5]} saves") from None
            return name, document
    return None


def report(name: str, document: Document) -> Iterator[Section]:
    """The report as it was printed at the end."""
    if name == SWEEP:
        yield from sweeps.report(Outcome.of(document))
        return
    verdict, *rest = comparisons.sections(Comparison.of(document), document)
    yield [*verdict, *(Row("", [text], Style.WARNING) for text in document["notes"])]
    yield from rest[:-1]
    folders = [Row("runs of A", [f"{document['directory']}/A"], Style.FOLDER)]
    folders += [Row("runs of B", [f"{document['directory']}/B"], Style.FOLDER)]
    more = [Row("more runs", [document["more"]], Style.FOLDER)] if document.get("more") else []
    yield [*folders, *more]


def status(name: str, document: Document) -> int:
    """The exit status."""
    own = sweeps.status(Outcome.of(document)) if name == SWEEP else document["verdict"]["status"]
    return statuses.worst(own, gates.status(document["expectations"]))


def put(name: str, document: Document, *, as_json: bool) -> int:
    """Print the outcome and return its status."""
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        terminal.put(list(report(name, document)))
    return status(name, document)
