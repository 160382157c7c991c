"""How the proof's tables write a figure; a figure that is not there is an empty cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drumfire.bench.peers.goal import number
from drumfire.bench.peers.gpu.plan import Figure
from drumfire.bench.peers.results import table

Kinds = Mapping[str, Sequence[Figure]]
"""All figures by their kind, each in the order in which they were measured; a kind without any is empty."""


def block(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, or nothing where it has no rows."""
    return table(head, rows) if rows else ""


def si(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{number(value / factor)} {prefix}{unit}"
    return f"{number(value)} {unit}".rstrip()


def ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
