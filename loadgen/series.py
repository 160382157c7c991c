"""Values with a clock of their own, such as power, the use of a GPU or a server's queue, over a run.

``series/NAME.npy`` holds times and values; ``series/series.json`` has their units and sources.  Does not depend on
who reads the values, or how.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import read_array, read_json

FOLDER = "series"
LIST = "series.json"
_DESCRIBED = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "properties": {"unit": {"type": "string"}, "source": {"type": "string"}},
    },
}
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_POINT = np.dtype([("time", np.int64), ("value", np.float64)])


@dataclass(frozen=True, eq=False)
class Series:
    """One figure over a run."""

    name: str
    """As the file's: letters, digits, dots, dashes and underscores."""
    unit: str
    source: str
    """Where the values are from, such as a URL."""
    points: npt.NDArray[Any]
    """Shape (n,), fields ``time`` (int64, ns after the run's start; negative before it) and ``value`` (float64)."""

    @classmethod
    def of(cls, name: str, unit: str, source: str, times: Sequence[int], values: Sequence[float]) -> Series:
        """A series of one value a time: ``times`` in ns after the run's start, ``values`` in ``unit``.

        Raises ``ValueError`` where there are not as many of the one as of the other.
        """
        if len(times) != len(values):
            raise ValueError(f"{len(times)} times and {len(values)} values")
        points = np.empty(len(times), _POINT)
        points["time"], points["value"] = times, values
        return cls(name, unit, source, points)

    def summary(self) -> dict[str, Any]:
        """JSON-ready, for a result.  Raises ``ValueError`` where there are no points."""
        values = self.points["value"]
        return {
            "name": self.name,
            "unit": self.unit,
            "source": self.source,
            "count": values.size,
            "min": float(values.min()),
            "mean": float(values.mean()),
            "max": float(values.max()),
        }


def save(series: Sequence[Series], folder: Path) -> None:
    """Write the series of a run to its folder; without any, nothing."""
    if not series:
        return
    folder = folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for one in series:
        np.save(folder / f"{one.name}.npy", one.points)
    described = {one.name: {"unit": one.unit, "source": one.source} for one in series}
    (folder / LIST).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> dict[str, Series]:
    """The series of a run's folder by name, memory-mapped; empty where the run has none.

    Raises ``UserError`` for what cannot be read or is no series.
    """
    path = folder / FOLDER / LIST
    if not path.exists():
        return {}
    found = {}
    for name, one in read_json(path, _DESCRIBED).items():
        if not _NAME.fullmatch(name):
            raise UserError(f"{path} does not hold what a run saves: {name[:40]!r} is not the name of a series")
        points = read_array(folder / FOLDER / f"{name}.npy", _POINT)
        found[name] = Series(name, one.get("unit", ""), one.get("source", ""), points)
    return found
