"""Our traffic against the real reference LoadGen, run beside it over random settings: no difference is allowed.

Each case is one run of ``reference_run.py`` in a process of its own.  A control with seeds off by one shows that the
comparison would tell.
"""

import asyncio
import importlib.util
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadgen import Mode, Scenario, SettingsError, Test, TestSettings
from loadgen.settings import effective
from loadgen.traffic import Phase, draw

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(
        importlib.util.find_spec("mlperf_loadgen") is None,
        reason="the reference is not here: pip install mlcommons_loadgen",
    ),
]

SCRIPT = Path(__file__).with_name("reference_run.py")
SEEDS = ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")
MODES = ("PerformanceOnly", "AccuracyOnly", "PerformanceOnly", "SubmissionRun", "PerformanceOnly")
SET_SIZES = (1, 2, 3, 5, 31, 45, 127, 128, 129, 300)
Case = dict[str, Any]


def random_case(scenario: str, mode: str, rng: random.Random) -> Case:
    """Settings that the reference survives, short enough for some tenths of a second."""
    total, perf = rng.choice(SET_SIZES), rng.choice(SET_SIZES)
    s: dict[str, Any] = {"scenario": scenario, "mode": mode}
    for seed in (*SEEDS, "accuracy_log_rng_seed"):
        s[seed] = rng.choice([0, rng.getrandbits(32), rng.getrandbits(64)])
    s["performance_sample_count_override"] = rng.choice([0, 0, rng.randint(1, max(1, perf - 1)), perf + 7])
    s["accuracy_sample_count_override"] = rng.choice([0, 0, rng.randint(1, total), total + 9])
    s["accuracy_log_probability"] = rng.choice([0.0, 0.01, 0.3, 1.0])
    s["accuracy_log_sampling_target"] = rng.choice([0, 0, 7, 500])
    s["min_duration_ms"] = rng.choice([0, 50, 100, 200])
    s["min_query_count"] = rng.choice([1, 2, 17, 128, 500, 2000])
    if scenario == "SingleStream":
        s["single_stream_expected_latency_ns"] = rng.choice([2e4, 123_456.7, 1e6])
    elif scenario == "MultiStream":
        s["multi_stream_expected_latency_ns"] = rng.choice([5e4, 123_456.7, 1e6])
        s["multi_stream_samples_per_query"] = rng.randint(1, 9)
        s["min_query_count"] = min(s["min_query_count"], 500)
    elif scenario == "Server":
        s["server_target_qps"] = rng.choice([1500.0, 3333.3, 20_000.0])
        s["server_coalesce_queries"] = rng.random() < 0.3
        s["min_query_count"] = min(s["min_query_count"], int(s["server_target_qps"] / 5))
    else:
        s["offline_expected_qps"] = rng.choice([100.0, 3333.3, 20_000.0])

    held = min(s["performance_sample_count_override"] or perf, total)
    choice = rng.choice(["any", "any", "unique", "same", "equal", "equal", "unique+equal"])
    if "unique" in choice and scenario == "Offline" and (s["performance_sample_count_override"] or perf) > total:
        # One query that is larger than the set: no query at all, which the reference does not survive.
        s["performance_sample_count_override"] = held
    if choice == "unique+equal" and scenario == "MultiStream" and mode != "AccuracyOnly":
        s["multi_stream_samples_per_query"] = 1  # with more the reference reads beyond its list
    s["performance_issue_unique"] = "unique" in choice
    s["sample_concatenate_permutation"] = "equal" in choice
    s["performance_issue_same"] = choice == "same"
    if choice == "same":
        of_accuracy = min(s["accuracy_sample_count_override"] or total, total)
        smallest = held if mode == "PerformanceOnly" else min(of_accuracy % held or held, held, of_accuracy)
        s["performance_issue_same_index"] = rng.randrange(smallest)
    return {"total": total, "perf": perf, "settings": s}


