"""The run's table: one row per sample, one array per column, in memory that another process can watch.

A flat column (see ``flat_columns``) has several values a row.
Row numbers are the sample sequence ids.  Times are int64 ns after the start of the row's phase.  ``issue`` writes the
columns scheduled and issued; ``answers``, here or in another process, the columns completed and status.
"""

from __future__ import annotations

import enum
import json
import mmap
import os
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import in_one_step, read_array, write_array
from drumfire.loadgen.flat_columns import COUNT_DTYPE, Flat, FlatColumn, is_flat

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
    """The current phase's first row."""
    LAST_ROW = 4
    """The row after the current phase's last."""
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

SIZE = "size"
"""The column of a system whose samples have different sizes: how many elements the row's sample has, such as tokens."""
TOKEN_COLUMNS = ("first_token", "n_tokens")
"""Whole numbers, of a system that reports tokens: when a row's first was there, and how many it had."""

_ALIGN = 64  # bytes; every column starts on a new cache line
_HEAD = _ALIGN * 2
assert len(Gauge) * 8 <= _HEAD


class Record:
    """A table of ``rows`` rows in one block of shared memory, initially zero.

    ``extra`` has the system under test's further columns: name to type, as in ``described``.  Behind the run's rows
    there are ``spare`` ones, for a warm-up: never saved or counted.
    """

    def __init__(self, rows: int, extra: Mapping[str, Any] | None = None, spare: int = 0) -> None:
        types = _types({**BASE_COLUMNS, **(extra or {})})
        self._own(shared_file(_HEAD + sum(_size(kind, rows + spare) for kind in types.values())))
        self._map(rows, spare, types)

    @classmethod
    def attach(cls, fd: int, layout: str) -> Record:
        """Map another process's table, from its ``Record.fd`` and ``Record.layout``."""
        record = cls.__new__(cls)
        record._own(fd)
        described = json.loads(layout)
        record._map(described["rows"], described["spare"], _types(described["columns"]))
        return record

    def _own(self, fd: int) -> None:
        self._fd = fd
        self._let_go = weakref.finalize(self, os.close, fd)
        self._let_go.atexit = False  # the end of the process closes it, and a forked child must not

    def _map(self, rows: int, spare: int, types: Mapping[str, np.dtype[Any] | Flat]) -> None:
        self.rows, self.spare = rows, spare
        rows += spare
        # Populate the pages now, so that the run has no page faults.
        populate = getattr(mmap, "MAP_POPULATE", 0)
        memory = mmap.mmap(self._fd, 0, flags=mmap.MAP_SHARED | populate)
        self.gauges = memoryview(memory)[: len(Gauge) * 8].cast("q")
        """``gauges[Gauge.X]`` is a plain int, cheaper to read and write than a numpy element."""
        self.columns: dict[str, Column] = {}
        self.flat_columns: dict[str, FlatColumn] = {}
        offset = _HEAD

        def take(dtype: npt.DTypeLike, count: int) -> Column:
            nonlocal offset
            array = np.frombuffer(memory, dtype, count, offset)
            offset += _padded(array.nbytes)
            return array

        for name, kind in types.items():
            if isinstance(kind, Flat):
                counts = take(COUNT_DTYPE, rows)
                self.flat_columns[name] = FlatColumn(take(kind.dtype, rows * kind.width), counts, kind.width)
            else:
                self.columns[name] = take(kind, rows)
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
    def described(self) -> dict[str, Any]:
        """The type of each column, JSON-ready: a dtype, or dtype and width of a flat column."""
        described: dict[str, Any] = {name: column.dtype.str for name, column in self.columns.items()}
        return described | {name: [flat.dtype.str, flat.width] for name, flat in self.flat_columns.items()}

    @property
    def layout(self) -> str:
        return json.dumps({"rows": self.rows, "spare": self.spare, "columns": self.described})

    @property
    def issued_rows(self) -> int:
        return self.gauges[Gauge.ISSUED]

    @property
    def has_tokens(self) -> bool:
        """Whether the system under test fills the columns of token latencies."""
        return has_tokens(self.columns)

    def view(self, name: str) -> memoryview:
        """A column as a memoryview, whose single elements are cheaper to read and write than numpy's."""
        return self.columns[name].data

    def issued_end(self, first: int, last: int) -> int:
        """The row after the last issued row of [first, last), also of a table whose process was killed.

        The gauge of issued rows lags behind, so rows after it that were written to count too.
        """
        end = min(max(self.issued_rows, first), last)
        later = np.flatnonzero((self.issued[end:last] != 0) | (self.status[end:last] != Status.PENDING))
        return end + int(later[-1]) + 1 if later.size else end

    def end(self) -> None:
        """End a table whose process has ended, as ``Answers.give_up`` does: what has no answer is unanswered."""
        end = self.issued_end(0, self.rows)
        status = self.status[:end]
        status[status == Status.PENDING] = Status.UNANSWERED
        self.gauges[Gauge.ISSUED] = end

    def save(self, folder: Path, *, only_missing: bool = False) -> None:
        """Write each column's issued rows to ``<column>.npy``, and the offsets of a flat one beside it.

        A file that is there is whole.  ``only_missing``: it is left as it is.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in self._writers(self.issued_rows):
            if not (only_missing and (folder / name).exists()):
                with in_one_step(folder / name) as file:
                    write(file)

    def _writers(self, rows: int) -> Iterator[tuple[str, Callable[[BinaryIO], None]]]:
        """The name of each file, and what writes it."""
        for name, column in self.columns.items():
            yield f"{name}.npy", partial(write_array, column[:rows])
        for name, flat in self.flat_columns.items():
            yield from flat.writers(name, rows)

    def close(self) -> None:
        """Close the file descriptor early; the arrays remain readable."""
        self._let_go()


def has_tokens(names: Collection[str]) -> bool:
    """Whether these columns have token latencies."""
    return all(name in names for name in TOKEN_COLUMNS)


def repeated(rows: RowArray, column: Column) -> bool:
    """Whether a row is there twice.

    Overwrites these rows of an int64 column: what is written to a row that is there twice is not read again from both
    places, and that is several times quicker than to sort them.
    """
    written = np.arange(rows.size)
    column[rows] = written
    if column[rows].tobytes() == written.tobytes():
        return False
    column[rows] = 0
    return True


def by_stream(rows: slice | RowArray, count: int, width: int, streams: int) -> list[slice | RowArray]:
    """``rows`` of a table of ``count`` rows by closed loop: of n loops, loop k has the queries k, k + n, k + 2n, ...

    ``width``: samples of a query.
    """
    if streams <= 1:
        return [rows]
    numbers = np.arange(count)[rows]
    loop = numbers // width % streams
    return [numbers[loop == one] for one in range(streams)]


def bytes_per_row(extra: Mapping[str, npt.DTypeLike] | None = None) -> int:
    """Bytes that a row takes in the table, with a system's ``extra`` columns, and a flat one's saved offset."""
    types = {**BASE_COLUMNS, **(extra or {})}.values()
    return sum(kind.bytes_per_row if isinstance(kind, Flat) else np.dtype(kind).itemsize for kind in types)


def load_columns(folder: Path) -> dict[str, Column]:
    """The columns saved by ``Record.save`` with a value a row, memory-mapped; ``load_flat_columns`` has the others.

    Raises ``UserError`` for a column that cannot be read, is not of its type, or has not as many rows as the others.
    """
    kinds = {**BASE_COLUMNS, **dict.fromkeys(TOKEN_COLUMNS, np.integer)}
    paths = [path for path in sorted(folder.glob("*.npy")) if not is_flat(path)]
    columns = {path.stem: read_array(path, kinds.get(path.stem)) for path in paths}
    check_rows(folder, {name: column.size for name, column in columns.items()})
    return columns


def check_rows(folder: Path, rows: Mapping[str, int]) -> None:
    """Raise ``UserError`` for a saved column with another number of rows than most have."""
    most = Counter(rows.values()).most_common(1)
    for name, count in rows.items():
        if count != most[0][0]:
            raise UserError(f"{folder / name}.npy has {count} rows, and other columns have {most[0][0]}")


def _types(types: Mapping[str, Any]) -> dict[str, np.dtype[Any] | Flat]:
    return {name: Flat(*kind) if isinstance(kind, (Flat, list)) else np.dtype(kind) for name, kind in types.items()}


def _size(kind: np.dtype[Any] | Flat, rows: int) -> int:
    """Bytes in the table."""
    if isinstance(kind, Flat):
        return _padded(rows * COUNT_DTYPE.itemsize) + _padded(rows * kind.width * np.dtype(kind.dtype).itemsize)
    return _padded(rows * kind.itemsize)


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def shared_file(size: int) -> int:
    """An anonymous file of ``size`` bytes, in memory where the system supports it."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("drumfire-record")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
