"""``drumfire report RUN…``: saved runs as a page, as text, as Markdown or as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from drumfire.bench import gates, statuses
from drumfire.bench.compare.sides import opened
from drumfire.bench.gates import ExpectOptions
from drumfire.bench.history import find
from drumfire.bench.options.parser import Command
from drumfire.bench.report import audits, blocks, content, junit, page, terminal, text
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import in_one_step
from drumfire.loadgen.options import option
from drumfire.loadgen.saved import SavedRun, load

_FORMATS = {".html": "html", ".htm": "html", ".md": "markdown", ".txt": "text", ".json": "json"}
"""By the end of a file's name."""


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire report``."""

    run: tuple[Path, ...] = option(
        metavar="RUN", position=True, help="a run's folder, a part of its name in runs, or last; of several, one page"
    )
    output: Path | None = option(None, metavar="F", help="the file to write (default: standard output, or a page's)")
    format: str | None = option(
        None,
        metavar="FORM",
        choices=("html", "markdown", "text", "json"),
        help="html, markdown, text or json (default: by the end of --output's name; else text)",
    )
    expectations: ExpectOptions = field(default_factory=ExpectOptions)


def report(options: Options) -> int:
    """Write the report.  The status tells what was expected here; that of ``drumfire show`` tells a run's verdict."""
    form = options.format or _FORMATS.get("" if options.output is None else options.output.suffix.lower(), "text")
    wanted = options.expectations
    gates.check(wanted)
    if options.output is not None and options.output.exists() and not options.output.is_file():
        raise UserError(f"--output {options.output} is no file: name one that may be replaced")
    runs = [_opened(find(str(word))) for word in options.run]
    base = [] if wanted.base is None else opened(str(wanted.base))
    judged = {
        label: gates.judge_all(wanted.expect, [run], base) if wanted.expect else []
        for label, run in zip(content.labels(runs), runs, strict=True)
    }
    made = content.report(runs, judged=judged if wanted.expect else None)
    if form == "html":
        shown = page.page(made)
    elif form == "json":
        shown = json.dumps(blocks.document(made), allow_nan=False) + "\n"
    else:
        shown = text.markdown(made) if form == "markdown" else text.text(made)
    _written(shown.encode("utf-8", "backslashreplace"), options.output)
    if wanted.junit is not None:
        of_runs = zip((run.result for run in runs), judged.values(), strict=True)
        junit.write_runs(wanted.junit, dict(zip(judged, of_runs, strict=True)))
    return statuses.worst(*map(gates.status, judged.values()))


COMMAND = Command(
    Options,
    report,
    "Write a report of saved runs: what happened over time, in one page that opens offline.",
    "drumfire report runs/mine --output mine.html",
)


def _written(text: bytes, path: Path | None) -> None:
    if path is None:
        terminal.write(text)
        return
    try:
        with in_one_step(path) as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"--output {path} cannot be written: {error.strerror or error}") from None
    print(path)


def _opened(path: Path) -> SavedRun:
    if (outcome := audits.read(path)) is not None:
        place = path / next(iter(audits.places(outcome["test"]).values()))
        raise UserError(f"{path} is the folder of an audit: name one of its runs, such as {place}")
    return load(path)
