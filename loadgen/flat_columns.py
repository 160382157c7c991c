"""Columns with several values a row, such as the times of tokens: how they are declared, written, saved and read.

In a table, each row has room for ``width`` values, so a value is written without a lock and without an allocation.
Saved, the unused room is left out: the values of all rows in a line, and where each row's begin and end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import read_array, write_array, write_array_head

Values: TypeAlias = npt.NDArray[Any]
Counts: TypeAlias = npt.NDArray[np.uint32]
"""How many values each row recorded, shape (n,); with those that its room could not hold."""

COUNT_DTYPE = np.dtype(np.uint32)
_OFFSET_BYTES = 8
_OFFSETS = ".offsets.npy"
_CHUNK_ROWS = 1 << 16
"""Rows that are copied at a time, so that saving and merging need little memory of their own."""


class Flat(NamedTuple):
    """The declaration of a flat column, in the place of a dtype.  (To numpy and to type checkers it is one as well.)"""

    dtype: npt.DTypeLike
    width: int
    """The most values that a row can hold, at least 1."""

    @property
    def bytes_per_row(self) -> int:
        """Memory in the table, and for saving it."""
        return np.dtype(self.dtype).itemsize * self.width + COUNT_DTYPE.itemsize + _OFFSET_BYTES


class FlatColumn:
    """A flat column of a table, for the system under test to write.

    A row may be written by any thread, but by one at a time.
    """

    def __init__(self, values: Values, counts: Counts, width: int) -> None:
        """``values``: shape (rows x width,)."""
        self.dtype, self.width, self.counts = values.dtype, width, counts
        self._values = values
        self._values_view: Any = values.data  # cheaper than numpy for a single element
        self._counts_view = counts.data

    @property
    def overflow(self) -> int:
        """How many values found no room: the last value of their row was replaced."""
        return int(np.maximum(self.counts, self.width).sum(dtype=np.int64)) - self.width * self.counts.size

    def append(self, row: int, value: int | float) -> None:
        """Record one more value of a row.  Where the row is full, it replaces the last."""
        count = self._counts_view[row]
        at = count if count < self.width else self.width - 1
        self._values_view[row * self.width + at] = value
        self._counts_view[row] = count + 1

    def extend(self, row: int, values: Sequence[int | float] | Values) -> None:
        """Record several values of a row, as repeated calls of ``append`` would."""
        count, first, width = self._counts_view[row], row * self.width, self.width
        room, size = max(width - count, 0), len(values)
        self._values[first + count : first + count + min(room, size)] = values[:room]
        if size > room:
            self._values[first + width - 1] = values[-1]
        self._counts_view[row] = count + size

    def part(self, first: int, last: int) -> FlatPart:
        """A copy of the values of rows [first, last)."""
        values = [self._recorded(begin, end) for begin, end in _chunks(first, last)]
        return FlatPart(np.concatenate([self._values[:0], *values]), self.counts[first:last].copy())

    def put(self, rows: npt.NDArray[np.int64], part: FlatPart) -> None:
        """Enter the values of ``rows``, shape (n,), which another table of the same width recorded."""
        self.counts[rows] = part.counts
        kept = np.minimum(part.counts, self.width)
        ends = np.cumsum(kept, dtype=np.int64)
        for begin, end in _chunks(0, rows.size):
            start = int(ends[begin - 1]) if begin else 0
            within = kept[begin:end]
            # Where a row's room begins, less where its values begin in the part.
            shift = rows[begin:end] * self.width - (ends[begin:end] - within)
            at = np.repeat(shift, within) + np.arange(start, ends[end - 1])
            self._values[at] = part.values[start : ends[end - 1]]

    def writers(self, name: str, rows: int) -> Iterator[tuple[str, Callable[[BinaryIO], None]]]:
        """What writes each file of the first rows: ``NAME.npy`` has the values, ``NAME.offsets.npy`` where each row's
        begin and end.
        """
        offsets = np.zeros(rows + 1, np.int64)
        np.cumsum(np.minimum(self.counts[:rows], self.width), out=offsets[1:])

        def write_values(file: BinaryIO) -> None:
            write_array_head(file, self.dtype, int(offsets[-1]))
            for begin, end in _chunks(0, rows):
                file.write(self._recorded(begin, end).data)

        yield f"{name}.npy", write_values
        yield f"{name}{_OFFSETS}", partial(write_array, offsets)

    def _recorded(self, first: int, last: int) -> Values:
        used = np.arange(self.width) < self.counts[first:last, np.newaxis]
        return self._values[first * self.width : last * self.width].reshape(-1, self.width)[used]


@dataclass(frozen=True, eq=False)
class FlatPart:
    """The values of some rows in a line, and how many each row recorded."""

    values: Values
    counts: Counts


@dataclass(frozen=True, eq=False)
class Ragged:
    """A saved flat column: item i holds the values of row i."""

    values: Values
    """Of all rows, in a line."""
    offsets: npt.NDArray[np.int64]
    """Row i has values[offsets[i]:offsets[i + 1]]; shape (rows + 1,)."""

    def __len__(self) -> int:
        return self.offsets.size - 1

    def __getitem__(self, row: int) -> Values:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.values[self.offsets[row] : self.offsets[row + 1]]


def load_flat_columns(folder: Path) -> dict[str, Ragged]:
    """The flat columns among a run's saved columns, memory-mapped.

    Raises ``UserError`` for one that cannot be read, or whose offsets are not those of its values.
    """
    found = {}
    for path in sorted(folder.glob(f"*{_OFFSETS}")):
        name = path.name.removesuffix(_OFFSETS)
        values, offsets = read_array(folder / f"{name}.npy"), read_array(path, np.int64)
        if offsets.size == 0 or offsets[0] != 0 or offsets[-1] != values.size:
            raise UserError(f"{path} does not fit the {values.size} values of {name}.npy")
        found[name] = Ragged(values, offsets)
    return found


def is_flat(path: Path) -> bool:
    """Whether a file of saved columns belongs to a flat column."""
    return path.name.endswith(_OFFSETS) or path.with_name(path.stem + _OFFSETS).exists()


def _chunks(first: int, last: int) -> Iterator[tuple[int, int]]:
    for begin in range(first, last, _CHUNK_ROWS):
        yield begin, min(begin + _CHUNK_ROWS, last)
