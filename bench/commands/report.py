"""``drumfire report RUN…``: saved runs as a page, as text, as Markdown or as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from drumfire.bench import statuses
from drumfire.bench.history import find
from drumfire.bench.options.parser import Command
from drumfire.bench.report import audits, blocks, content, page, terminal, text
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


def report(options: Options) -> int:
    """Write the report.  Its status does not tell the runs' verdicts: ``drumfire show``'s does."""
    form = options.format or _FORMATS.get("" if options.output is None else options.output.suffix.lower(), "text")
    made = content.report([_opened(find(str(word))) for word in options.run])
    if form == "html":
        shown = page.page(made)
    elif form == "json":
        shown = json.dumps(blocks.document(made), allow_nan=False) + "\n"
    else:
        shown = text.markdown(made) if form == "markdown" else text.text(made)
    written = shown.encode("utf-8", "backslashreplace")
    if options.output is None:
        terminal.write(written)
        return statuses.DONE
    if options.output.exists() and not options.output.is_file():
        raise UserError(f"--output {options.output} is no file: name one that may be replaced")
    try:
        with in_one_step(options.output) as file:
            file.write(written)
    except OSError as error:
        raise UserError(f"--output {options.output} cannot be written: {error.strerror or error}") from None
    print(options.output)
    return statuses.DONE


COMMAND = Command(
    Options,
    report,
    "Write a report of saved runs: what happened over time, in one page that opens offline.",
    "drumfire report runs/mine --output mine.html",
)


def _opened(path: Path) -> SavedRun:
    if (outcome := audits.read(path)) is not None:
        place = path / next(iter(audits.places(outcome["test"]).values()))
        raise UserError(f"{path} is the folder of an audit: name one of its runs, such as {place}")
    return load(path)
