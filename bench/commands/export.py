"""``drumfire export RUN``: a saved run for other programs, a row for each sample or the result in a line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from drumfire.bench import statuses
from drumfire.bench.history import find
from drumfire.bench.options.parser import Command
from drumfire.bench.report import export, outputs
from drumfire.bench.report.rowwise import Rows
from drumfire.loadgen.errors import UserError, printable
from drumfire.loadgen.options import option
from drumfire.loadgen.saved import SavedRun, load

_ENDS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""The formats by the ends of files' names."""
_LONG = 2_000_000
"""From this many rows on, a terminal shows how far it is."""
_STDOUT = Path("-")


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire export``."""

    run: tuple[Path, ...] = option(
        metavar="RUN",
        position=True,
        help="the folder of a run, a part of its name in runs, or last; of results, several",
    )
    format: str | None = option(
        None,
        metavar="FORM",
        choices=("csv", "jsonl", "parquet"),
        help="csv or parquet: a row for each sample; jsonl: result.json in a line (default: by the end of --output's "
        "name; without one, csv)",
    )
    output: Path | None = option(None, metavar="F", help="the file to write; - and the default: standard output")
    rows: bool = option(False, help="jsonl: an object for each sample instead")


def write(options: Options) -> int:
    """Write the runs."""
    output = None if options.output in (None, _STDOUT) else options.output
    of_rows = "jsonl" if options.rows else None
    form = outputs.form(output, _ENDS, options.format or of_rows, "csv", "--format" if options.format else "--rows")
    if options.rows and form != "jsonl":
        raise UserError(f"--rows has no effect with {form}, which has a row for each sample: leave it out")
    if form == "parquet":
        export.check_parquet()
        if output is None:
            raise UserError("Parquet is not text for standard output: name a file by --output F")
    runs = [load(find(str(word))) for word in options.run]
    by_rows = form != "jsonl" or options.rows
    if by_rows and len(runs) > 1:
        raise UserError("the rows of one run are written at a time: name one, or leave --format and --rows to jsonl")
    _check(output, runs)
    if by_rows and runs[0].unfinished and runs[0].under_way:
        note = f"note: {runs[0].folder} is under way: what it has saved so far is exported, which is not all of it"
        print(printable(note), file=sys.stderr)
    rows = Rows(runs[0]) if by_rows else None
    with outputs.opened(output) as file, _progress(0 if rows is None else len(rows)) as done:
        if rows is None:
            file.write(b"".join(orjson.dumps(run.result) + b"\n" for run in runs))
        elif form == "parquet":
            export.parquet(rows, file, done)
        else:
            for count, text in export.csv(rows) if form == "csv" else export.json_lines(rows):
                file.write(text)
                done(count)
    if rows is not None:
        _say_what_is_left_out(form, rows)
    return statuses.DONE


COMMAND = Command(
    Options,
    write,
    "Write a saved run for other programs: a row for each sample, or its result in a line.",
    "drumfire export runs/mine --output mine.csv",
)


def _check(output: Path | None, runs: Iterable[SavedRun]) -> None:
    if output is None:
        return
    for run in runs:
        if output.absolute().resolve().is_relative_to(run.folder.resolve()):
            raise UserError(f"--output {output} is in the folder of the run: write it elsewhere")
    outputs.check({"--output": output})


@contextlib.contextmanager
def _progress(rows: int) -> Iterator[Callable[[int], object]]:
    """Shows on a terminal how far a long export is; takes how many more rows are written."""
    if rows < _LONG or not sys.stderr.isatty():
        yield lambda count: None
        return
    columns = (TextColumn("{task.completed:,} rows"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        shown = progress.add_task("", total=rows)
        yield lambda count: progress.advance(shown, count)


def _say_what_is_left_out(form: str, rows: Rows) -> None:
    """Name the columns and series that were not written."""
    left = [field.name for field in rows.fields if field.several] if form == "csv" else []
    notes = {
        "have several values a row, which only parquet and jsonl --rows can hold": left,
        "are no numbers": rows.left_out,
        "have a clock of their own: they are in the folder's series/": list(rows.run.series),
    }
    for why, names in notes.items():
        if names:
            print(printable(f"note: not exported, as they {why}: {', '.join(names)}"), file=sys.stderr)
