"""The journal of a search: a line for each finished probe, on the disk before the next probe starts.

An interrupted or killed search resumes from it.
"""

from __future__ import annotations

import json
import os
import typing
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drumfire.bench.peak.search import Ask, Outcome, Probe
from drumfire.loadgen.errors import UserError, printable
from drumfire.loadgen.files import parse_json
from drumfire.loadgen.schema import Schema, fault

JOURNAL = "search.jsonl"
_MOST_LOAD = 1e15
"""No run takes more, see ``drumfire.loadgen.settings``."""


class Journal:
    """A file with a line for the search's subject, then one for each probe; an incomplete last line is dropped."""

    def __init__(self, path: Path, subject: Mapping[str, Any]) -> None:
        """Open or create the file.  Raises ``UserError`` if it belongs to a search of another subject."""
        self._path = path
        self.probes: list[Probe] = []
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else []
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}; choose another --output") from None
        whole = lines[:-1]  # text after the last line feed is incomplete
        if not whole:
            self._write("w", {"search": dict(subject)})
            return
        try:
            before = _checked(parse_json(whole[0]), {"search": {"type": "object"}})["search"]
            self.probes = [_probe(parse_json(line)) for line in whole[1:]]
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path} is not the journal of a search: choose another --output, or remove it") from None
        differs = [
            name for name in {**before, **subject} if before.get(name) != json.loads(json.dumps(subject)).get(name)
        ]
        if differs:
            listed = printable(", ".join(sorted(differs)))[:200]
            raise UserError(
                f"{path} is of another search (it differs in {listed}): give the options of that search to resume it, "
                "or choose another --output"
            )
        if lines[-1]:
            os.truncate(path, sum(len(line) + 1 for line in whole))

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
