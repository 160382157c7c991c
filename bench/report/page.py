"""Writes a report as one HTML page that needs nothing else: it opens offline, under a strict policy, without scripts.

Its style and script are named in its policy by their hashes, so that nothing that a run's texts might bring in is run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from drumfire.bench.report import content, svg
from drumfire.bench.report.blocks import Bars, Block, Chart, Report, Section, Table, Text
from drumfire.bench.report.listed import listed
from drumfire.bench.report.rows import Style
from drumfire.bench.report.terminal import VERDICTS
from drumfire.loadgen.directory import PAGE, Write
from drumfire.loadgen.files import in_one_step
from drumfire.loadgen.saved import load

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def write(report: Report, path: Path) -> None:
    """Write the page.  Raises ``OSError``."""
    with in_one_step(path) as file:
        file.write(page(report).encode("utf-8", "backslashreplace"))


def of_run(folder: Path) -> dict[str, Write]:
    """What writes a run's own page into its folder, once the columns are there, by the file's name."""
    return {PAGE: lambda path: write(content.report([load(folder)]), path)}


def page(report: Report) -> str:
    """The report as a whole HTML page."""
    style, script = _asset("page.css"), _asset("page.js")
    hairs: list[dict[str, Any]] = []
    sections = "".join(_section(section, hairs) for section in report.sections)
    links = " ".join(f'<a href="#{one.name}">{escape(one.title)}</a>' for one in report.sections)
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    data = json.dumps(hairs, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{style}</style></head>\n<body><header>"
        f'<h1>{escape(report.title)}</h1><nav aria-label="Sections">{links}</nav></header><main>\n{sections}</main>'
        "<footer>Made by Drumfire from saved runs. This page needs no network. "
        "<span hidden>Point at a chart to read its values, or focus it and use the arrow keys.</span></footer>"
        f'<script type="application/json" id="data">{data}</script><script>{script}</script></body></html>\n'
    )


@cache
def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _section(section: Section, hairs: list[dict[str, Any]]) -> str:
    blocks = "".join(_block(block, section.title, hairs) for block in section.blocks)
    return f'<section id="{section.name}"><h2>{escape(section.title)}</h2>{blocks}</section>\n'


def _block(block: Block, title: str, hairs: list[dict[str, Any]]) -> str:
    if isinstance(block, Text):
        if block.style is Style.FOLDER:
            return f"<pre>{escape(block.text)}</pre>"
        words = f"<strong>{_words(block.text)}</strong>" if block.style in VERDICTS else _words(block.text)
        return f'<p class="{block.style.name.lower()}">{words}</p>'
    if isinstance(block, Table):
        return _folded(block, block.title) if block.folded else _table(block, title)
    return _figure(block, title, hairs)


def _figure(block: Chart | Bars, title: str, hairs: list[dict[str, Any]]) -> str:
    if isinstance(block, Chart):
        drawn, hair = svg.chart(block)
        chart = f' data-chart="{len(hairs)}"'
        hairs.append(hair)
        read = '<p class="read"></p>'
    else:
        drawn, chart, read = svg.bars(block), "", ""
    head = "" if block.title == title else f"<h3>{escape(block.title)}</h3>"
    return (
        f'<figure id="chart-{block.name}">{head}<p class="defined">{escape(block.defined)}</p>'
        f'<div class="plot" {_focusable(block.title)}{chart}>{drawn}</div>{read}'
        f"{_folded(listed(block), block.title)}</figure>"
    )


def _folded(table: Table, name: str) -> str:
    return f"<details><summary>{escape(table.title)}</summary>{_table(replace(table, title=''), name)}</details>"


def _table(table: Table, name: str) -> str:
    """The table.  ``name``: what screen readers call one without a title."""
    head = ""
    if table.head:
        head = f"<thead><tr>{''.join(_heads(table.head))}</tr></thead>"
    rows = "".join(_row(row, table.defined.get(row[0], "")) for row in table.rows)
    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    whole = f"<table>{caption}{head}<tbody>{rows}</tbody></table>"
    return f'<div class="scroll" {_focusable(table.title or name)}>{whole}</div>'


def _focusable(name: str) -> str:
    """The attributes of a part that scrolls by keys, with its name for screen readers."""
    return f'tabindex="0" role="group" aria-label="{escape(name)}"'


def _heads(names: Iterable[str]) -> Iterator[str]:
    return (f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in names)


def _row(row: Sequence[str], defined: str) -> str:
    first, *others = map(_words, row)
    meaning = f'<div class="defined">{escape(defined)}</div>' if defined else ""
    below = ""
    if len(others) > 1 and meaning:  # in one of several narrow cells it would be many lines
        below, meaning = f'<tr><td></td><td colspan="{len(others)}">{meaning}</td></tr>', ""
    cells = "".join(f"<td>{cell}{meaning}</td>" for cell in others)
    above = ' class="above"' if below else ""
    return f'<tr{above}><th scope="row">{first}</th>{cells}</tr>{below}'


def _words(text: str) -> str:
    """A text with its line breaks, in which no line ends within the name of an option."""
    return _OPTION.sub(r"<code>\g<0></code>", escape(text)).replace("\n", "<br>")
