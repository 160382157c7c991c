"""Cases of traffic and of whole logs, the reference LoadGen's runs of them, and where our traffic differs.

Each run is a process of ``reference_run.py``.
"""

import functools
import json
import random
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.settings import Mode, Scenario, TestSettings, effective
from drumfire.loadgen.traffic import Phase, draw

SCRIPT = Path(__file__).with_name("reference_run.py")
SEEDS = ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")
MODES = ("PerformanceOnly", "AccuracyOnly", "PerformanceOnly", "SubmissionRun", "PerformanceOnly")
SET_SIZES = (1, 2, 3, 5, 31, 45, 127, 128, 129, 300)
SCENARIOS = ("SingleStream", "MultiStream", "Server", "Offline")
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
    for scenario in SCENARIOS:
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

    # Around 65,536 the reference changes how it shuffles; a padded set may cross that where the set itself does not.
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


def fresh_cases() -> dict[str, Case]:
    """New ones in every run.  A comparison prints its case, so that a failure can be repeated."""
    return {
        f"fresh-{scenario}-{mode}": random_case(scenario, mode, random.Random(secrets.randbits(64)))
        for scenario in SCENARIOS
        for mode in ("PerformanceOnly", "AccuracyOnly", "SubmissionRun")
    }


CASES = cases()
FRESH = fresh_cases()
QUICK = (
    "large-65535-SingleStream",
    "large-65530-MultiStream-padded",
    "padding-wraps-accuracy",
    "equal-issue-of-override",
    "equal-issue-by-duration",
    "unique-and-same",
    "submission-with-selection",
)
"""In the fast tier, beside the fresh ones."""
PARAMETERS = [*FRESH, *(pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES)]
ALL = CASES | FRESH


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


@functools.cache
def reference_of(name: str) -> dict:
    """What the reference did in a case; it runs once."""
    case = ALL[name]
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
    """Where our phases and the reference's run differ."""
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


# Whole logs: settings, configuration files with good and bad lines, tokens good and bad.

ALWAYS, NEVER = 10**10, 1
"""Bounds on a latency, ns, that any answer meets, and that none does."""

_LOG_MODES = ("PerformanceOnly", "PerformanceOnly", "AccuracyOnly", "SubmissionRun")
_GOOD = (
    "# a comment", "", "k=v", "*.*.nothing = 7 8", "*.*.nothing = 0x10 1e3", "resnet50.*.print_timestamps = 1",
    "*.SingleStream.target_latency_percentile = 95.5", "*.MultiStream.target_latency_percentile = 97",
    "*.Server.target_latency_percentile = 99.9", "*.Server.max_async_queries = 5000", "*.Server.coalesce_queries = 1",
    "*.*.min_duration = 600000", "*.*.qsl_rng_seed = 5", "*.*.mode = 1", "*.*.mode = 9",
)  # fmt: skip
_BAD = ("k : 7", "k= 7", "k = 7 # why", "k = seven 8", "k 7", "# = 1 x\nk = 1 2 x 3")
_AUDIT = (
    "*.*.accuracy_log_rng_seed = 720381539243781796", "*.*.accuracy_log_sampling_target = 40",
    "*.*.min_query_count = 64", "resnet50.*.min_query_count = 2000", "*.*.schedule_rng_seed = 3",
)  # fmt: skip


def log_case(seed: int) -> Case:
    """One that the reference survives.  ``sure`` cases have verdicts that do not depend on speed."""
    rng = random.Random(f"logs {seed}")
    scenario, mode = SCENARIOS[seed % 4], rng.choice(_LOG_MODES)
    case = random_case(scenario, mode, rng)
    s = case["settings"]
    case["sure"] = sure = rng.random() < 0.6
    if sure and scenario != "Server":
        s["min_duration_ms"] = 0
    between = [] if sure else [20_000, 100_000, 400_000]
    bounds = [ALWAYS, NEVER, *between]
    s["server_target_latency_ns"] = rng.choice(bounds)
    s["max_query_count"] = rng.choice([0, 0, 0, rng.randint(1, 400)])
    s["max_duration_ms"] = 0 if sure else rng.choice([0, 0, 3, 40])
    for name in ("single_stream", "multi_stream", "server"):
        if rng.random() < 0.4:
            s[f"{name}_target_latency_percentile"] = rng.choice([0.5, 0.9, 0.97, 0.99, 0.999])
    s["use_token_latencies"] = rng.random() < 0.35
    s["ttft_latency"], s["tpot_latency"] = rng.choice(bounds), rng.choice(bounds)
    s["infer_token_latencies"], s["token_latency_scaling_factor"] = rng.random() < 0.3, rng.choice([0, 1, 69])
    if s["use_token_latencies"] and rng.random() < 0.35:
        case["token_counts"] = rng.choice([[2, 0, 5], [1, 4], [3, -1, 0, 1, 9], [1]])
    # With few samples, the reference does not survive a missing first token.
    many = min(case["total"], s["performance_sample_count_override"] or case["perf"]) >= 31
    if s["use_token_latencies"] and many and rng.random() < 0.3:
        case["without_first"] = [rng.randrange(case["total"])]
    if rng.random() < 0.1:
        s |= {"test05": True, "test05_qsl_rng_seed": rng.getrandbits(64), "test05_schedule_rng_seed": 9}
    case["kind"] = rng.choice(["SUT", "FastSUT", "QDL"])
    if rng.random() < 0.5:
        case["configs"] = [_config(rng, scenario) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.35:
        lines = rng.sample(_AUDIT, rng.randint(1, 4)) + rng.sample(_BAD, rng.choice([0, 0, 1, 2]))
        rng.shuffle(lines)
        case["audit"] = "\n".join(lines)
    return case


def _config(rng: random.Random, scenario: str) -> list[Any]:
    text = None
    if rng.random() < 0.9:
        lines = rng.sample(_GOOD, rng.randint(0, 6)) + rng.sample(_BAD, rng.choice([0, 0, 1, 2, 3]))
        rng.shuffle(lines)
        text = "\n".join(lines) + rng.choice(["", "\n"])
    return [text, rng.choice(["resnet50", "llama2-70b", "gptj", "nosuch"]), scenario, rng.choice([1, 1, 2])]
