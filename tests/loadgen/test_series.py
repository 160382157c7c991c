"""Series: times and values with a clock of their own, saved with a run and read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from drumfire.loadgen import series
from drumfire.loadgen.series import Series

QUEUE = Series.of("server.queue", "requests", "http://host", [-5, 10, 20], [0.0, 3.0, 6.0])


def test_saved_and_read(tmp_path: Path) -> None:
    power = Series.of("here.power", "W", "the meter", [7], [250.5])
    series.save([QUEUE, power], tmp_path)
    found = series.load(tmp_path)
    assert found.keys() == {"server.queue", "here.power"}
    for one in (QUEUE, power):
        read = found[one.name]
        assert (read.unit, read.source) == (one.unit, one.source)
        assert read.points.dtype == np.dtype([("time", np.int64), ("value", np.float64)])
        assert read.points.tolist() == one.points.tolist()
    assert np.load(tmp_path / "series" / "server.queue.npy")["time"].tolist() == [-5, 10, 20]


def test_a_run_without_series_has_no_folder(tmp_path: Path) -> None:
    series.save([], tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert series.load(tmp_path) == {}


def test_summary() -> None:
    summary = QUEUE.summary()
    assert summary == {
        "name": "server.queue", "unit": "requests", "source": "http://host", "count": 3, "min": 0.0, "mean": 3.0,
        "max": 6.0,
    }  # fmt: skip
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize("count", [1, 1000])
def test_values_are_exact(tmp_path: Path, count: int) -> None:
    values = np.random.default_rng(1).standard_normal(count)
    series.save([Series.of("a", "", "", range(count), values.tolist())], tmp_path)
    assert series.load(tmp_path)["a"].points["value"].tobytes() == values.tobytes()
