"""The run's table: one row per sample, one array per column, in memory that another process can watch.

Row numbers are the sample sequence ids.  Times are int64 ns after the start of the row's phase.  ``issue`` writes the
columns scheduled and issued, ``answers`` the columns completed and status.
"""

from __future__ import annotations

import enum
import json
import mmap
import os
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[Any]
RowArray = npt.NDArray[np.int64]
"""Row numbers, shape (n,)."""


class Status(enum.IntEnum):
    """The outcome of a row."""

    PENDING = 0
    OK = 1
    FAILED = 2
    """The system reported that it could not answer."""
    UNANSWERED = 3
    """The run ended before any answer came."""
    MISSING = 4
    """With several generators: the row's generator ended before it, or was lost together with its data."""


class Gauge(enum.IntEnum):
    """Running totals at the head of the table, for other processes to watch."""

    ISSUED = 0
    """Rows issued so far: rows [0, ISSUED) of the table."""
    ANSWERED = 1
    """Rows answered so far, failed rows included."""
    FAILED = 2
    FIRST_ROW = 3
    """The current phase's first row and the row after its last."""
    LAST_ROW = 4
    ORIGIN = 5
    """When the current phase started, ns of the monotonic clock; 0 before the first."""
    DONE = 6
    """1 after the last phase."""
    REFUSED = 7
    """Refused answers: to rows that were not waiting for one."""
    BUSY = 8
    """CPU time of the issuing thread in this phase, ns."""
    STALL = 9
    """The longest wait of the loop's other work in this phase, ns."""
    GC_PAUSE = 10
    """Time in garbage collections since the run began, ns."""


BASE_COLUMNS: Mapping[str, npt.DTypeLike] = {
    "sample_index": np.uint32,
    "scheduled": np.int64,
    "issued": np.int64,
    "completed": np.int64,
    "status": np.uint8,
}

_ALIGN = 64  # bytes; every column starts on a new cache line
_HEAD = _ALIGN * 2
assert len(Gauge) * 8 <= _HEAD


class Record:
    """A table of ``rows`` rows in one block of shared memory, initially zero.

    ``extra`` has the system under test's further columns: name to dtype.  Behind the run's rows there are ``spare``
    ones, for a warm-up: never saved or counted.
    """

    def __init__(self, rows: int, extra: Mapping[str, npt.DTypeLike] | None = None, spare: int = 0) -> None:
        dtypes = {name: np.dtype(dtype) for name, dtype in {**BASE_COLUMNS, **(extra or {})}.items()}
        size = _HEAD + sum(_padded((rows + spare) * dtype.itemsize) for dtype in dtypes.values())
        self._own(_shared_file(size))
        self._map(rows, spare, dtypes)

    @classmethod
    def attach(cls, fd: int, layout: str) -> Record:
        """Map another process's table, from its ``Record.fd`` and ``Record.layout``."""
        record = cls.__new__(cls)
        record._own(fd)
        described = json.loads(layout)
        dtypes = {name: np.dtype(dtype) for name, dtype in described["columns"].items()}
        record._map(described["rows"], described["spare"], dtypes)
        return record

    def _own(self, fd: int) -> None:
        self._fd = fd
        self._let_go = weakref.finalize(self, os.close, fd)
        self._let_go.atexit = False  # the end of the process closes it, and a forked child must not

    def _map(self, rows: int, spare: int, dtypes: dict[str, np.dtype[Any]]) -> None:
        self.rows, self.spare = rows, spare
        # Populate the pages now, so that the run has no page faults.
        populate = getattr(mmap, "MAP_POPULATE", 0)
        memory = mmap.mmap(self._fd, 0, flags=mmap.MAP_SHARED | populate)
        self.gauges = memoryview(memory)[: len(Gauge) * 8].cast("q")
        """``gauges[Gauge.X]`` is a plain int, cheaper to read and write than a numpy element."""
        self.columns: dict[str, Column] = {}
        offset = _HEAD
        for name, dtype in dtypes.items():
            self.columns[name] = np.frombuffer(memory, dtype, rows + spare, offset)
            offset += _padded((rows + spare) * dtype.itemsize)
        self.sample_index = self.columns["sample_index"]
        self.scheduled = self.columns["scheduled"]
        self.issued = self.columns["issued"]
        self.completed = self.columns["completed"]
        self.status = self.columns["status"]

    @property
    def fd(self) -> int:
        """The memory's file descriptor, to pass to another process."""
        return self._fd

    @property
    def layout(self) -> str:
        dtypes = {name: column.dtype.str for name, column in self.columns.items()}
        return json.dumps({"rows": self.rows, "spare": self.spare, "columns": dtypes})

    @property
    def issued_rows(self) -> int:
        return self.gauges[Gauge.ISSUED]

    @property
    def has_tokens(self) -> bool:
        """Whether the system under test fills the columns of token latencies."""
        return {"first_token", "n_tokens"} <= self.columns.keys()

    def view(self, name: str) -> memoryview:
        """A column as a memoryview, whose single elements are cheaper to read and write than numpy's."""
        return self.columns[name].data

    def save(self, folder: Path) -> None:
        """Write each column's issued rows to ``<column>.npy``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, column in self.columns.items():
            np.save(folder / f"{name}.npy", column[: self.issued_rows])

    def close(self) -> None:
        """Close the file descriptor early; the arrays remain readable."""
        self._let_go()


def bytes_per_row(extra: Mapping[str, npt.DTypeLike] | None = None) -> int:
    return sum(np.dtype(dtype).itemsize for dtype in {**BASE_COLUMNS, **(extra or {})}.values())


def load_columns(folder: Path) -> dict[str, Column]:
    """The columns saved by ``Record.save``, memory-mapped."""
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _shared_file(size: int) -> int:
    """An anonymous file of ``size`` bytes, in memory where the system supports it."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("drumfire-record")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
