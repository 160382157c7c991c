"""The journal of a search: a line for each finished probe, on the disk before the next probe starts.

An interrupted or killed search resumes from it.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drumfire.bench import journal
from drumfire.bench.journal import checked
from drumfire.bench.peak.search import Ask, Outcome, Probe
from drumfire.loadgen.schema import Schema

JOURNAL = "search.jsonl"
_KIND = "search"
_SUBJECT: Schema = {
    "type": "object",
    "properties": {"system": {"type": "string"}, "settings": {"type": "object"}},
}
_MOST_LOAD = 1e12
"""No run takes more."""


@dataclass(frozen=True)
class Begun(journal.Begun):
    """What a journal holds: of its subject, ``system`` is a title, ``settings`` are those that all probes share."""

    probes: list[Probe]


def read(path: Path) -> Begun | None:
    """Read a journal; None where it has no whole line.  Raises ``UserError`` for a file that is no journal."""
    if (found := journal.read(path, _KIND, _SUBJECT)) is None:
        return None
    try:
        return Begun(found.subject, found.again, found.lines, found.cut, [_probe(line) for line in found.lines])
    except (ValueError, TypeError, KeyError):
        raise journal.no_journal(path, _KIND) from None


class Journal(journal.Journal):
    """A file with a line for the search's subject, then one for each probe."""

    def __init__(self, path: Path, subject: Mapping[str, Any], again: str) -> None:
        """Open or create the file.  Raises ``UserError`` if it belongs to a search of another subject.

        ``again``: the command that resumes the search.
        """
        begun = read(path) if path.exists() else None
        super().__init__(path, _KIND, begun, subject, again)
        self.probes = [] if begun is None else begun.probes

    def add(self, probe: Probe) -> None:
        self.probes.append(probe)
        self.write({"ask": asdict(probe.ask), "outcome": asdict(probe.outcome)})


_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def _probe(line: Any) -> Probe:
    """Raises ``ValueError``, ``TypeError`` or ``KeyError`` for what no search wrote."""
    checked(line, {"ask": _declared(Ask), "outcome": _declared(Outcome)})
    ask, outcome = Ask(**line["ask"]), Outcome(**line["outcome"])
    right = (
        0 < ask.load <= _MOST_LOAD
        and ask.replica >= 0
        and ask.purpose in ("bracket", "bisect", "replicate", "confirm")
        and 0 <= outcome.over <= outcome.queries
        and min(outcome.seconds, outcome.query_s) >= 0
    )
    if not right:
        raise ValueError
    return Probe(ask, outcome)


def _declared(kind: type) -> Schema:
    types = {name: {"type": _TYPES[each]} for name, each in typing.get_type_hints(kind).items()}
    return {"type": "object", "properties": types}
