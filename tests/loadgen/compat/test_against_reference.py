"""The drop-in beside the reference: one script, a fresh process for each module; what both left behind is compared."""

import json
import os
import re
import secrets
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(
        find_spec("mlperf_loadgen") is None, reason="the reference is not here: pip install mlcommons_loadgen"
    ),
]

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PREFIX = ":::MLLOG "
AUDIT = "*.*.mode = 2\n*.*.accuracy_log_rng_seed = 720381539243781796\n*.*.accuracy_log_sampling_target = 40\n"
SEEDS = {
    seed: secrets.randbits(64)
    for seed in ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed", "accuracy_log_rng_seed")
}
"""Drawn anew in every run."""


def case(scenario: str, mode: str = "PerformanceOnly", **more: Any) -> dict[str, Any]:
    further = {name: more.pop(name) for name in ("audit", "kind", "log") if name in more}
    settings = {
        "scenario": scenario, "mode": mode, **SEEDS, "min_duration_ms": 0, "min_query_count": 700,
        "server_target_qps": 5000.0, "server_target_latency_ns": 10**10, "accuracy_log_probability": 0.1, **more,
    }  # fmt: skip
    return {"total": 150, "perf": 64, "settings": settings, **further}


TOKENS = {"use_token_latencies": True, "ttft_latency": 10**10, "tpot_latency": 10**10}
CASES = {
    "SingleStream": case("SingleStream"),
    "SingleStream-accuracy": case("SingleStream", "AccuracyOnly"),
    "SingleStream-ran-out": case("SingleStream", min_duration_ms=100_000, single_stream_expected_latency_ns=1e9),
    "SingleStream-tokens": case("SingleStream", **TOKENS),
    "MultiStream": case("MultiStream", kind="FastSUT"),
    "MultiStream-accuracy": case("MultiStream", "AccuracyOnly", multi_stream_samples_per_query=5),
    "MultiStream-few": case("MultiStream", min_query_count=100),
    "Server": case("Server", kind="QDL"),
    "Server-late": case("Server", server_target_latency_ns=1),
    "Server-fast": case("Server", kind="FastSUT", server_coalesce_queries=True),
    "Server-submission": case("Server", "SubmissionRun"),
    "Server-tokens": case("Server", **TOKENS),
    "Server-tokens-submission": case("Server", "SubmissionRun", **TOKENS),
    "Server-audit": case("Server", "AccuracyOnly", audit=AUDIT),
    "Server-audit-refused": case("Server", audit="*.*.mode=2 3\n"),
    "Server-peak-not-found": case("Server", "FindPeakPerformance", server_target_latency_ns=1),
    "Offline-peak": case("Offline", "FindPeakPerformance"),
    "Server-max-queries": case("Server", max_query_count=300),
    "Offline": case("Offline", print_timestamps=True),
    "Offline-named": case("Offline", "SubmissionRun", log={"prefix": "a_", "suffix": "_z"}),
    "Offline-tokens": case("Offline", **TOKENS),
    "Offline-unique-and-same": case("Offline", performance_issue_same=True, performance_issue_unique=True),
}  # fmt: skip
QUICK = ("SingleStream", "MultiStream-accuracy", "Server-submission", "Server-tokens", "Server-audit", "Offline")
"""In the fast tier."""
MODULES = {"reference": [sys.executable], "ours": [sys.executable, "-m", "drumfire.loadgen.compat"]}


class Told(NamedTuple):
    case: dict[str, Any]
    shown: dict[str, str]
    """By module, what was printed."""
    left: dict[str, dict[str, Any]]
    """By module, its files and calls."""


def process(module: str, script: Path, *arguments: str, given: str = "") -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*MODULES[module], str(script), *arguments],
        input=given, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{module} ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]
)
def told(request: pytest.FixtureRequest) -> Told:
    """What the script told of a case with each module."""
    made = CASES[request.param]
    given = json.dumps(made)
    outputs = {module: process(module, HERE / "logged_run.py", given=given) for module in MODULES}
    shown, left = {}, {}
    for module, output in outputs.items():
        shown[module], _, document = output.strip().rpartition("\n")
        left[module] = json.loads(document)
    return Told(made, shown, left)


def entries(found: dict[str, Any]) -> list[dict[str, Any]]:
    detail = next(text for name, text in found["files"].items() if "detail" in name)
    return [json.loads(line.removeprefix(PREFIX)) for line in detail.splitlines()]


def ran_out_of_room(entry: dict[str, Any]) -> bool:
    """The reference warns so of its own logger, whose room follows the expected latency; ours needs none."""
    return str(entry["value"]).startswith("Logging allocation detected")


def kind(value: Any) -> str:
    """The reference prints whole doubles without a point, so that numbers are of one kind."""
    return "number" if type(value) in (int, float) else type(value).__name__


