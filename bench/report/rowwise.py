"""A saved run as rows, one for each sample: named fields with their units, in chunks, whatever they are written as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.directory import COLUMNS
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.flat_columns import Ragged
from drumfire.loadgen.record import BASE_COLUMNS, Column, Status
from drumfire.loadgen.saved import SavedRun
from drumfire.loadgen.settings import Mode, Scenario

STATUS, PHASE = "status", "phase"
WORDS: Mapping[str, Sequence[str]] = {
    STATUS: [status.name.lower() for status in Status],
    PHASE: ["accuracy", "performance"],
}
"""The texts of the fields whose values are places in these lists."""
_TIMES = ("scheduled", "issued", "sent", "begun", "completed", "first_token")
"""Columns in ns."""
_ORDER = ("sample_index", "scheduled", "issued", "sent", "begun", "completed", "status", "batch_size")
_MAY_LACK = ("sent", "begun", "batch_size", "first_token")
"""Columns in which 0 says that there is none."""


@dataclass(frozen=True)
class Field:
    """A value of each row."""

    name: str
    """With its unit at its end, if it has one."""
    unit: str
    dtype: np.dtype[Any]
    several: bool = False
    """Whether each row has a list of them."""


@dataclass(frozen=True, eq=False)
class Values:
    """A field of some rows."""

    values: npt.NDArray[Any]
    """Shape (n,); of a field with several a row, those of all rows in a line."""
    absent: npt.NDArray[np.bool_] | None = None
    """Which rows have none, shape (n,)."""
    offsets: npt.NDArray[np.int64] | None = None
    """Where the values of each row begin and end, shape (n + 1,)."""


class Rows:
    """The samples of a run that has columns.

    ``query_id`` counts queries over all phases.  Times are ns after the start of the row's phase.
    """

    def __init__(self, run: SavedRun) -> None:
        """Raises ``UserError`` for a run without columns, and for one that cannot be read."""
        if lacking := [name for name in BASE_COLUMNS if name not in run.columns]:
            raise UserError(f"{run.folder} has no rows to export: {COLUMNS}/{lacking[0]}.npy is not there")
        self.run = run
        self._columns = {name: column for name, column in run.columns.items() if column.dtype.kind in "biuf"}
        self._flat = {name: flat for name, flat in run.flat_columns.items() if flat.values.dtype.kind in "biuf"}
        self._accuracy = run.accuracy_rows
        self._width = run.effective.query_width
        hosts = {} if run.unfinished else run.result.get("hosts") or {}
        ended = 1 if run.ended is None else run.ended["generators"]
        self._generators = len(hosts.get("generators", ())) or ended

    def __len__(self) -> int:
        return int(self._columns["status"].size)

    @property
    def left_out(self) -> list[str]:
        """The columns whose values are no numbers."""
        return [
            name for name in (*self.run.columns, *self.run.flat_columns) if name not in {*self._columns, *self._flat}
        ]

    @cached_property
    def fields(self) -> list[Field]:
        names = [name for name in _ORDER if name in self._columns]
        names += [name for name in self._columns if name not in names]
        found = [Field("sample_id", "", np.dtype(np.int64)), Field("query_id", "", np.dtype(np.int64))]
        for name in names:
            unit = "ns" if name in _TIMES else ""
            found.append(Field(f"{name}_{unit}" if unit else name, unit, self._columns[name].dtype))
        if self._generators > 1:
            found.append(Field("generator", "", np.dtype(np.uint16)))
        if self.run.effective.mode == Mode.SubmissionRun:
            found.append(Field(PHASE, "", np.dtype(np.uint8)))
        return [*found, *(Field(name, "", flat.values.dtype, several=True) for name, flat in self._flat.items())]

    def chunks(self, size: int) -> Iterator[dict[str, Values]]:
        """All rows, ``size`` at a time, by the names of the fields."""
        for first in range(0, len(self), size):
            yield self._chunk(first, min(first + size, len(self)))

    def _chunk(self, first: int, last: int) -> dict[str, Values]:
        number = np.arange(first, last)
        found = {"sample_id": Values(number), "query_id": Values(self._queries(number))}
        status = self._columns["status"][first:last]
        for name, column in self._columns.items():
            values = column[first:last]
            found[f"{name}_ns" if name in _TIMES else name] = Values(values, self._absent(name, values, status))
        found |= {name: _part(flat, first, last) for name, flat in self._flat.items()}
        found["generator"] = Values((number // self._width % self._generators).astype(np.uint16))
        found[PHASE] = Values((number >= self._accuracy).astype(np.uint8))
        return {field.name: found[field.name] for field in self.fields}

    def _absent(self, name: str, values: Column, status: Column) -> npt.NDArray[np.bool_] | None:
        absent: npt.NDArray[np.bool_] | None = None
        if name in _MAY_LACK:
            absent = values == 0
        elif name == "completed":
            absent = (status != Status.OK) & ((status != Status.FAILED) | (values == 0))
        elif name == "issued":
            absent = status == Status.MISSING
        elif name == "scheduled":  # a closed loop's is known only when it is sent
            absent = (status == Status.MISSING) & (values == 0)
        return absent

    def _queries(self, number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self.run.effective.scenario != Scenario.Offline:
            return number // self._width
        a_set = self.run.effective.performance_sample_count
        return np.where(number < self._accuracy, number // a_set, -(-self._accuracy // a_set))


def _part(flat: Ragged, first: int, last: int) -> Values:
    offsets = flat.offsets[first : last + 1]
    return Values(flat.values[offsets[0] : offsets[-1]], offsets=offsets - offsets[0])
