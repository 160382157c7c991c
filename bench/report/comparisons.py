"""A comparison as rows: the verdict, what makes it doubtful, and the figures of both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drumfire.bench import statuses
from drumfire.bench.compare.comparison import Comparison
from drumfire.bench.compare.comparison import Row as Compared
from drumfire.bench.compare.subject import RATE
from drumfire.bench.compare.verdict import percent, signed
from drumfire.bench.report import expectations, figures
from drumfire.bench.report.rows import Row, Section, Style

_VERDICTS = {
    statuses.DONE: Style.VALID,
    statuses.UNDECIDED: Style.UNFINISHED,
    statuses.UNMET: Style.INVALID,
    statuses.INVALID: Style.INVALID,
}
_WIDTHS = (11, 11, 10, 20, 0)
"""Of the columns after a figure's name."""


def sections(comparison: Comparison, document: Mapping[str, Any]) -> Iterator[Section]:
    """The report of one comparison, and of the ``expectations`` of its document."""
    verdict = comparison.verdict
    yield [
        Row("", [verdict.words], _VERDICTS[verdict.status]),
        *(Row("", [text], Style.WARNING) for text in comparison.doubts),
    ]
    if lines := [Row(label, [text]) for label, text in expectations.rows(document)]:
        yield lines
    first, second = comparison.letters
    yield [
        Row("figure", [first, second, f"{second}/{first}", "95 % interval", "from"], widths=_WIDTHS),
        *(_figure(row, comparison.judged) for row in comparison.rows),
    ]
    yield [
        Row(letter if number == 0 else "", [name], Style.FOLDER)
        for letter, names in zip(comparison.letters, comparison.names, strict=True)
        for number, name in enumerate(names)
    ]


def _figure(row: Compared, judged: str) -> Row:
    style = Style.METRIC if row.name == judged else Style.FIGURES
    values = [_value(row.name, value) for value in (row.a, row.b)]
    if row.ratio is None:
        return Row(row.name, [*values, "", row.note, ""], style, _WIDTHS)
    low, high = (None if end is None else end - 1 for end in (row.low, row.high))
    change = percent(row.ratio - 1, *(-1.0 if low is None else low, 1.0 if high is None else high))
    if low is None and high is None:
        return Row(row.name, [*values, change, row.note], style, _WIDTHS)
    width = (-1.0 if low is None else low, 1.0 if high is None else high)
    ends = ["open" if end is None else signed(end, *width) for end in (low, high)]
    return Row(row.name, [*values, change, f"{' ... '.join(ends)} %", row.method], style, _WIDTHS)


def _value(name: str, value: float | None) -> str:
    return "-" if value is None else figures.rate(value) if name == RATE else figures.duration(value)