def test_keys_types_and_order_of_the_detail_log(told: Told) -> None:
    def skeleton(module: str) -> list[tuple[Any, ...]]:
        return [
            (e["key"], kind(e["value"]), e["metadata"]["is_error"], e["metadata"]["is_warning"], *e)
            for e in entries(told.left[module])
            if not ran_out_of_room(e)
        ]

    assert skeleton("ours") == skeleton("reference"), told.case


FIXED = ("requested_", "effective_", "generated_", "loaded_qsl_set", "qsl_", "sut_name")
"""Keys whose values do not depend on how fast anything was; the following don't either, as every case is made."""
JUDGED = (
    "result_validity",
    "result_perf_constraints_met",
    "result_min_duration_met",
    "result_min_queries_met",
    "early_stopping_met",
    "result_query_count",
    "result_overlatency_query_count",
    "result_invalid_reason",
    "num_errors",
)


def test_values_of_the_detail_log(told: Told) -> None:
    def fixed(module: str) -> list[tuple[str, Any]]:
        return [
            (e["key"], e["value"].strip() if isinstance(e["value"], str) else e["value"])
            for e in entries(told.left[module])
            if not ran_out_of_room(e)
            and (e["key"].startswith(FIXED) or e["key"] in (*JUDGED, "generic_message", "warning_generic_message"))
        ]

    assert fixed("ours") == fixed("reference"), told.case


def test_the_accuracy_log_is_equal(told: Told) -> None:
    """Each query is answered within the call, so that even the order is given."""
    ours, theirs = (
        next(text for file, text in told.left[module]["files"].items() if "accuracy" in file)
        for module in ("ours", "reference")
    )
    assert ours == theirs, told.case


def test_the_same_files_and_calls(told: Told) -> None:
    ours, theirs = (told.left[module] for module in ("ours", "reference"))
    assert list(ours["files"]) == list(theirs["files"]), told.case
    if not told.case["settings"].get("server_coalesce_queries"):  # how many go together is a matter of speed
        assert sorted(ours["called"]) == sorted(theirs["called"]), told.case
        # For the summary, the reference asks the name before it unloads.
        in_order = [[call for call in found["called"] if call != "name"] for found in (ours, theirs)]
        assert in_order[0] == in_order[1], told.case


def test_the_summary_has_the_same_lines(told: Told) -> None:
    def lines(module: str) -> list[str]:
        files = told.left[module]["files"]
        text = next(text for file, text in files.items() if "summary" in file)
        without_warnings = re.sub(r".* warnings? encountered.*", "No warnings encountered during test.", text)
        return [re.sub(r"[0-9.]+(e[+-][0-9]+)?", "#", line) for line in without_warnings.splitlines()]

    assert lines("ours") == lines("reference"), told.case


def test_what_is_printed_is_equal(told: Told) -> None:
    """Timestamps, where they are wanted."""
    ours, theirs = (re.sub("[0-9]+", "#", told.shown[module]) for module in ("ours", "reference"))
    assert ours == theirs, told.case
    if told.case["settings"].get("print_timestamps"):
        assert ours != ""


HARNESSES = {
    "single_stream": (),
    "multi_stream": (),
    "server": (str(10**10),),
    "server-too-slow": ("1",),
    "offline": (),
}
EXPECTED = {
    "single_stream": (["VALID"], [700]),
    "multi_stream": (["VALID"], [670]),
    "server": (["VALID"], [800]),
    "server-too-slow": (["INVALID"], [800]),
    "offline": (["VALID"], [1]),
}


@pytest.mark.parametrize("name", HARNESSES)
def test_a_harness_gets_the_same_verdict_and_counts(name: str, tmp_path: Path) -> None:
    found = {}
    for module in MODULES:
        folder = tmp_path / module
        folder.mkdir()
        script = HERE / "harnesses" / f"{name.partition('-')[0]}.py"
        shown = process(module, script, str(folder), *HARNESSES[name])
        texts = [path.read_text(errors="replace") for path in sorted(folder.iterdir()) if "detail" in path.name]
        told = [
            json.loads(line.removeprefix(PREFIX))
            for text in texts
            for line in text.splitlines()
            if "_counts" not in line
        ]
        logged = [
            json.loads(path.read_text())
            for path in sorted(folder.iterdir())
            if "accuracy" in path.name and path.stat().st_size
        ]
        found[module] = {
            "verdicts": [e["value"] for e in told if e["key"] == "result_validity"],
            "queries": [e["value"] for e in told if e["key"] == "result_query_count"],
            "generated": [e["value"] for e in told if e["key"].startswith("generated_")],
            "errors": [e["key"] for e in told if e["metadata"]["is_error"]],
            "files": sorted(path.name for path in folder.iterdir()),
            "logged": [sorted((e["seq_id"], e["qsl_idx"], e["data"]) for e in log) for log in logged],
            "shown": re.findall("Result is : .*|Scenario : .*|.* error.* encountered.*", shown),
        }
    assert found["ours"] == found["reference"]
    assert (found["ours"]["verdicts"], found["ours"]["queries"]) == EXPECTED[name]
