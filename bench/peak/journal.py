"""The journal of a search: a line for each finished probe, on the disk before the next probe starts.

An interrupted or killed search resumes from it.
"""

from __future__ import annotations

import json
import os
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drumfire.bench.peak.search import Ask, Outcome, Probe
from drumfire.loadgen.errors import UserError, printable
from drumfire.loadgen.files import parse_json, read_bytes
from drumfire.loadgen.schema import Schema, fault

JOURNAL = "search.jsonl"
_SUBJECT: Schema = {
    "type": "object",
    "properties": {"system": {"type": "string"}, "settings": {"type": "object"}},
}
_MOST_LOAD = 1e12
"""No run takes more."""


@dataclass(frozen=True)
class Begun:
    """What a journal holds."""

    subject: Mapping[str, Any]
    """``system`` is a title, ``settings`` are those that all probes share, by name."""
    again: str
    """The command that resumes the search; empty where an earlier version began it."""
    probes: list[Probe]
    cut: int
    """Bytes of an incomplete last line."""


def read(path: Path) -> Begun | None:
    """Read a journal; None where it has no whole line.  Raises ``UserError`` for a file that is no journal."""
    try:
        text = read_bytes(path)
    except UserError as error:
        raise UserError(f"{error}; choose another --output") from None
    *whole, incomplete = text.split(b"\n")
    if not whole:
        return None
    try:
        head = _checked(parse_json(whole[0]), {"search": _SUBJECT, "again": {"type": "string"}})
        return Begun(
            head["search"],
            head.get("again", ""),
            [_probe(parse_json(line)) for line in whole[1:]],
            len(incomplete),
        )
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is not the journal of a search: choose another --output, or remove it") from None


class Journal:
    """A file with a line for the search's subject, then one for each probe; an incomplete last line is dropped."""

    def __init__(self, path: Path, subject: Mapping[str, Any], again: str) -> None:
        """Open or create the file.  Raises ``UserError`` if it belongs to a search of another subject.

        ``again``: the command that resumes the search.
        """
        self._path = path
        begun = read(path) if path.exists() else None
        if begun is None:
            self.probes: list[Probe] = []
            self._write("w", {"search": dict(subject), "again": again})
            return
        before, self.probes = begun.subject, begun.probes
        differs = [
            name for name in {**before, **subject} if before.get(name) != json.loads(json.dumps(subject)).get(name)
        ]
        if differs:
            listed = printable(", ".join(sorted(differs)))[:200]
            raise UserError(
                f"{path} is of another search (it differs in {listed}): give the options of that search to resume it, "
                "or choose another --output"
            )
        if begun.cut:
            os.truncate(path, path.stat().st_size - begun.cut)

    def add(self, probe: Probe) -> None:
        self.probes.append(probe)
        self._write("a", {"ask": asdict(probe.ask), "outcome": asdict(probe.outcome)})

    def _write(self, mode: str, line: Mapping[str, Any]) -> None:
        with open(self._path, mode, encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def _probe(line: Any) -> Probe:
    """Raises ``ValueError``, ``TypeError`` or ``KeyError`` for what no search wrote."""
    _checked(line, {"ask": _declared(Ask), "outcome": _declared(Outcome)})
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


def _checked(value: Any, parts: Mapping[str, Schema]) -> Any:
    if (wrong := fault(value, {"type": "object", "properties": parts})) is not None:
        raise ValueError(wrong)
    return value
