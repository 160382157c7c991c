"""What the live view asks of servers: the arithmetic, and the polling of peers that answer and that do not."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from drumfire.sut.remote.figures import Gpus, ServerFigures
from drumfire.sut.remote.kserve.poll import PolledServers, ServerPoll, figures_of, together
from drumfire.sut.remote.kserve.statistics import Snapshot, Total
from tests.support.served import serving

S = 1_000_000_000


def test_figures_of_some_seconds() -> None:
    done = Snapshot(
        success=Total(100, 9_000), queue=Total(100, 2_000), compute_input=Total(80, 100),
        compute_infer=Total(80, 5_000), compute_output=Total(80, 900), cache_hit=Total(20, 40), batches={1: 10, 7: 10},
    )  # fmt: skip
    assert figures_of(done, 2 * S, None) == ServerFigures(50.0, 4.0, 20.0, 60.0, 0.2)
    assert figures_of(Snapshot(), 2 * S, None) == ServerFigures(rate=0.0)
    assert figures_of(done, 0, None) == ServerFigures()


def test_gpus_together() -> None:
    one = {"utilization": 0.5, "power_w": 100.0, "memory_used_bytes": 1e9, "memory_total_bytes": 8e9, "energy_j": 1.0}
    assert together([one, {"utilization": 1.0, "power_w": 50.0}]) == Gpus(2, 0.75, 150.0, 1e9, 8e9)
    assert together([{}]) == Gpus(1, None, None, None, None)
    assert together([]) is None


def await_figures(poll: ServerPoll, wanted: Callable[[ServerFigures], bool]) -> ServerFigures:
    for _ in range(1200):
        if wanted(poll.figures):
            return poll.figures
        time.sleep(0.05)
    raise AssertionError(poll.figures)


class Asked(NamedTuple):
    """A server that can be asked, and stopped."""

    pid: int
    grpc: str
    http: str
    metrics: str


@pytest.fixture(scope="module", params=["ours", pytest.param("triton", marks=[pytest.mark.slow, pytest.mark.serial])])
def server(request: pytest.FixtureRequest) -> Iterator[Asked]:
    if request.param == "triton":
        triton = request.getfixturevalue("triton")
        yield Asked(triton.pid, f"grpc://{triton.grpc}", f"http://{triton.http}", f"http://{triton.metrics}")
        return
    with serving("null", "identity") as served:
        yield Asked(served.process.pid, *(served.ready[which] for which in ("grpc", "http", "metrics")))


@pytest.mark.parametrize("protocol", ["grpc", pytest.param("http", marks=pytest.mark.slow)])
def test_a_real_server_that_is_stopped_and_goes_on(server: Asked, protocol: str) -> None:
    url = server.grpc if protocol == "grpc" else server.http
    poll = ServerPoll(PolledServers([url], "identity", metrics_urls=[server.metrics]))
    poll.start()
    assert await_figures(poll, lambda figures: figures.rate is not None).gpus is None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        await_figures(poll, lambda figures: figures.note is not None)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert await_figures(poll, lambda figures: figures.rate is not None).note is None


def test_a_server_that_knows_no_such_model_is_told_of(server: Asked) -> None:
    poll = ServerPoll(PolledServers([server.grpc], "nothing"))
    poll.start()
    assert "nothing" in str(await_figures(poll, lambda figures: figures.note is not None).note)


def test_addresses_that_are_none_are_told_of() -> None:
    poll = ServerPoll(PolledServers(["telnet://host"], "m"))
    poll._run()
    assert poll.figures.note is not None
    assert "grpc://HOST:PORT" in poll.figures.note


def test_counts_that_fell_begin_anew() -> None:
    poll = ServerPoll(PolledServers([], "m"))
    for at, count in ((1, 100), (2, 200), (3, 7)):
        poll._update(at * S, [Snapshot(success=Total(count, 0))], None)
    assert poll.figures == ServerFigures()
    poll._update(4 * S, [Snapshot(success=Total(17, 0))], None)
    assert poll.figures.rate == 10.0
    poll._update(5 * S, [Snapshot(), asyncio.CancelledError()], None)
    assert poll.figures.note == "CancelledError"
