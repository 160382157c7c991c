"""A comparison as rows and as a page's blocks: the verdict, what makes it doubtful, and the figures of both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drumfire.bench import statuses
from drumfire.bench.compare.comparison import Comparison
from drumfire.bench.compare.subject import RATE
from drumfire.bench.compare.verdict import NOT_COMPARED, percent, signed
from drumfire.bench.report import expectations, figures
from drumfire.bench.report.blocks import Block, Table, Text
from drumfire.bench.report.rows import Row, Section, Style

_VERDICTS = {
    statuses.DONE: Style.VALID,
    statuses.UNDECIDED: Style.UNFINISHED,
    statuses.UNMET: Style.INVALID,
    statuses.INVALID: Style.INVALID,
}
_ROOM = 67
"""The columns, of 80, to the right of the figures' names."""


def sections(comparison: Comparison, document: Mapping[str, Any]) -> Iterator[Section]:
    """The comparison as rows, and the ``expectations`` of its document."""
    verdict = comparison.verdict
    yield [
        Row("", [verdict.words], _VERDICTS[verdict.status]),
        *(Row("", [text], Style.WARNING) for text in comparison.doubts),
    ]
    if expected := [Row(label, [text]) for label, text in expectations.rows(document)]:
        yield expected
    if verdict.word == NOT_COMPARED:
        yield _folders(comparison)
        return
    head, *lines = _table(comparison)
    # The reason why there is no interval may reach below the head of the next column.
    whole = [head, *(line for line in lines if line[-1])]
    columns = [*zip(head, *lines, strict=True)][1:4] + [*zip(*whole, strict=True)][4:]
    widths = [max(map(len, column)) for column in columns]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= _ROOM else 1
    widths = [*(width + gap for width in widths[:-1]), 0]
    styles = {comparison.judged: Style.METRIC}
    yield [Row(name, cells, styles.get(name, Style.FIGURES), widths) for name, *cells in (head, *lines)]
    yield _folders(comparison)


def _folders(comparison: Comparison) -> Section:
    return [
        Row(letter if number == 0 else "", [name], Style.FOLDER)
        for letter, names in _sides(comparison)
        for number, name in enumerate(names)
    ]


def blocks(comparison: Comparison) -> Iterator[Block]:
    """The comparison as blocks of a page."""
    verdict = comparison.verdict
    yield Text(verdict.words, _VERDICTS[verdict.status])
    for text in comparison.doubts:
        yield Text(text, Style.WARNING)
    if verdict.word != NOT_COMPARED:
        head, *lines = _table(comparison)
        yield Table(f"Judged by {comparison.judged}", head, lines)
    yield Table("", [], [[letter, "\n".join(names)] for letter, names in _sides(comparison)])


def _sides(comparison: Comparison) -> Iterator[tuple[str, tuple[str, ...]]]:
    return zip(comparison.letters, comparison.names, strict=True)


def _table(comparison: Comparison) -> Iterator[list[str]]:
    """The table's head, and a line for each figure."""
    a, b = comparison.letters
    yield ["figure", a, b, f"{b}/{a}", "95 % interval", "from"]
    for row in comparison.rows:
        values = [_value(row.name, value) for value in (row.a, row.b)]
        if row.ratio is None:
            yield [row.name, *values, "", row.note, ""]
            continue
        ends = [None if end is None else end - 1 for end in (row.low, row.high)]
        low, high = ("open" if end is None else signed(end) for end in ends)
        shown = f"{low} % ... open" if high == "open" else f"{low} ... {high} %"
        interval = row.note if ends == [None, None] else shown
        yield [row.name, *values, percent(row.ratio - 1), interval, row.method if row.low or row.high else ""]


def _value(name: str, value: float | None) -> str:
    return "-" if value is None else figures.rate(value) if name == RATE else figures.duration(value)
