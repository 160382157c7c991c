"""Plans travel whole, and cores are given out only where one is left."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from drumfire.bench.fleet.assignment import (
    Assignment,
    options_from_plain,
    options_to_plain,
    settings_from_plain,
    settings_to_plain,
)
from drumfire.bench.fleet.crew import cores_for
from drumfire.bench.options import values
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.share import Slice
from tests.support.command import options


def test_options_travel() -> None:
    words = ["run", "triton", "m", "--url", "grpcs://a:1", "--tls-ca", "ca.pem", "--qps", "12.5", "--header", "a: b"]
    words += ["--input", "x:1", "--input", "y:2", "--workers", "3", "--output", "here", "--user-conf", "u"]
    run = options(*words)
    there = options_from_plain(json.loads(json.dumps(options_to_plain(run))))
    assert there.system.target.tls_ca == Path("ca.pem").absolute()
    assert there.result.output is there.traffic.user_conf is None  # the driver's own
    left_out = {"output", "user_conf"}
    assert values.plain(there) == {name: value for name, value in values.plain(run).items() if name not in left_out}


@given(
    st.sampled_from(list(Scenario)), st.sampled_from(list(Mode)),
    st.floats(min_value=1e-9, max_value=1e12), st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_settings_travel_to_the_last_bit(scenario: Scenario, mode: Mode, qps: float, seed: int) -> None:
    settings = TestSettings(scenario=scenario, mode=mode, server_target_qps=qps, schedule_rng_seed=seed)
    there = settings_from_plain(json.loads(json.dumps(settings_to_plain(settings))))
    assert there == settings
    assert type(there.scenario) is Scenario
    assert type(there.mode) is Mode


def test_plans_travel() -> None:
    run = options_to_plain(options("run", "triton", "m", "--url", "grpc://a:1", "--patience", "3"))
    assignment = Assignment(
        "worker 1", run, settings_to_plain(TestSettings()), Slice(1, 3, 1), 10, {"sent": "<i8"}, {"rows": 30}, 9.5
    )
    told = json.loads(assignment.to_json(fd=7))
    assert told["fd"] == 7
    assert Assignment.from_json(told) == assignment


@given(st.integers(1, 20), st.lists(st.integers(0, 200), unique=True, max_size=30))
def test_cores(generators: int, cores: list[int]) -> None:
    found = cores_for(generators, cores)
    if len(cores) > generators:
        assert len(set(found)) == generators
        assert cores[0] not in found
        assert set(found) <= set(cores)
    else:
        assert found == []
