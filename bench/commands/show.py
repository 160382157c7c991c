"""``drumfire show RUN``: prints a saved run's report from its folder, as it was printed when the run ended."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drumfire.bench import statuses
from drumfire.bench.options.parser import Command
from drumfire.bench.report import terminal
from drumfire.bench.report.rows import Row, Section, Style, report
from drumfire.loadgen.errors import UserError, printable
from drumfire.loadgen.options import option
from drumfire.loadgen.record import Status
from drumfire.loadgen.saved import SavedRun, load


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire show``."""

    run: Path = option(metavar="RUN", position=True, help="the folder of a run")
    json: bool = option(False, help="print the result as one JSON object instead, as result.json has it")


def show(options: Options) -> int:
    """Print the report and return the status of the run's verdict."""
    saved = load(options.run)
    if saved.unfinished:
        if options.json:
            print(printable(f"drumfire show: {saved.folder} is unfinished: there is no result"), file=sys.stderr)
        else:
            terminal.put(_unfinished(saved))
        return statuses.UNDECIDED
    if options.json:
        print(json.dumps(saved.result, allow_nan=False))
    else:
        terminal.put(report(saved.result))
    return statuses.VALID if saved.valid else statuses.INVALID


COMMAND = Command(Options, show, "Print the report of a saved run.", "drumfire show runs/mine", kept=True)


def _unfinished(saved: SavedRun) -> Iterator[Section]:
    yield [
        Row("Result is", ["unfinished"], Style.UNFINISHED),
        Row("", ["The run ended before all of it was saved: do it again."], Style.REASON),
    ]
    rows = []
    with contextlib.suppress(UserError):
        rows.append(Row("scenario", [f"{saved.effective.scenario.name}, {saved.effective.mode.name}"]))
    if (status := saved.columns.get("status")) is not None:
        answered = int(np.count_nonzero(status == Status.OK))
        rows.append(Row("samples", [f"{status.size:,} issued, {answered:,} answered"]))
    rows.append(Row("there", [", ".join(sorted(path.name for path in saved.folder.iterdir()))]))
    yield [*rows, Row("folder", [str(saved.folder)], Style.FOLDER)]
