"""Shows rows on a terminal, and as plain text.  Knows nothing of what they say.

What they say may come from elsewhere, such as a server: no control character of theirs is written.
"""

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from drumfire.bench.report.rows import Document, Row, Section, Style, report
from drumfire.loadgen.errors import printable

_TEXT_WIDTH = 80
_LABEL = 13
"""Width of the column of labels."""
_CELL = 16
"""Width of a cell where a row has several."""
_LEAST_WIDTH = 40
_VERDICTS = {Style.VALID: "bold green", Style.INVALID: "bold red", Style.UNFINISHED: "bold yellow"}
_COLOURS = {**_VERDICTS, Style.REASON: "red", Style.WARNING: "yellow"}


def put(sections: Iterable[Section]) -> None:
    """Print on standard output: on a terminal in its width and in colour, elsewhere the bytes of ``encoded``."""
    if sys.stdout.isatty():
        show(sections, Console(highlight=False))
    elif (stream := getattr(sys.stdout, "buffer", None)) is not None:
        sys.stdout.flush()
        stream.write(encoded(sections))
    else:
        sys.stdout.write(encoded(sections).decode())


def encoded(sections: Iterable[Section]) -> bytes:
    """The report as text of 80 columns without colour, in UTF-8."""
    out = io.StringIO()
    # Text also where rich would write colours, or show it in a notebook.
    console = Console(
        file=out, width=_TEXT_WIDTH, highlight=False, no_color=True, force_terminal=False, force_jupyter=False
    )
    show(sections, console)
    return out.getvalue().encode("utf-8", "backslashreplace")


def keep(document: Document, path: Path) -> None:
    """Write a result document's report into a file."""
    path.write_bytes(encoded(report(document)))


def show(sections: Iterable[Section], console: Console) -> None:
    for number, rows in enumerate(sections):
        if number:
            console.print()
        for row in rows:
            _print(row, console)


def _print(row: Row, console: Console) -> None:
    """Print with a hanging indent; no line ends in spaces."""
    label, cells = printable(row.label), [printable(cell) for cell in row.cells]
    value = "".join(cell.ljust(_CELL) for cell in cells).rstrip() if len(cells) > 1 else cells[0]
    if row.style in _VERDICTS:
        head, value = "", f"{label} : {value}"
    elif row.style in (Style.REASON, Style.WARNING):
        head = "  - "
    else:
        head = label.ljust(_LABEL)
    if row.style != Style.FOLDER:
        lines = textwrap.wrap(value, max(console.width - len(head), _LEAST_WIDTH), break_on_hyphens=False)
        value = ("\n" + " " * len(head)).join(lines)
    console.print(Text.assemble((head, "dim"), (value, _COLOURS.get(row.style, ""))), soft_wrap=True)
