"""Plans travel whole, and cores are given out only where one is left."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from drumfire.bench.cli import _parser
from drumfire.bench.fleet.crew import cores_for
from drumfire.bench.fleet.plan import Plan, options_from_plain, options_to_plain, settings_from_plain, settings_to_plain
from drumfire.loadgen.settings import Mode, Scenario, TestSettings


def test_options_travel() -> None:
    words = ["run", "triton", "m", "--url", "grpc://a:1", "--tls-ca", "ca.pem", "--qps", "12.5", "--header", "a: b"]
    words += ["--input", "x:1", "--input", "y:2", "--workers", "3", "--output", "here", "--user-conf", "u"]
    options = _parser().parse_args(words)
    there = options_from_plain(json.loads(json.dumps(options_to_plain(options))))
    assert there.tls_ca == Path("ca.pem").resolve()
    assert there.command is there.output is there.user_conf is None  # the driver's own
    left_out = {"tls_ca", "command", "output", "user_conf"}
    assert {name: value for name, value in vars(there).items() if name not in left_out} == {
        name: value for name, value in vars(options).items() if name not in left_out
    }


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
    options = options_to_plain(argparse.Namespace(backend="triton", patience=3.0))
    plan = Plan("worker 1", options, settings_to_plain(TestSettings()), 1, 3, 1, 10, {"sent": "<i8"}, {"rows": 30}, 9.5)
    told = json.loads(plan.to_json(fd=7))
    assert told["fd"] == 7
    assert Plan.from_json(told) == plan


@given(st.integers(1, 20), st.lists(st.integers(0, 200), unique=True, max_size=30))
def test_cores(generators: int, cores: list[int]) -> None:
    found = cores_for(generators, cores)
    if len(cores) > generators:
        assert len(set(found)) == generators
        assert cores[0] not in found
        assert set(found) <= set(cores)
    else:
        assert found == []
