"""A saved run's folder with columns of a test's own, and the papers of a run of an older version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.record import BASE_COLUMNS, Status

OLD = ROOT / "tests" / "loadgen" / "old_runs"


def made(
    folder: Path,
    columns: dict[str, Any],
    *,
    like: str = "42e7558-Server",
    effective: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
) -> Path:
    """Write the run.  ``columns`` by name, shape (n,), in ns; by default all rows are answered.

    ``effective`` and ``result`` replace values of the settings in effect, and of the result at its top.
    """
    shutil.copytree(OLD / like, folder, ignore=shutil.ignore_patterns("columns"))
    for name, into, values in (("settings", "effective", effective), ("result", None, result)):
        path = folder / f"{name}.json"
        found = json.loads(path.read_text())
        (found if into is None else found[into]).update(values or {})
        path.write_text(json.dumps(found))
    rows = len(columns["completed"])
    given = {"sample_index": np.arange(rows), "status": np.full(rows, Status.OK), **columns}
    (folder / "columns").mkdir()
    for name, values in given.items():
        kind = BASE_COLUMNS.get(name, np.asarray(values).dtype)
        np.save(folder / "columns" / f"{name}.npy", np.asarray(values, kind))
    return folder


def queued(rows: int, *, rate: float = 2000.0, service_ns: float = 300_000.0, seed: int = 1) -> dict[str, Any]:
    """The columns of a Server run on a single server with exponential service times, by Lindley's recursion."""
    random = np.random.default_rng(seed)
    scheduled = np.cumsum(random.exponential(1e9 / rate, rows))
    service = random.exponential(service_ns, rows)
    busy = np.cumsum(service)
    idle = scheduled - (busy - service)  # the server is free of earlier work from here on, had it never waited
    completed = busy + np.maximum.accumulate(idle)
    issued = scheduled + random.exponential(5_000, rows)
    completed = np.maximum(completed, issued) + 1000
    times = {"scheduled": scheduled, "issued": issued, "completed": completed}
    found: dict[str, Any] = {name: values.astype(np.int64) for name, values in times.items()}
    found["begun"] = np.maximum((completed - service).astype(np.int64), found["issued"])
    found["batch_size"] = np.ones(rows, np.uint16)
    return found