def cases() -> dict[str, Case]:
    made: dict[str, Case] = {}
    for scenario in ("SingleStream", "MultiStream", "Server", "Offline"):
        rng = random.Random(f"{scenario} traffic")
        for number in range(25):
            made[f"{scenario}-{number:02}"] = random_case(scenario, MODES[number % len(MODES)], rng)

    rng = random.Random("chosen traffic")

    def add(name: str, total: int, perf: int, scenario: str, mode: str = "PerformanceOnly", **settings: object) -> None:
        seeds = {seed: rng.getrandbits(64) for seed in (*SEEDS, "accuracy_log_rng_seed")}
        short = {"min_duration_ms": 0, "min_query_count": 300}
        made[name] = {
            "total": total, "perf": perf, "settings": {"scenario": scenario, "mode": mode, **seeds, **short, **settings}
        }  # fmt: skip

    # Around 65,536 the reference changes how it shuffles; a padded set may cross over where the set itself does not.
    for size in (65_535, 65_536, 70_001):
        add(f"large-{size}-SingleStream", size, size, "SingleStream")
        add(f"large-{size}-Offline-equal", size, size, "Offline", sample_concatenate_permutation=True)
    add("large-65536-Server-unique", 65_536, 65_536, "Server", server_target_qps=1e6, performance_issue_unique=True)
    add("large-65530-MultiStream-padded", 65_530, 65_530, "MultiStream", multi_stream_samples_per_query=9)
    add("large-accuracy", 70_001, 65_536, "Offline", "AccuracyOnly")
    add("padding-longer-than-the-set", 3, 3, "MultiStream", multi_stream_samples_per_query=9)
    add("padding-wraps-accuracy", 7, 4, "MultiStream", "AccuracyOnly", multi_stream_samples_per_query=9)
    add("equal-issue-repeats", 5, 5, "SingleStream", sample_concatenate_permutation=True, min_query_count=3)
    add(
        "equal-issue-of-override",
        100, 37, "SingleStream", sample_concatenate_permutation=True, performance_sample_count_override=29,
        min_duration_ms=50, single_stream_expected_latency_ns=3e4,
    )  # fmt: skip
    add(
        "equal-issue-by-duration",
        64, 31, "Server", sample_concatenate_permutation=True, min_query_count=10, server_target_qps=5000.0,
        min_duration_ms=100,
    )  # fmt: skip
    add(
        "unique-and-same",
        64, 31, "Server", performance_issue_unique=True, performance_issue_same=True, performance_issue_same_index=3,
        server_target_qps=5000.0,
    )  # fmt: skip
    add(
        "submission-with-selection",
        301, 128, "Server", "SubmissionRun", server_target_qps=8000.0, accuracy_log_probability=0.2, min_duration_ms=50,
    )  # fmt: skip
    return made


CASES = cases()


