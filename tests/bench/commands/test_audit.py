"""The compliance tests, on systems in virtual time that are honest, cache results, or answer otherwise when watched."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.bench.assemble.local import Assembly
from drumfire.bench.commands import run
from drumfire.bench.commands.audit import TESTS, judge_answers, judge_performance, run_audit
from drumfire.loadgen import directory
from drumfire.loadgen.config import ConfigReader
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Scenario, TestSettings
from drumfire.sut.models.model import Accuracy
from tests.support.command import here, one_line_error

MS = 1_000_000
SCENARIOS = [Scenario.SingleStream, Scenario.MultiStream, Scenario.Offline]


class Library:
    name, total_count, performance_count = "numbers", 40, 40

    def load(self, indices: Any) -> None:
        pass

    unload = load

    def batch(self, indices: Any) -> Any:
        return indices


class Honest:
    """One after the other, a millisecond a sample, in virtual time; the answer is the sample's index."""

    name, answer = "system", None
    columns: Mapping[str, Any] = {}

    async def open(self, answers: Any) -> None:
        self.answers, self.clock_ns = answers, 0

    def cost_ns(self, index: int) -> int:
        return MS + index * 100  # no two samples alike, and all nearly so

    def response(self, index: int) -> bytes:
        return int(index).to_bytes(4, "little")

    def issue(self, first: int, last: int) -> None:
        rows = range(first, last)
        indices = self.answers.sample_index[first:last].tolist()
        self.answers.complete(first, last, [self.response(index) for index in indices])
        due = int(self.answers.columns["issued"][first])
        self.clock_ns = due if self.answers.in_turn else self.clock_ns
        for row, index in zip(rows, indices, strict=True):
            self.clock_ns += self.cost_ns(index)
            self.answers.columns["completed"][row] = self.clock_ns

    def flush(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Caching(Honest):
    """What it has seen among the last eight samples costs next to nothing."""

    async def open(self, answers: Any) -> None:
        await super().open(answers)
        self.known: deque[int] = deque(maxlen=8)

    def cost_ns(self, index: int) -> int:
        hit = index in self.known
        self.known.append(index)
        return MS // 50 if hit else super().cost_ns(index)


class TwoFaced(Honest):
    """Computes properly only where all answers are kept, as in an accuracy run."""

    def response(self, index: int) -> bytes:
        return super().response(index if self.answers._keep_all else 0)


class Rounding(Honest):
    """Answers right, but not in the same bytes in each mode, as sums of floats may."""

    def response(self, index: int) -> bytes:
        return super().response(index) + (b"\x01" if self.answers._keep_all else b"\x02")


def accuracy(indices: np.ndarray, responses: Any) -> Accuracy:
    good = sum(int.from_bytes(data[:4], "little") == index for index, data in zip(indices, responses, strict=True))
    return Accuracy("right", good / len(indices), good, len(indices), 0.9)


def perform(assembly: Assembly, settings: TestSettings, where: Path, warnings: tuple[str, ...]) -> Any:
    test = Test(assembly.system, assembly.library, settings, config_warnings=warnings)
    asyncio.run(test.run())
    found = directory.document(test, {"directory": str(where)}, [])
    directory.save(test, found, where)
    return test, found


def outcome(test_name: str, system: Honest, scenario: Scenario, folder: Path) -> dict[str, Any]:
    assembly = assembled(system, scenario)

    def one(settings: TestSettings, where: Path, warnings: tuple[str, ...]) -> Any:
        return perform(assembly, settings, where, warnings)

    return run_audit(test_name, assembly, one, folder)


def assembled(system: Honest, scenario: Scenario) -> Assembly:
    settings = TestSettings()
    ConfigReader().from_config(settings, None, "numbers", scenario.name, ConfigReader.BUILT_IN)
    settings.scenario = scenario
    settings.min_duration_ms, settings.min_query_count = 0, 3000 if scenario == Scenario.Offline else 1500
    return Assembly(system, Library(), settings, accuracy, "title", {"model": "numbers"})


@pytest.mark.parametrize(
    ("test_name", "scenario"),
    [
        # A latency and a rate are judged; all else is the same for each test and scenario.
        pytest.param(
            test,
            scenario,
            marks=()
            if scenario == Scenario.Offline or (test == "TEST01" and scenario == Scenario.SingleStream)
            else pytest.mark.slow,
        )
        for test in TESTS
        for scenario in SCENARIOS
    ],
)
def test_an_honest_system_passes(test_name: str, scenario: Scenario, tmp_path: Path) -> None:
    found = outcome(test_name, Honest(), scenario, tmp_path)
    assert found["passed"], found
    inner = tmp_path / test_name
    assert (inner / "verify_performance.txt").read_text().startswith("TEST PASS\n")
    assert (inner / "verify_accuracy.txt").exists() == (test_name == "TEST01")
    if test_name == "TEST01":  # exactly what the official checker wants of answers that are equal
        assert sorted(path.name for path in (inner / "accuracy").iterdir()) == [
            "accuracy.txt",
            "mlperf_log_accuracy.json",
        ]
        assert re.match(r"accuracy=100.000%, good=(\d+), total=\1\n", (inner / "accuracy" / "accuracy.txt").read_text())
    assert json.loads((tmp_path / "audit.json").read_text()) == found
    log = (inner / "performance" / "run_1" / "mlperf_log_detail.txt").read_text()
    assert "Found Audit Config file" in log
    assert ('"effective_performance_issue_same_index", "value": 3' in log) == (test_name == "TEST04")
    assert ('"effective_accuracy_log_sampling_target", "value": 4096' in log) == (test_name == "TEST01")
    assert ('"effective_qsl_rng_seed", "value": 7975553102935885558' in log) == (test_name == "TEST05")


@pytest.mark.parametrize(
    "scenario", [Scenario.SingleStream, *(pytest.param(one, marks=pytest.mark.slow) for one in SCENARIOS[1:])]
)
def test_a_cache_fails_test04(scenario: Scenario, tmp_path: Path) -> None:
    """Few samples come again soon in the usual run, and all do in the audited one."""
    found = outcome("TEST04", Caching(), scenario, tmp_path)
    assert not found["passed"]
    assert [check["name"] for check in found["checks"] if not check["passed"]] == ["performance"]
    assert (tmp_path / "TEST04" / "verify_performance.txt").read_text().startswith("TEST FAIL\n")


@pytest.mark.parametrize(
    "scenario", [Scenario.SingleStream, *(pytest.param(one, marks=pytest.mark.slow) for one in SCENARIOS[1:])]
)
def test_other_answers_in_performance_mode_fail_test01(scenario: Scenario, tmp_path: Path) -> None:
    found = outcome("TEST01", TwoFaced(), scenario, tmp_path)
    assert not found["passed"]
    assert [check["name"] for check in found["checks"] if not check["passed"]] == ["answers"]
    assert (tmp_path / "TEST01" / "verify_accuracy.txt").read_text().startswith("TEST FAIL\n")
    assert (tmp_path / "TEST01" / "verify_performance.txt").read_text().startswith("TEST PASS\n")
    inner = tmp_path / "TEST01" / "accuracy"
    shares = [
        float(re.match(r"accuracy=([\d.]+)%", (inner / f"{which}_accuracy.txt").read_text())[1])
        for which in ("baseline", "compliance")
    ]
    assert shares[0] == 100 > shares[1]


def test_an_audit_that_is_interrupted_keeps_its_first_run(tmp_path: Path) -> None:
    done: list[Path] = []

    def one(settings: TestSettings, where: Path, warnings: tuple[str, ...]) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(where)
        return perform(assembly, settings, where, warnings)

    assembly = assembled(Honest(), Scenario.SingleStream)
    found = run_audit("TEST04", assembly, one, tmp_path)
    assert (found["interrupted"], found["passed"], list(found["runs"])) == (True, False, ["usual"])
    assert json.loads((tmp_path / "audit.json").read_text()) == found
    with pytest.raises(UserError, match="already holds an audit"):
        run_audit("TEST04", assembly, one, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_audit("TEST04", assembly, one, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_an_audit_interrupted_at_the_command_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, times = run.perform, 0

    def once(*given: Any) -> Any:
        nonlocal times
        times += 1
        if times > 1:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(run, "perform", once)
    words = ["TEST04", "null", "digits", "--scenario", "Offline", "--qps", "1000", "--time", "0.1", "--no-dashboard"]
    done = here("audit", *words, "--output", tmp_path / "audit")
    assert (done.returncode, done.stderr) == (130, "")
    assert "TEST04 is : unfinished\n  - It ended before all of its runs were done" in done.stdout
    assert done.stdout.split()[-3:] == ["saved", "in", str(tmp_path / "audit")]


@pytest.mark.parametrize(("source", "room"), [("measured", 1.5), ("--qps", 1.0)])
def test_an_audit_allows_for_a_system_that_is_faster_than_measured(source: str, room: float, tmp_path: Path) -> None:
    asked: list[TestSettings] = []

    def one(settings: TestSettings, where: Path, warnings: tuple[str, ...]) -> Any:
        asked.append(settings)
        raise KeyboardInterrupt

    for scenario in Scenario:
        assembly = assembled(Honest(), scenario)
        assembly.description["qps_source"] = source
        with pytest.raises(KeyboardInterrupt):
            run_audit("TEST04", assembly, one, tmp_path)
        before, after = assembly.settings, asked[-1]
        assert after.server_target_qps == before.server_target_qps
        if scenario == Scenario.Offline:
            assert after.offline_expected_qps == before.offline_expected_qps * room
        elif scenario == Scenario.SingleStream:
            assert after.single_stream_expected_latency_ns == before.single_stream_expected_latency_ns / room


def test_the_checks_say_each_thing_once() -> None:
    usual = {
        "validity": "VALID", "reasons": [], "scenario": "Server", "asked": {"target_latency_ns": 10 * MS},
        "metric": {"name": "rate", "value": 10.0, "unit": "1/s"},
    }  # fmt: skip
    texts = {check.name: check.text for check in judge_performance("TEST04", usual, usual)}
    assert (texts["usual run"], texts["audited run"], texts["target latency"]) == ("VALID", "VALID", "10.0 ms in both")
    other = usual | {"asked": {"target_latency_ns": None}}
    (check,) = [one for one in judge_performance("TEST04", usual, other) if one.name == "target latency"]
    assert (check.passed, check.text) == (False, "10.0 ms usually, none under audit")
    assert "target latency" not in {check.name for check in judge_performance("TEST04", other, other)}


@pytest.mark.parametrize("mlperf_round", [None, "v6.0", "v5.0"])
def test_test05_is_refused_in_rounds_that_have_none(mlperf_round: str | None, tmp_path: Path) -> None:
    chosen = () if mlperf_round is None else ("--round", mlperf_round)
    done = here("audit", "TEST05", "null", "digits", "--output", tmp_path / "audit", *chosen)
    one_line_error(done, "retired in November 2024", mlperf_round or "v6.1 has none", "choose --round v2.1")
    assert not (tmp_path / "audit").exists()


def test_answers_that_are_as_good_pass_test01(tmp_path: Path) -> None:
    found = outcome("TEST01", Rounding(), Scenario.Offline, tmp_path)
    assert found["passed"], found
    assert "100.000% accurate" in found["checks"][-1]["text"]
    written = {path.name: path.read_text() for path in (tmp_path / "TEST01" / "accuracy").glob("*.txt")}
    assert set(written) == {"accuracy.txt", "baseline_accuracy.txt", "compliance_accuracy.txt"}
    assert all(text.startswith("accuracy=100.000%") for text in written.values())


def test_the_audited_runs_logged_responses_are_the_sampled_ones(tmp_path: Path) -> None:
    outcome("TEST01", Honest(), Scenario.Offline, tmp_path)
    logged = json.loads((tmp_path / "TEST01" / "accuracy" / "mlperf_log_accuracy.json").read_text())
    assert logged
    assert all(int(entry["data"][:2], 16) == entry["qsl_idx"] for entry in logged)


def test_nothing_logged_is_no_proof() -> None:
    assert not judge_answers([(0, b"a")], [], accuracy)[0].passed


def test_answers_to_unknown_samples_fail() -> None:
    check = judge_answers([(0, b"\0\0\0\0")], [(0, b"\0\0\0\0"), (1, b"\1\0\0\0")], accuracy)[0]
    assert not check.passed
    assert "does not have" in check.text
