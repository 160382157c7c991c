"""The journal of a search: a line for each finished probe, on the disk before the next probe starts.

An interrupted or killed search resumes from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drumfire.bench.peak.search import Ask, Outcome, Probe
from drumfire.loadgen.errors import UserError

JOURNAL = "search.jsonl"


class Journal:
    """A file with a line for the search's subject, then one for each probe; an incomplete last line is dropped."""

    def __init__(self, path: Path, subject: Mapping[str, Any]) -> None:
        """Open or create the file.  Raises ``UserError`` if it belongs to a search of another subject."""
        self._path = path
        self.probes: list[Probe] = []
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        whole = lines[:-1]  # text after the last line feed is incomplete
        if not whole:
            self._write("w", {"search": dict(subject)})
            return
        try:
            before = json.loads(whole[0])["search"]
            self.probes = [_probe(json.loads(line)) for line in whole[1:]]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is not the journal of a search: choose another --output, or remove it") from None
        differs = [
            name for name in {**before, **subject} if before.get(name) != json.loads(json.dumps(subject)).get(name)
        ]
        if differs:
            raise UserError(
                f"{path} is of another search (it differs in {', '.join(sorted(differs))}): give the options of that "
                "search to resume it, or choose another --output"
            )
        if lines[-1]:
            os.truncate(path, sum(len(line.encode()) + 1 for line in whole))

    def add(self, probe: Probe) -> None:
        self.probes.append(probe)
        self._write("a", {"ask": asdict(probe.ask), "outcome": asdict(probe.outcome)})

    def _write(self, mode: str, line: Mapping[str, Any]) -> None:
        with open(self._path, mode, encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _probe(line: Mapping[str, Any]) -> Probe:
    return Probe(Ask(**line["ask"]), Outcome(**line["outcome"]))