@pytest.fixture(scope="session")
def reference_runs() -> Iterator[dict[str, Future[dict]]]:
    """All cases, two at a time; a test waits for its own."""
    pool = ThreadPoolExecutor(2)
    try:
        yield {name: pool.submit(run_reference, case) for name, case in CASES.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def reference_process(case: Case, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    for attempt in range(3):
        try:
            return subprocess.run(
                [sys.executable, str(SCRIPT)], input=json.dumps(case), capture_output=True, text=True, timeout=timeout_s
            )
        except OSError as error:  # a loaded virtual machine was seen to refuse the start; nothing has run then
            refused = error
            time.sleep(0.1 * attempt)
    raise refused


def run_reference(case: Case) -> dict:
    done = reference_process(case)
    assert done.returncode == 0, f"the reference ended with {done.returncode} on {case}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


def our_settings(case: Case) -> TestSettings:
    values = dict(case["settings"])
    values["scenario"], values["mode"] = Scenario[values["scenario"]], Mode[values["mode"]]
    return TestSettings(**values)


def our_traffic(case: Case) -> list[Phase]:
    return draw(effective(our_settings(case), case["total"], case["perf"]), case["total"])


def differences(phases: list[Phase], reference: dict) -> set[str]:
    """What our phases and the reference's run disagree in."""
    wrong = set()
    if [p.loaded.tolist() for p in phases] != reference["loaded"]:
        wrong.add("loaded")
    if [p.query_count for p in phases] != reference["query_count"]:
        wrong.add("query count")
    if [p.samples_per_query for p in phases] != reference["samples_per_query"]:
        wrong.add("samples per query")
    if [p.generated_duration_ns for p in phases] != reference["duration_ns"]:
        wrong.add("duration")
    if not same_issue(phases, reference["issued"]):
        wrong.add("issued")
    if phases[0].scheduled is not None and due_by_phase(phases, reference["due_ns"]) != [
        p.scheduled.tolist() for p in phases if p.scheduled is not None
    ]:
        wrong.add("due")
    rows_issued = sum(map(len, reference["issued"]))
    if [row for row in logged_rows(phases) if row < rows_issued] != reference["logged"]:
        wrong.add("logged")
    return wrong


def same_issue(phases: list[Phase], issued: list[list[int]]) -> bool:
    """Whether the reference issued our queries: all, but that a closed loop's performance phase may end before."""
    queries = [q for p in phases for q in p.sample_index.reshape(-1, p.samples_per_query).tolist()]
    if phases[0].scheduled is not None:  # coalesced queries come in one call
        queries = [[sample] for sample in np.concatenate([p.sample_index for p in phases]).tolist()]
        issued = [[sample] for call in issued for sample in call]
    may_end_early = not phases[-1].accuracy and phases[-1].scheduled is None
    certain = sum(p.query_count for p in phases[:-1]) + (1 if may_end_early else phases[-1].query_count)
    return certain <= len(issued) <= len(queries) and queries[: len(issued)] == issued


def due_by_phase(phases: list[Phase], due_ns: list[int]) -> list[list[int]]:
    """The reference's schedule, each phase from its first query on, which is due at 0."""
    found = []
    for phase in phases:
        of_phase = due_ns[phase.first_row : phase.first_row + phase.rows]
        found.append([ns - of_phase[0] for ns in of_phase])
    return found


def logged_rows(phases: list[Phase]) -> list[int]:
    rows: list[int] = []
    for phase in phases:
        if phase.accuracy:
            rows += range(phase.first_row, phase.first_row + phase.rows)
        elif phase.logged is not None:
            rows += (np.flatnonzero(phase.logged) + phase.first_row).tolist()
    return rows


@pytest.mark.parametrize("name", CASES)
def test_same_traffic(name: str, reference_runs: dict[str, Future[dict]]) -> None:
    assert differences(our_traffic(CASES[name]), reference_runs[name].result()) == set()


@pytest.mark.parametrize("name", CASES)
def test_same_effective_settings(name: str, reference_runs: dict[str, Future[dict]]) -> None:
    case = CASES[name]
    ours = effective(our_settings(case), case["total"], case["perf"])
    wrong = {}
    for key, value in reference_runs[name].result()["effective"].items():
        field = key.removeprefix("effective_")
        mine = getattr(ours, "mode" if field == "test_mode" else field)
        mine = float(f"{mine:g}") if isinstance(mine, float) else getattr(mine, "name", mine)
        if mine != value:
            wrong[field] = (mine, value)
    assert wrong == {}


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
    ["SingleStream-00", "SingleStream-02", "MultiStream-00", "MultiStream-02", "Server-00", "Server-02", "Offline-00",
     "Offline-02", "equal-issue-of-override", "equal-issue-by-duration", "padding-longer-than-the-set"],
)  # fmt: skip
def test_a_real_run_issues_what_the_reference_issued(name: str, reference_runs: dict[str, Future[dict]]) -> None:
    case, reference = CASES[name], reference_runs[name].result()
    system, library = Listener(), Library(case)
    test = Test(system, library, our_settings(case))
    asyncio.run(test.run())
    theirs = [sample for query in reference["issued"] for sample in query]
    both = min(len(theirs), len(system.asked))  # a closed loop ends by the clock
    assert both > 0
    assert library.loads == reference["loaded"]
    assert system.asked[:both] == theirs[:both]
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
def test_a_seed_off_by_one_is_told(seed: str, told: set[str], reference_runs: dict[str, Future[dict]]) -> None:
    """The control: the comparison above does see a difference, and where it must."""
    name = "submission-with-selection"
    case = CASES[name]
    settings = {**case["settings"], seed: case["settings"][seed] + 1}
    found = differences(our_traffic({**case, "settings": settings}), reference_runs[name].result())
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
