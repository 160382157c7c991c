"""A run's folder, opened again: the same figures, lazily, also of old, unfinished and damaged folders."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import drumfire
from drumfire.loadgen import directory
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.run import Test
from drumfire.loadgen.saved import SavedRun, load
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut.local.null import NullSystem, null_library

OLD = sorted((Path(__file__).parent / "old_runs").iterdir())
"""Small runs that earlier revisions saved, by revision and scenario."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that has just been saved."""
    settings = TestSettings(scenario=Scenario.Server, server_target_qps=2000.0, min_duration_ms=50, min_query_count=90)
    test = Test(NullSystem(Mode.PerformanceOnly), null_library(), settings)
    asyncio.run(test.run())
    directory.save(test, directory.document(test, {"environment": {"cpu": "any"}}, []), tmp_path / "run")
    return tmp_path / "run"


def again(saved: SavedRun) -> dict[str, Any]:
    return {name: saved.result[name] for name in saved.figures}


def test_figures_computed_again_are_those_of_the_document() -> None:
    """Over the fixed runs: all scenarios and modes, tokens, faults, interruptions, searches."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "tests.support.saved_again"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["differences"] == {}
    assert found["compared"] > 40


def test_what_is_in_it(folder: Path) -> None:
    saved = load(str(folder))
    assert not saved.unfinished
    assert saved.result == json.loads((folder / "result.json").read_text())
    assert isinstance(saved.requested, TestSettings)
    assert saved.requested.server_target_qps == saved.effective.target_qps == 2000.0
    assert saved.effective.scenario is Scenario.Server
    assert saved.environment == {"cpu": "any"}
    assert set(saved.logs) == {"mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json"}
    assert saved.measured is not None
    assert saved.measured.queries == saved.columns["status"].size == saved.result["delivered"]["queries"]
    assert saved.figures == again(saved)
    assert saved.figures["lateness_ns"]["p50"] >= 0


def test_columns_are_mapped_and_cannot_be_changed(folder: Path) -> None:
    column = load(folder).columns["completed"]
    assert isinstance(column, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 1


def test_nothing_is_read_before_it_is_used(folder: Path) -> None:
    for name in ("result.json", "settings.json", "columns/status.npy"):
        (folder / name).write_text("damaged")
    saved = load(folder)
    assert saved.environment == {"cpu": "any"}
    for part, name in {"result": "result.json", "effective": "settings.json", "columns": "columns"}.items():
        with pytest.raises(UserError, match=name) as caught:
            getattr(saved, part)
        assert "\n" not in str(caught.value)
    assert "result.json is not JSON" in repr(saved)


def test_it_stays_open_where_the_program_goes(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(folder.parent)
    saved = load("run")
    monkeypatch.chdir("/")
    assert saved.figures == again(saved)


def test_in_short(folder: Path) -> None:
    text = repr(load(folder))
    assert "\n" not in text
    assert str(folder) in text
    assert "Server PerformanceOnly" in text
    assert f"{load(folder).result['metric']['value']:,.1f} 1/s" in text


@pytest.mark.parametrize("old", OLD, ids=lambda path: path.name)
def test_old_runs(old: Path) -> None:
    saved = load(old)
    assert saved.effective.scenario.name == old.name.partition("-")[2]
    assert isinstance(saved.requested, TestSettings)
    assert saved.figures.keys() == {"metric", "latency_ns", "query_latency_ns", "lateness_ns"}
    assert saved.figures == again(saved)
    assert saved.results is not None
    assert saved.results.valid == saved.valid
    # Earlier versions worded what to change differently; it must not be taken for what else spoiled the run.
    assert saved.results.spoiled == ()
    assert bool(saved.results.reasons) == bool(saved.result["reasons"])


def test_a_run_that_was_not_saved_to_its_end(folder: Path) -> None:
    whole = load(folder)
    figures, rows = whole.figures, whole.columns["status"].size
    (folder / "result.json").unlink()
    saved = load(folder)
    assert saved.unfinished
    assert repr(saved).endswith(": unfinished>")
    assert saved.columns["status"].size == rows
    assert saved.figures == figures
    assert saved.results is not None
    assert not saved.results.valid
    with pytest.raises(UserError, match="unfinished"):
        saved.result  # noqa: B018
    (folder / "settings.json").unlink()
    saved = load(folder)
    assert saved.unfinished
    assert saved.columns["status"].size == rows
    with pytest.raises(UserError, match=r"settings\.json cannot be read"):
        saved.figures  # noqa: B018


def test_without_columns_the_result_is_left(folder: Path) -> None:
    shutil.rmtree(folder / "columns")
    saved = load(folder)
    assert saved.columns == {}
    assert saved.result["validity"] in ("VALID", "INVALID")
    with pytest.raises(UserError, match="no columns"):
        saved.figures  # noqa: B018


def test_a_run_that_issued_nothing(folder: Path) -> None:
    for path in (folder / "columns").iterdir():
        np.save(path, np.load(path)[:0])
    assert load(folder).figures == {}
    assert load(folder).results is None


def test_settings_of_another_version(folder: Path) -> None:
    path = folder / "settings.json"
    settings = json.loads(path.read_text())
    settings["effective"]["of_the_future"] = 1
    settings["requested"]["of_the_future"] = 1
    del settings["requested"]["server_coalesce_queries"]
    path.write_text(json.dumps(settings))
    assert load(folder).requested.server_coalesce_queries is False
    assert load(folder).effective.scenario is Scenario.Server
    del settings["effective"]["target_qps"]
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="lacks target_qps"):
        load(folder).effective  # noqa: B018
    path.write_text("[]")
    with pytest.raises(UserError, match=r"settings\.json does not hold what a run saves: it is array, not object"):
        load(folder).effective  # noqa: B018


@pytest.mark.parametrize("what", ["nowhere", "a file", "empty"])
def test_what_is_no_run(what: str, tmp_path: Path) -> None:
    place = tmp_path / what
    if what == "a file":
        place.write_text("")
    elif what == "empty":
        place.mkdir()
    with pytest.raises(UserError, match=what) as caught:
        load(place)
    assert "\n" not in str(caught.value)


def test_the_face_has_it() -> None:
    assert drumfire.load is load
    assert drumfire.SavedRun is SavedRun
