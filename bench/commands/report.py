"""``drumfire report RUN…``: saved runs as a page, as text, as Markdown or as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from drumfire.bench import gates, statuses
from drumfire.bench.compare.sides import FORMS, ResultFile, named, opened
from drumfire.bench.gates import ExpectOptions
from drumfire.bench.options.parser import Command
from drumfire.bench.report import blocks, content, junit, outputs, page, text
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.options import option

_ENDS = {".html": "html", ".htm": "html", ".md": "markdown", ".txt": "text", ".json": "json"}
"""The formats by the ends of files' names."""


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire report``."""

    run: tuple[str, ...] = option(metavar="RUN", position=True, help=f"{FORMS}; of all, one page")
    output: Path | None = option(None, metavar="F", help="the file to write (default: standard output, or a page's)")
    format: str | None = option(
        None,
        metavar="FORM",
        choices=("html", "markdown", "text", "json"),
        help="html, markdown, text or json (default: by the end of --output's name; else text)",
    )
    expectations: ExpectOptions = field(default_factory=ExpectOptions)


def report(options: Options) -> int:
    """Write the report, and return the status of the expectations; ``drumfire show`` returns that of the verdict."""
    form = outputs.form(options.output, _ENDS, options.format, "text")
    wanted = options.expectations
    gates.check(wanted)
    runs = [run for word in options.run for run in named(word)]
    if alone := next((run for run in runs if isinstance(run, ResultFile)), None):
        raise UserError(f"{alone.folder} is only a result: name the folder of its run, which has what is drawn")
    outputs.check({"--output": options.output, "--junit": wanted.junit})
    base = [] if wanted.base is None else opened(str(wanted.base))
    judged = {
        label: gates.judge_all(wanted, [run], base) for label, run in zip(content.labels(runs), runs, strict=True)
    }
    made = content.report(runs, judged=judged if wanted.expect else None)
    if form == "html":
        shown = page.page(made)
    elif form == "json":
        shown = json.dumps(blocks.document(made), allow_nan=False) + "\n"
    else:
        shown = text.markdown(made) if form == "markdown" else text.text(made)
    with outputs.opened(options.output) as file:
        file.write(shown.encode("utf-8", "backslashreplace"))
    if options.output is not None:
        print(options.output)
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
