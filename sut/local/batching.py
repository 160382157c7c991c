"""How a batcher worked in a run, told from the run's columns.

Does not depend on what ran the batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from drumfire.loadgen.record import SIZE, Column, Status
from drumfire.loadgen.results import distribution
from drumfire.loadgen.settings import percentile_name


def batch_sizes(batch_size: Column) -> dict[int, int]:
    """The number of batches by batch size, from the column ``batch_size``."""
    rows = np.bincount(batch_size)
    return {size: int(count) // size for size, count in enumerate(rows) if size and count}


def batching(columns: Mapping[str, Column]) -> dict[str, Any]:
    """How the batcher worked, from its columns: batches by size, queueing and computing times in ns.

    ``columns``: of issued rows.  Of a system without a batcher, only the sizes of samples that differ.
    """
    good = columns["status"] == Status.OK
    if "batch_size" not in columns:
        return {**_sizes(columns, good), "batch_sizes": None, "queue_ns": None, "service_ns": None}
    begun = columns["begun"][good]
    percentiles = (0.5, 0.99)

    def figures(values: Any) -> dict[str, int]:
        measured = distribution(values, percentiles)
        return {percentile_name(p): measured.percentiles[p] for p in percentiles}

    return {
        **_sizes(columns, good),
        "batch_sizes": {str(size): n for size, n in batch_sizes(columns["batch_size"][good]).items()},
        "queue_ns": figures(begun - columns["issued"][good]),
        "service_ns": figures(columns["completed"][good] - begun),
    }


def _sizes(columns: Mapping[str, Column], good: Column) -> dict[str, Any]:
    """The sizes of the samples, where they differ, and the share of what was computed here that only filled them up."""
    if SIZE not in columns or not good.any():
        return {}
    sizes = columns[SIZE][good]
    figures = {"mean": float(sizes.mean()), "least": int(sizes.min()), "most": int(sizes.max())}
    if "padded_size" in columns:
        computed = int(columns["padded_size"][good].sum(dtype=np.int64))
        figures["padding"] = 1.0 - int(sizes.sum(dtype=np.int64)) / computed
    return {"sizes": figures}
