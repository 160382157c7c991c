"""A generator's traffic, from its supervisor: columns in the shared table, and the rest of the phases in a file.

So the traffic is drawn once, by the driver, and each generator has its own contiguous rows before it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen.record import Record
from drumfire.loadgen.traffic import Phase

FILE = "phases.npz"
"""In a generator's folder."""


def write(path: Path, phases: Sequence[Phase], record: Record) -> None:
    """Enter a part's phases into its table, and write what is not in the table."""
    arrays: dict[str, Any] = {}
    for number, phase in enumerate(phases):
        phase.entered(record)
        arrays[f"loaded{number}"] = phase.loaded
        if phase.logged is not None:
            arrays[f"logged{number}"] = phase.logged
    numbers = [
        (
            phase.accuracy,
            phase.first_row,
            phase.rows,
            phase.samples_per_query,
            phase.generated_duration_ns,
            phase.scheduled is not None,
            phase.concurrency,
            phase.think_time_ns,
        )
        for phase in phases
    ]
    np.savez(path, numbers=np.array(numbers, np.int64), **arrays)


def read(path: Path, record: Record) -> list[Phase]:
    """The phases that ``write`` has entered into the table."""
    phases = []
    with np.load(path) as file:
        for number, numbers in enumerate(file["numbers"].tolist()):
            accuracy, first_row, rows, width, duration_ns, has_schedule, concurrency, think_time_ns = numbers
            own = slice(first_row, first_row + rows)
            phases.append(
                Phase(
                    accuracy=bool(accuracy),
                    first_row=first_row,
                    loaded=file[f"loaded{number}"],
                    samples_per_query=width,
                    sample_index=record.sample_index[own],
                    scheduled=record.scheduled[own] if has_schedule else None,
                    generated_duration_ns=duration_ns,
                    logged=file.get(f"logged{number}"),
                    concurrency=concurrency,
                    think_time_ns=think_time_ns,
                )
            )
    return phases
