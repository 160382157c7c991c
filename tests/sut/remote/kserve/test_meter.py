"""A server as a meter: its figures between two readings, its metrics, and what it says when it does not answer."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen.series import Series
from drumfire.sut.remote.endpoint import Security, parse_url
from drumfire.sut.remote.kserve import meter, metrics
from drumfire.sut.remote.kserve.meter import ServerMeter, figures_of, plans
from drumfire.sut.remote.kserve.statistics import Snapshot, Total
from drumfire.sut.sampler import MeterPlan
from tests.support.real_server import RealServer

S = 1_000_000_000


def test_plans_travel_as_json() -> None:
    security = Security(Path("/ca.pem"), Path("/own.pem"), Path("/own.key"), (("authorization", "Bearer x"),))
    endpoints = [parse_url("grpcs://host:1"), parse_url("grpcs://[::1]")]
    first, second = plans(endpoints, security, "m", "2", ["http://h:3", "http://h:4"])
    assert MeterPlan(**json.loads(json.dumps(asdict(first)))) == first
    assert (first.name, second.name) == ("host-1", "__1-8001")  # a part of a file's name
    assert (first.arguments["metrics_url"], second.arguments["metrics_url"]) == ("http://h:3", "http://h:4")
    made = ServerMeter(**first.arguments)
    assert made.source == "grpcs://host:1"
    assert made._client._security == security
    (alone,) = plans(endpoints[:1], Security(), "m")
    assert alone.name == "server"
    assert alone.arguments["metrics_url"] is None


def test_figures_of_some_seconds() -> None:
    done = Snapshot(
        success=Total(100, 9_000), queue=Total(100, 2_000), compute_input=Total(80, 100),
        compute_infer=Total(80, 5_000), compute_output=Total(80, 900), cache_hit=Total(20, 40), batches={1: 10, 7: 10},
    )  # fmt: skip
    assert figures_of(done, 2 * S) == {
        "requests_per_s": 50.0, "batches_per_s": 10.0, "batch_size": 4.0, "queue_ns": 20.0, "compute_ns": 60.0,
        "cached_share": 0.2,
    }  # fmt: skip
    assert figures_of(done, 2 * S).keys() <= ServerMeter.units.keys()
    assert figures_of(Snapshot(), 2 * S) == {"requests_per_s": 0.0, "batches_per_s": 0.0}
    assert figures_of(done, 0) == {}
    assert figures_of(Snapshot(success=Total(-1, 0)), S) == {}  # another server process answered


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_real_server_that_is_stopped_and_goes_on(
    server: RealServer, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "_PATIENCE_S", 0.5)
    url = f"{protocol}://{getattr(server, protocol)}"
    made = ServerMeter(url, "identity", metrics_url=f"http://{server.metrics}")
    sometimes = {"cpu_utilization"}  # it is of the time since the metrics were read before
    assert made.read().keys() - sometimes == {"pending_requests"}
    assert made.read().keys() - sometimes == {"pending_requests", "requests_per_s", "batches_per_s"}
    assert made.notes == []
    os.kill(server.pid, signal.SIGSTOP)
    monkeypatch.setattr(metrics, "PATIENCE_S", 0.5)
    try:
        assert made.read() == {}
        assert made.notes[0] == "no statistics: no answer within 0.5 s"
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert "requests_per_s" not in made.read()  # of how long is not known
    assert "requests_per_s" in made.read()
    assert made.notes == []


def test_a_server_without_the_model(server: RealServer) -> None:
    made = ServerMeter(f"grpc://{server.grpc}", "nothing")
    assert made.read() == {}
    (note,) = made.notes
    assert note.startswith("no statistics: ")
    assert "nothing" in note


def test_metrics_that_were_named_and_are_missing_leave_a_note(server: RealServer) -> None:
    made = ServerMeter(f"grpc://{server.grpc}", "identity", metrics_url="grpc://127.0.0.1/metrics")
    made.read()
    (note,) = made.notes
    assert note.startswith("no metrics: ")
    assert "use http://HOST:8002/metrics" in note


def test_an_address_that_is_none_is_an_error() -> None:
    with pytest.raises(Exception, match="grpc://HOST:PORT"):
        ServerMeter("telnet://host", "m")


@given(st.lists(st.lists(st.floats(0, 1e9), min_size=2, max_size=2), min_size=1, max_size=20))
def test_summary_of_gauges_and_counters(values: list[list[float]]) -> None:
    power, energy = [one for one, _ in values], [one for _, one in values]
    times = range(len(values))
    series = [
        Series.of("server.pending_requests", "requests", "url", times, power),
        Series.of("server.a.power_w", "W", "url", times, power),
        Series.of("server.a.energy_j", "J", "url", times, energy),
        Series.of("server.requests_per_s", "1/s", "url", times, power),
        Series.of("server2.b.power_w", "W", "url", times, power),
    ]
    section = metrics.section("server", series)
    assert section is not None
    assert section["samples"] == len(values)
    (gpu,) = section["gpus"]
    assert gpu["uuid"] == "a"
    assert gpu["power_w"] == section["pending_requests"]
    assert gpu["power_w"]["max"] == max(power)
    assert gpu["power_w"]["mean"] == pytest.approx(sum(power) / len(power))
    rose = energy[-1] - energy[0]
    assert gpu["energy_j"] == (rose if len(values) > 1 and rose >= 0 else None)  # a server that was restarted
    assert gpu["utilization"] is None
    assert gpu["memory_total_bytes"] is None
    assert section["cpu_utilization"] is None
    assert metrics.section("server", series[3:]) is None
