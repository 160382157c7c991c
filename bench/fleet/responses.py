"""Responses for the accuracy log, in a file between a generator's process and its supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drumfire.loadgen.record import RowArray
from drumfire.loadgen.responses import Kept, as_bytes


def save(path: Path, kept: Sequence[Kept]) -> None:
    """Write the rows, where each response ends in the bytes of all, and these bytes."""
    rows = np.concatenate([one.rows for one in kept])
    data = [response for one in kept for response in as_bytes(one.responses)]
    ends = np.cumsum([len(response) for response in data], dtype=np.int64)
    np.savez(path, rows=rows, ends=ends, data=np.frombuffer(b"".join(data), np.uint8))


def load(path: Path) -> tuple[RowArray, list[bytes]]:
    with np.load(path) as file:
        rows, ends, data = file["rows"], file["ends"].tolist(), file["data"].tobytes()
    return rows, [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
