"""audit.config over a test's settings, as the reference lays it, and what its log says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drumfire.loadgen.audit_config import FOUND, audited
from drumfire.loadgen.config import ConfigReader
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings

TEST01 = "*.*.mode = 2\n*.*.accuracy_log_rng_seed = 720381539243781796\n*.*.accuracy_log_sampling_target = 8\n"


class Library:
    name, total_count, performance_count = "numbers", 10, 10


class System:
    name, columns = "system", {}


def settings(**values: object) -> TestSettings:
    return TestSettings(scenario=Scenario.Offline, mode=Mode.AccuracyOnly, **values)  # type: ignore[arg-type]


def test_it_overrides_and_warns(tmp_path: Path) -> None:
    path = tmp_path / "audit.config"
    path.write_text(TEST01 + "*.Server.min_query_count = 9\n*.Offline.min_query_count = 5\n")
    before = settings()
    after, warnings, errors = audited(before, path)
    assert (after.mode, after.accuracy_log_rng_seed, after.accuracy_log_sampling_target, after.min_query_count) == (
        Mode.PerformanceOnly, 720381539243781796, 8, 5,
    )  # fmt: skip
    assert (warnings, errors) == ((FOUND,), ())
    assert before.mode == Mode.AccuracyOnly


def test_lines_of_a_model_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.config"
    path.write_text("numbers.Offline.min_query_count = 500\n*.*.qsl_rng_seed = 7\n*.*.test05 = 1\n")
    after, _, _ = audited(settings(), path)
    assert after == settings()


def test_a_file_that_the_grammar_refuses_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.config"
    path.write_text("*.*.min_query_count = 5\n*.*.mode = 2 x\n")
    after, warnings, errors = audited(settings(), path)
    assert after == settings()
    assert warnings == (FOUND,)
    assert len(errors) == 1


@pytest.mark.parametrize("path", [None, "no such file"])
def test_no_file_is_no_matter(path: str | None) -> None:
    assert audited(settings(), path) == (settings(), (), ())


def test_test05_takes_its_seeds_and_measures() -> None:
    plain = settings(test05=True)
    ConfigReader().from_config(plain, None, "resnet50", "Offline", ConfigReader.BUILT_IN)
    after, _, _ = audited(plain, None)
    assert after.mode == Mode.PerformanceOnly
    assert after.qsl_rng_seed == 7975553102935885558
    assert after.schedule_rng_seed == 15816800565822761601


def test_the_warning_stands_before_the_settings_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.config"
    path.write_text("*.*.mode = 2 x\n")
    after, warnings, errors = audited(settings(test05=True), path)
    test = Test(System(), Library(), after, config_warnings=warnings, config_errors=("early",), audit_errors=errors)  # type: ignore[arg-type]
    entries = [json.loads(line.removeprefix(":::MLLOG ")) for line in test.log.entries]
    at = next(i for i, entry in enumerate(entries) if entry["key"] == "qsl_reported_performance_count")
    assert [entry["key"] for entry in entries[at + 1 : at + 4]] == [
        "warning_generic_message", "error_invalid_config", "warning_generic_message",
    ]  # fmt: skip
    assert entries[at + 3]["value"] == "Test05 flag detected Overriding random seeds"
    assert entries[at + 1]["metadata"]["is_warning"]
    assert (entries[0]["key"], entries[0]["value"]) == ("error_invalid_config", "early")
    assert entries[0]["metadata"]["is_error"]
    assert (test.log.warnings, test.log.errors) == (2, 2)
