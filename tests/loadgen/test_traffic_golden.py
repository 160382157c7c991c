"""Our traffic against recorded runs of the reference: settings, sets, indices, schedule, accuracy-log selection."""

import json
from pathlib import Path

import numpy as np
import pytest

from drumfire.loadgen.settings import EffectiveSettings, Mode, Scenario, TestSettings, effective
from drumfire.loadgen.traffic import Phase, draw

GOLDEN = Path(__file__).parents[1] / "golden"
RUNS = {
    path.stem: run for path in sorted(GOLDEN.glob("*.json")) if "deterministic" in (run := json.loads(path.read_text()))
}
SCHEDULES = {name: run for name, run in RUNS.items() if "Server" in run["test_settings"]["scenario"]}


def settings_of(run: dict) -> EffectiveSettings:
    values = dict(run["test_settings"])
    values["scenario"], values["mode"] = Scenario[values["scenario"]], Mode[values["mode"]]
    return effective(TestSettings(**values), run["spec"]["total"], run["spec"]["perf"])


def traffic_of(run: dict) -> list[Phase]:
    return draw(settings_of(run), run["spec"]["total"])


def test_all_recorded_runs_are_there() -> None:
    assert len(RUNS) == 10
    assert {run["test_settings"]["scenario"] for run in RUNS.values()} == set(Scenario.__members__)


@pytest.mark.parametrize("name", RUNS)
def test_effective_settings(name: str) -> None:
    ours, wrong = settings_of(RUNS[name]), {}
    for key, value in RUNS[name]["deterministic"]["effective"].items():
        field = key.removeprefix("effective_")
        mine = getattr(ours, "mode" if field == "test_mode" else field)
        # The reference prints doubles with six digits.
        mine = float(f"{mine:g}") if isinstance(mine, float) else getattr(mine, "name", mine)
        if mine != value:
            wrong[field] = (mine, value)
    assert wrong == {}
    assert ours.errors == ()


@pytest.mark.parametrize("name", RUNS)
def test_loaded_sets(name: str) -> None:
    assert [p.loaded.tolist() for p in traffic_of(RUNS[name])] == RUNS[name]["deterministic"]["loaded_sets"]


@pytest.mark.parametrize("name", RUNS)
def test_generated(name: str) -> None:
    phases, known = traffic_of(RUNS[name]), RUNS[name]["deterministic"]
    assert [p.query_count for p in phases] == known["generated_query_count"]
    assert [p.samples_per_query for p in phases] == known["generated_samples_per_query"]
    assert [p.generated_duration_ns for p in phases] == known["generated_query_duration_ns"]


@pytest.mark.parametrize("name", RUNS)
def test_issued_indices(name: str) -> None:
    phases, issued = traffic_of(RUNS[name]), RUNS[name]["deterministic"]["issued_sample_indices"]
    queries = [query for p in phases for query in p.sample_index.reshape(-1, p.samples_per_query).tolist()]
    assert queries[: len(issued)] == issued
    # Only a closed loop's performance run may end, by the clock, before all that was generated is issued.
    if phases[-1].accuracy or settings_of(RUNS[name]).scenario in (Scenario.Server, Scenario.Offline):
        assert len(queries) == len(issued)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_to_the_ns(name: str) -> None:
    known = RUNS[name]["deterministic"]
    by_phase = known.get("scheduled_delta_ns_first_1000_per_phase") or [known["scheduled_delta_ns_first_1000"]]
    ours = [p.scheduled[:1000].tolist() for p in traffic_of(RUNS[name]) if p.scheduled is not None]
    assert ours == by_phase


def test_only_server_has_a_schedule() -> None:
    assert len(SCHEDULES) == 3
    for name, run in RUNS.items():
        assert all((p.scheduled is not None) == (name in SCHEDULES) for p in traffic_of(run))


@pytest.mark.parametrize("name", RUNS)
def test_accuracy_log_selection(name: str) -> None:
    known = sorted(entry["seq_id"] for entry in json.loads(RUNS[name]["accuracy_log"]))
    rows_issued = sum(len(query) for query in RUNS[name]["deterministic"]["issued_sample_indices"])
    ours: list[int] = []
    for phase in traffic_of(RUNS[name]):
        if phase.accuracy:
            ours += range(phase.first_row, phase.first_row + phase.rows)
        elif phase.logged is not None:
            ours += (np.flatnonzero(phase.logged) + phase.first_row).tolist()
    assert [row for row in ours if row < rows_issued] == known


def test_some_runs_select() -> None:
    """Else the comparison above would compare nothing with nothing."""
    selecting = [name for name, run in RUNS.items() if run["accuracy_log"].strip() != "[\n]"]
    assert len(selecting) >= 6


@pytest.mark.parametrize("name", RUNS)
def test_rows_are_numbered_through(name: str) -> None:
    phases = traffic_of(RUNS[name])
    assert [p.first_row for p in phases] == [0, *np.cumsum([p.rows for p in phases[:-1]]).tolist()]
