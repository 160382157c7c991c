"""In place of a session's processes: each run is of a simulated server of one worker, and takes no time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from drumfire.bench import statuses
from drumfire.bench.commands import words as words_
from drumfire.loadgen.saved import load
from tests.support import made_run
from tests.support.compared_runs import at

SERVICE_NS = 300_000.0
_ROWS = 2000


class Simulated:
    """Takes the place of ``session.measure``."""

    def __init__(self, service_ns: Callable[[Any], float] = lambda options: SERVICE_NS) -> None:
        self.service_ns = service_ns
        """By the options of the run."""
        self.lines: list[Sequence[str]] = []
        """The words of each run."""
        self.changes: dict[str, dict[str, Any]] = {}
        """What else a result has, by the name of its step."""
        self.ends: dict[int, tuple[int, str]] = {}
        """The status of the run of this number, from 1 on, and what it says, in place of a run."""
        self._seconds = itertools.count()

    def measure(self, words: Sequence[str], folder: Path, started: Callable[[Any], None]) -> tuple[int, str]:
        self.lines.append(words)
        if len(self.lines) in self.ends:
            if self.ends[len(self.lines)][0] == statuses.INTERRUPTED:
                folder.mkdir()
            return self.ends[len(self.lines)]
        options = words_.parsed(words)
        qps = float(options.traffic.qps)
        columns = made_run.queued(_ROWS, rate=qps, service_ns=self.service_ns(options))
        made_run.made(folder, columns, effective={"target_qps": qps})
        figures = load(folder).figures
        asked = {"qps": qps, "generated_queries": _ROWS, "target_latency_ns": 10**9}
        delivered = {"queries": _ROWS, "samples": _ROWS, "samples_per_second": figures["metric"]["value"]}
        more = {"validity": "VALID", "reasons": [], "asked": asked, "delivered": delivered, "warnings": []}
        result = json.loads((folder / "result.json").read_text()) | figures | more
        result |= {"started": at(next(self._seconds)), "directory": str(folder)}
        result |= self.changes.get("/".join(folder.parts[-2:]), {})
        (folder / "result.json").write_text(json.dumps(result))
        return (statuses.VALID if result["validity"] == "VALID" else statuses.INVALID), ""
