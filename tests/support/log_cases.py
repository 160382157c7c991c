"""Random tests for whole logs: settings, configuration files with good and bad lines, tokens good and bad."""

from __future__ import annotations

import random
from typing import Any

from tests.support.traffic_cases import Case, random_case

SCENARIOS = ("SingleStream", "MultiStream", "Server", "Offline")
MODES = ("PerformanceOnly", "PerformanceOnly", "AccuracyOnly", "SubmissionRun")
ALWAYS, NEVER = 10**10, 1
"""Bounds on a latency, ns, that any answer meets, and that none does."""

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
    scenario, mode = SCENARIOS[seed % 4], rng.choice(MODES)
    case = random_case(scenario, mode, rng)
    s: dict[str, Any] = case["settings"]
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
