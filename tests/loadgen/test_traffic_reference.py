"""Our traffic against the real reference LoadGen, run beside it over random settings: no difference is allowed.

Some cases are drawn anew in every run.  A control with seeds off by one shows that the comparison would tell.
"""

import asyncio
import importlib.util
from collections.abc import Mapping
from typing import Any

import pytest

from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Scenario, SettingsError, effective
from tests.support.traffic_cases import (
    ALL,
    CASES,
    MODES,
    PARAMETERS,
    Case,
    differences,
    our_settings,
    our_traffic,
    reference_of,
    reference_process,
)

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(
        importlib.util.find_spec("mlperf_loadgen") is None,
        reason="the reference is not here: pip install mlcommons_loadgen",
    ),
]


@pytest.mark.parametrize("name", PARAMETERS)
def test_same_traffic_and_effective_settings(name: str) -> None:
    case, reference = ALL[name], reference_of(name)
    assert differences(our_traffic(case), reference) == set(), case
    ours = effective(our_settings(case), case["total"], case["perf"])
    wrong = {}
    for key, value in reference["effective"].items():
        field = key.removeprefix("effective_")
        mine = getattr(ours, "mode" if field == "test_mode" else field)
        mine = float(f"{mine:g}") if isinstance(mine, float) else getattr(mine, "name", mine)
        if mine != value:
            wrong[field] = (mine, value)
    assert wrong == {}, case


def test_cases_cover_what_matters() -> None:
    settings = [case["settings"] for case in CASES.values()]
    assert sum("large" not in name for name in CASES) >= 64
    for mode in MODES:
        assert {s["scenario"] for s in settings if s["mode"] == mode} == set(Scenario.__members__)
    for flags in (("performance_issue_unique",), ("performance_issue_same",), ("sample_concatenate_permutation",),
                  ("performance_issue_unique", "sample_concatenate_permutation")):  # fmt: skip
        having = [s for s in settings if all(s.get(flag) for flag in flags)]
        assert {s["scenario"] for s in having} == set(Scenario.__members__), flags


class Library:
    """As many samples as a case says; no sample is ever looked at."""

    name = "none"

    def __init__(self, case: Case) -> None:
        self.total_count, self.performance_count = case["total"], case["perf"]
        self.loads: list[list[int]] = []

    def load(self, indices: Any) -> None:
        self.loads.append(indices.tolist())

    def unload(self, indices: Any) -> None:
        pass

    def batch(self, indices: Any) -> Any:
        raise AssertionError("nobody asks for samples here")


class Listener:
    """Keeps the dataset indices that it is asked for, call by call, and answers at once."""

    name = "listener"
    answer = None
    columns: Mapping[str, Any] = {}

    async def open(self, answers: Any) -> None:
        self.answers = answers
        self.asked: list[int] = []

    def issue(self, first: int, last: int) -> None:
        self.asked += self.answers.sample_index[first:last].tolist()
        self.answers.complete(first, last)

    def flush(self) -> None:
        pass

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "name",
    [
        *(f"fresh-{scenario}-PerformanceOnly" for scenario in Scenario.__members__),
        "equal-issue-of-override",
        "equal-issue-by-duration",
        *(pytest.param(f"{scenario}-00", marks=pytest.mark.slow) for scenario in Scenario.__members__),
        pytest.param("padding-longer-than-the-set", marks=pytest.mark.slow),
    ],
)
def test_a_real_run_issues_what_the_reference_issued(name: str) -> None:
    case, reference = ALL[name], reference_of(name)
    system, library = Listener(), Library(case)
    test = Test(system, library, our_settings(case))
    asyncio.run(test.run())
    theirs = [sample for query in reference["issued"] for sample in query]
    both = min(len(theirs), len(system.asked))  # a closed loop ends by the clock
    assert both > 0
    assert library.loads == reference["loaded"], case
    assert system.asked[:both] == theirs[:both], case
    drawn = our_traffic(case)[0].sample_index.tolist()
    assert system.asked == test.record.sample_index[: len(system.asked)].tolist() == drawn[: len(system.asked)]
    if case["settings"]["scenario"] in ("Server", "Offline"):
        assert len(system.asked) == len(theirs) == len(drawn)


@pytest.mark.parametrize(
    ("seed", "told"),
    [
        ("qsl_rng_seed", {"loaded", "issued"}),
        ("sample_index_rng_seed", {"issued"}),
        ("schedule_rng_seed", {"due", "duration"}),
    ],
)
def test_a_seed_off_by_one_is_told(seed: str, told: set[str]) -> None:
    """The control: the comparison above does see a difference, and where it must."""
    name = "submission-with-selection"
    case = CASES[name]
    settings = {**case["settings"], seed: case["settings"][seed] + 1}
    found = differences(our_traffic({**case, "settings": settings}), reference_of(name))
    assert told <= found
    assert found <= told | {"query count", "logged", "issued"}


REFUSED = {
    "unique-offline-beyond-the-set": {
        "total": 20, "perf": 20,
        "settings": {
            "scenario": "Offline", "mode": "PerformanceOnly", "performance_issue_unique": True,
            "performance_sample_count_override": 30, "min_duration_ms": 0,
        },
    },
    "no-query": {
        "total": 20, "perf": 20,
        "settings": {
            "scenario": "SingleStream", "mode": "PerformanceOnly", "min_duration_ms": 0, "min_query_count": 0,
        },
    },
    "unique-and-equal-multistream": {  # the padded set asks for more queries than there are unique ones
        "total": 20, "perf": 20,
        "settings": {
            "scenario": "MultiStream", "mode": "PerformanceOnly", "performance_issue_unique": True,
            "sample_concatenate_permutation": True, "multi_stream_samples_per_query": 4, "min_duration_ms": 0,
        },
    },
    "library-without-samples": {
        "total": 20, "perf": 0,
        "settings": {"scenario": "SingleStream", "mode": "PerformanceOnly", "min_duration_ms": 0},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_we_refuse_the_reference_does_not_survive(name: str) -> None:
    with pytest.raises(SettingsError):
        our_traffic(REFUSED[name])
    assert reference_process(REFUSED[name]).returncode < 0, "the reference was expected to die by a signal"
