"""The expectations of a result document as rows, and as lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from drumfire.bench.report import figures

_FORMS = {"ns": figures.duration, "1/s": figures.rate, "share": figures.share, "samples": figures.digits}
"""How a value is shown, by its unit."""


def rows(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A label and a line for each expectation of a result document, in their order, and for each doubt about them."""
    judged = document.get("expectations") or ()
    for number, one in enumerate(judged):
        yield "" if number else "expected", line(one)
    for doubt in doubts(judged, document.get("doubts") or ()):
        yield "", doubt


def doubts(judged: Sequence[Mapping[str, Any]], known: Sequence[str] = ()) -> list[str]:
    """The doubts about the comparisons with a base, each once; without those that are ``known``."""
    every = dict.fromkeys(doubt for one in judged for doubt in one.get("doubts", ()))
    return [doubt for doubt in every if doubt not in known]


def line(judged: Mapping[str, Any]) -> str:
    """A judged expectation: its text, the verdict, the value and its interval."""
    return f"{judged['text']}: {outcome(judged)}"


def outcome(judged: Mapping[str, Any]) -> str:
    """The verdict of a judged expectation, the value and its interval."""
    value = "" if judged["value"] is None else f", {about(judged['value'], judged['unit'], judged['interval'])}"
    return f"{judged['verdict']}{value}" + (f", {judged['why']}" if judged["why"] else "")


def about(value: float, unit: str, ends: Sequence[float | None]) -> str:
    """A value with the ends of its interval; None: an open end, and twice None: no interval."""
    low, high = ("open" if end is None else shown(end, unit) for end in ends)
    return shown(value, unit) + ("" if low == high == "open" else f" (about {low} ... {high})")


def shown(value: float, unit: str) -> str:
    """A value of an expectation's unit, for people."""
    return _FORMS[unit](value)
