"""What the rows of an export say: which query, which generator, which phase, and what is absent."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.bench.report.rowwise import Rows
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.record import Status
from drumfire.loadgen.saved import SavedRun
from drumfire.loadgen.settings import Mode, Scenario, TestSettings, effective
from drumfire.loadgen.share import Slice
from drumfire.loadgen.traffic import draw
from tests.support.made_run import made


def rows_of(folder: Path, columns: dict[str, Any], **further: Any) -> Rows:
    return Rows(SavedRun(made(folder, columns, **further)))


def whole(rows: Rows, size: int = 7) -> dict[str, list[Any]]:
    """All values, by field, None where they are absent; in chunks of ``size``, so that these are tested too."""
    found: dict[str, list[Any]] = {field.name: [] for field in rows.fields}
    for chunk in rows.chunks(size):
        assert list(chunk) == list(found)
        for name, part in chunk.items():
            absent = np.zeros(part.values.size, bool) if part.absent is None else part.absent
            found[name] += [None if no else value for value, no in zip(part.values.tolist(), absent, strict=True)]
    return found


@pytest.mark.parametrize("mode", [Mode.PerformanceOnly, Mode.AccuracyOnly, Mode.SubmissionRun])
@pytest.mark.parametrize("scenario", list(Scenario))
@pytest.mark.parametrize("count", [4, 10, 12])
def test_a_query_has_the_number_that_it_was_drawn_with(
    scenario: Scenario, mode: Mode, count: int, tmp_path: Path
) -> None:
    asked = TestSettings(scenario=scenario, mode=mode, min_duration_ms=1, min_query_count=9)
    asked.multi_stream_samples_per_query = 3
    asked.performance_sample_count_override = 4
    asked.server_target_qps = asked.offline_expected_qps = 100
    settings = effective(asked, count, 4)
    queries: list[int] = []
    phases: list[int] = []
    for phase in draw(settings, count):
        first = queries[-1] + 1 if queries else 0
        queries += (first + np.arange(phase.rows) // phase.samples_per_query).tolist()
        phases += [int(not phase.accuracy)] * phase.rows
    plain = {name: getattr(value, "name", value) for name, value in asdict(settings).items()}
    columns = {name: np.arange(len(queries)) for name in ("scheduled", "issued", "completed")}
    found = whole(rows_of(tmp_path / "run", columns, effective=plain))
    assert found["query_id"] == queries
    assert found["sample_id"] == list(range(len(queries)))
    assert found.get("phase") == (phases if mode is Mode.SubmissionRun else None)


def test_what_is_not_there_is_absent_and_not_zero(tmp_path: Path) -> None:
    columns = {
        "scheduled": [0, 10, 20, 30, 0],
        "issued": [0, 11, 21, 31, 0],
        "sent": [5, 12, 0, 32, 0],
        "begun": [6, 0, 0, 33, 0],
        "completed": [7, 15, 0, 0, 0],
        "status": [Status.OK, Status.FAILED, Status.UNANSWERED, Status.FAILED, Status.MISSING],
        "batch_size": [2, 0, 0, 1, 0],
    }
    found = whole(rows_of(tmp_path / "run", columns))
    assert found["scheduled_ns"] == [0, 10, 20, 30, None]
    assert found["issued_ns"] == [0, 11, 21, 31, None]
    assert found["sent_ns"] == [5, 12, None, 32, None]
    assert found["begun_ns"] == [6, None, None, 33, None]
    assert found["completed_ns"] == [7, 15, None, None, None]
    assert found["batch_size"] == [2, None, None, 1, None]


@pytest.mark.parametrize("width", [1, 3])
def test_the_generator_is_the_one_that_had_the_row(width: int, tmp_path: Path) -> None:
    columns = {name: np.zeros(20) for name in ("scheduled", "issued", "completed")}
    kind = {"scenario": "MultiStream" if width > 1 else "Server", "samples_per_query": width}
    rows = rows_of(tmp_path / "run", columns, effective=kind, result={"hosts": {"generators": [{}, {}, {}]}})
    found = np.array(whole(rows)["generator"])
    for part in range(3):
        share = Slice(part, 3, width)
        mine = share.whole(np.arange(share.count(20)))
        assert (found[mine[mine < 20]] == part).all()


def test_an_own_column_is_there_unless_it_holds_no_numbers(tmp_path: Path) -> None:
    columns = {name: np.zeros(3) for name in ("scheduled", "issued", "completed")}
    columns |= {"loss": np.array([0.5, np.nan, 2]), "name": np.array([b"a", b"b", b"c"])}
    rows = rows_of(tmp_path / "run", columns)
    assert rows.left_out == ["name"]
    assert "loss" in [field.name for field in rows.fields]


def test_without_rows_it_is_said(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", {name: np.zeros(3) for name in ("scheduled", "issued", "completed")})
    (folder / "columns" / "status.npy").unlink()
    with pytest.raises(UserError, match=r"has no rows to export: columns/status.npy is not there"):
        Rows(SavedRun(folder))
