"""Shows rows on a terminal, and as plain text.  Knows nothing of what the rows say.

Their texts may come from elsewhere, such as a server: control characters in them are not written.
"""

from __future__ import annotations

import io
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from rich.cells import cell_len
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
VERDICTS = {Style.VALID: "bold green", Style.INVALID: "bold red", Style.UNFINISHED: "bold yellow"}
_COLOURS = {**VERDICTS, Style.REASON: "red", Style.WARNING: "yellow", Style.METRIC: "bold"}
_TOGETHER = re.compile(r"(?<=\d) (?=(?:ns|us|ms|s|W|J|[KMGT]i?B)\b)|(?<=\d:) (?=\d)")
"""The space between a number and its unit, or a size and its count: no line ends there."""
_CLOSING = (*VERDICTS, Style.METRIC, Style.REASON, Style.WARNING)
"""What a report that is longer than the screen says again at its end, the most important first."""


def put(sections: Iterable[Section]) -> None:
    """Print on standard output: on a terminal in its width and in colour, elsewhere the bytes of ``encoded``.

    On a terminal that is lower than the report, this ends with the verdict, why, and the main figure, once more.
    """
    if sys.stdout.isatty():
        console = Console(highlight=False)
        shown = list(sections)
        show(shown, console)
        room = console.height - 1  # the last line is the shell's
        if sum(_height(row, console) for rows in shown for row in rows) + len(shown) - 1 > room:
            console.print()
            show([_closing(shown, console, room)], console)
    else:
        write(encoded(sections))


def write(text: bytes) -> None:
    """Print bytes on standard output, whatever its encoding is."""
    if (stream := getattr(sys.stdout, "buffer", None)) is not None:
        sys.stdout.flush()
        stream.write(text)
    else:
        sys.stdout.write(text.decode())


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


def lines(rows: Section, console: Console) -> list[Text]:
    """A text for each row, as the console shows it."""
    return [_text(row, console) for row in rows]


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns where no word is longer, which stays whole, as do figures with their units."""
    kept = textwrap.wrap(_TOGETHER.sub("\xa0", text), width, break_on_hyphens=False, break_long_words=False)
    return [line.replace("\xa0", " ") for line in kept]


def say(console: Console, text: str, style: str = "") -> None:
    """Print a message: on a terminal its lines end between words, elsewhere it is one line."""
    lines = wrapped(printable(text), console.width) if console.is_terminal else [text]
    console.print("\n".join(lines), style=style, markup=False, soft_wrap=True)


def _closing(sections: Iterable[Section], console: Console, room: int) -> Section:
    """As much as ``room`` lines hold of what matters most, in its order."""
    rows = [row for section in sections for row in section if row.style in _CLOSING]
    chosen: list[Row] = []
    for row in sorted(rows, key=lambda row: _CLOSING.index(row.style)):
        room -= _height(row, console)
        if room < (1 if len(chosen) + 1 < len(rows) else 0):  # a line may be needed for how many are left out
            break
        chosen.append(row)
    left = len(rows) - len(chosen)
    more = [Row("", [f"{left} more above"], Style.WARNING)] if left else []
    return [row for row in rows if row in chosen] + more


def _height(row: Row, console: Console) -> int:
    """The number of lines that a row takes on the screen, which breaks those that are too long."""
    return sum(max(-(-cell_len(line) // console.width), 1) for line in _text(row, console).plain.split("\n"))


def _print(row: Row, console: Console) -> None:
    console.print(_text(row, console), soft_wrap=True)


def _text(row: Row, console: Console) -> Text:
    """With a hanging indent; no line ends in spaces, and no word is broken."""
    label, cells = printable(row.label), [printable(cell) for cell in row.cells]
    widths = row.widths or [_CELL] * len(cells)
    value = "".join(map(str.ljust, cells, widths)).rstrip() if len(cells) > 1 else cells[0]
    if row.style in VERDICTS:
        head, value = "", f"{label} : {value}" if label else value
    elif row.style in (Style.REASON, Style.WARNING):
        head = "  - "
    else:
        head = label.ljust(_LABEL)
    room = max(console.width - len(head), _LEAST_WIDTH)
    lines = [value] if row.style == Style.FOLDER else wrapped(value, room)
    # A word that is too long, such as a path, begins at the left, where most fit.
    indents = ["" if cell_len(line) > room else " " * len(head) for line in lines]
    if lines and cell_len(lines[0]) > room:
        head = f"{head.rstrip()}\n".lstrip()
    value = "\n".join([*lines[:1], *map("".join, zip(indents[1:], lines[1:], strict=True))])
    return Text.assemble((head, "dim"), (value, _COLOURS.get(row.style, "")))
