"""The expectations of a result document as rows, and as lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drumfire.bench.report import figures

_FORMS = {"ns": figures.duration, "1/s": figures.rate, "share": figures.share, "samples": figures.digits}
"""How a value is shown, by its unit."""


def rows(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A row each, in their order."""
    for number, one in enumerate(document.get("expectations") or ()):
        yield "" if number else "expected", line(one)


def line(judged: Mapping[str, Any]) -> str:
    """One of them: as it was written, the verdict, the value and its interval."""
    start = f"{judged['text']}: {judged['verdict']}"
    why = f", {judged['why']}" if judged["why"] else ""
    if judged["value"] is None:
        return start + why
    ends = [None if end is None else shown(end, judged["unit"]) for end in judged["interval"]]
    about = "" if ends == [None, None] else f" (about {ends[0] or 'open'} ... {ends[1] or 'open'})"
    return f"{start}, {shown(judged['value'], judged['unit'])}{about}{why}"


def shown(value: float, unit: str) -> str:
    """A value of an expectation's unit, for people."""
    return _FORMS[unit](value)
