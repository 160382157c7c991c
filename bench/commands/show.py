"""``drumfire show RUN``: prints a saved run's or audit's report from its folder, as it was printed at the end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drumfire.bench import statuses
from drumfire.bench.history import find
from drumfire.bench.journal import resuming_where_it_is
from drumfire.bench.options.parser import Command
from drumfire.bench.peak import journal
from drumfire.bench.peak.journal import JOURNAL, Begun
from drumfire.bench.report import audits, rows, sessions, terminal, unfinished
from drumfire.bench.report.rows import Row, Section, Style, report
from drumfire.bench.session import session
from drumfire.loadgen.claim import is_claimed
from drumfire.loadgen.directory import PAGE
from drumfire.loadgen.errors import printable
from drumfire.loadgen.options import option
from drumfire.loadgen.record import Status
from drumfire.loadgen.saved import SavedRun, load
from drumfire.loadgen.wording import counted


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire show``."""

    run: Path = option(
        metavar="RUN",
        position=True,
        help="the folder of a run, an audit, or of runs that ab or sweep made; a part of its name in runs, or last",
    )
    json: bool = option(False, help="print the result as one JSON object instead, as result.json has it")


def show(options: Options) -> int:
    """Print the report and return the status of the run's verdict."""
    folder = find(str(options.run), sessions=True)
    if (outcome := audits.read(folder)) is not None:
        return _audit(outcome, folder.absolute(), options)
    if (ended := sessions.read(folder)) is not None:
        name, document = ended
        if not options.json:
            document = {**document, "directory": _where(document["directory"], folder)}
            if document.get("page"):
                document["page"] = str(Path(document["directory"], PAGE))
        return sessions.put(name, document, as_json=options.json)
    if (begun := session.begun_in(folder)) is not None:
        why = f"It has {counted(len(begun.lines), 'run')} that ended: the command that began it resumes it."
        verdict = [Row("Session is", ["unfinished"], Style.UNFINISHED), Row("", [why], Style.REASON)]
        again = resuming_where_it_is(begun.again, folder)
        terminal.put([verdict, [Row("to resume", [again], Style.FOLDER)]])
        return statuses.UNDECIDED
    # A search may have nothing but its journal.
    saved = SavedRun(folder.absolute()) if (folder / JOURNAL).is_file() else load(folder)
    if saved.unfinished:
        if options.json:
            print(printable(f"drumfire show: {saved.folder} is unfinished: there is no result"), file=sys.stderr)
        else:
            terminal.put(_unfinished(saved))
        return statuses.UNDECIDED
    if options.json:
        print(json.dumps(saved.result, allow_nan=False))
    else:
        terminal.put(report(saved.result | {"directory": _where(saved.result.get("directory"), folder)}))
    if saved.ended is not None:
        why = f"its process ended while it saved, and not all could be saved: {saved.ended['unsaved']}"
        print(printable(f"drumfire show: {saved.folder}: {why}"), file=sys.stderr)
    return statuses.VALID if saved.valid else statuses.INVALID


COMMAND = Command(Options, show, "Print the report of a saved run or audit.", "drumfire show runs/mine")


def _audit(outcome: audits.Outcome, folder: Path, options: Options) -> int:
    if options.json:
        print(json.dumps(outcome, allow_nan=False))
    else:
        terminal.put(audits.report(outcome, folder, under_way=is_claimed(folder)))
    if outcome["interrupted"]:
        return statuses.UNDECIDED
    return statuses.VALID if outcome["passed"] else statuses.INVALID


def _where(recorded: object, folder: Path) -> str:
    """The folder as it was saved, or as it is named now where it has been moved."""
    with contextlib.suppress(OSError, ValueError):
        if isinstance(recorded, str) and os.path.samefile(recorded, folder):
            return recorded
    return str(folder)


def _unfinished(saved: SavedRun) -> Iterator[Section]:
    search = journal.read(saved.folder / JOURNAL) if (saved.folder / JOURNAL).is_file() else None
    why = unfinished.why(saved) if search is None or saved.under_way else _of_search(search)
    yield [Row("Result is", ["unfinished"], Style.UNFINISHED), *(Row("", [text], Style.REASON) for text in why)]
    known = {} if search is None else {"sut_name": search.subject.get("system", "")}
    yield from rows.unfinished(known | unfinished.document(saved))
    rest = []
    if search is not None and search.again:
        rest.append(Row("to resume", [resuming_where_it_is(search.again, saved.folder)], Style.FOLDER))
    elif command := unfinished.document(saved).get("command"):
        rest.append(Row("command", [command], Style.FOLDER))
    if (status := saved.columns.get("status")) is not None:
        counts = {name: int(np.count_nonzero(status == Status[name.upper()])) for name in ("failed", "unanswered")}
        lost = int(np.count_nonzero(status == Status.MISSING))
        answered = int(np.count_nonzero(status == Status.OK))
        further = "".join(f", {count:,} {name}" for name, count in counts.items() if count)
        rest.append(Row("samples", [f"{status.size - lost:,} issued, {answered:,} answered{further}"]))
    rest.append(Row("there", [", ".join(sorted(path.name for path in saved.folder.iterdir()))]))
    yield [*rest, Row("folder", [str(saved.folder)], Style.FOLDER)]


def _of_search(search: Begun) -> Iterator[str]:
    count = len(search.probes)
    yield f"It is a search for the peak with {counted(count, 'finished probe')}: the command that began it resumes it."
