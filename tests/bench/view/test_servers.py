"""What the live view shows of servers: the arithmetic over a sampler's readings, as they come."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

from drumfire.bench.view.servers import Latest, figures_of, follow, together
from drumfire.loadgen.record import shared_file
from drumfire.sut.remote.figures import Gpus, ServerFigures
from drumfire.sut.sampler import Reading

S = 1_000_000_000
BUSY = {"requests_per_s": 30.0, "batches_per_s": 10.0, "batch_size": 3.0, "queue_ns": 8.0, "compute_ns": 4.0}
SLOW = {"requests_per_s": 10.0, "batches_per_s": 10.0, "batch_size": 1.0, "queue_ns": 4.0, "compute_ns": 8.0}
IDLE = {"requests_per_s": 0.0, "batches_per_s": 0.0}


def test_means_are_over_requests_and_batches() -> None:
    assert figures_of([BUSY, SLOW]) == ServerFigures(40.0, 2.0, 7.0, 5.0)
    assert figures_of([BUSY, IDLE]) == ServerFigures(30.0, 3.0, 8.0, 4.0)
    assert figures_of([IDLE]) == ServerFigures(0.0)
    assert figures_of([BUSY, {}]) == ServerFigures()  # one of them has said nothing yet
    assert figures_of([]) == ServerFigures()
    assert figures_of([BUSY | {"cached_share": 0.5}]).cached_share == 0.5


def test_gpus_together() -> None:
    one = {"utilization": 0.5, "power_w": 100.0, "memory_used_bytes": 1e9, "memory_total_bytes": 8e9, "energy_j": 1.0}
    assert together([one, {"utilization": 1.0, "power_w": 50.0}]) == Gpus(2, 0.75, 150.0, 1e9, 8e9)
    assert together([{}]) == Gpus(1, None, None, None, None)
    assert together([]) is None


def test_only_the_newest_reading_counts() -> None:
    latest = Latest()
    assert latest.figures == ServerFigures()
    latest.add([Reading("server", 0, {})])
    assert latest.figures == ServerFigures()
    latest.add([Reading("server", S, SLOW)])
    assert latest.figures.rate == 10.0
    latest.add([Reading("server", 3 * S, BUSY)])
    assert latest.figures.rate == 30.0


def test_a_server_that_does_not_answer_is_a_note_until_it_does() -> None:
    latest = Latest()
    latest.add([Reading("a", S, BUSY), Reading("b", S, {"GPU-1.power_w": 5.0}, ["no statistics: no answer"])])
    assert latest.figures == ServerFigures(gpus=Gpus(1, None, 5.0, None, None), note="no answer")
    latest.add([Reading("b", 2 * S, SLOW, ["no metrics: nobody there"])])
    assert latest.figures.note is None
    assert latest.figures.rate == 40.0


def test_servers_of_one_host_have_the_same_gpus() -> None:
    latest = Latest()
    gpus = {"GPU-1.power_w": 5.0, "GPU-2.power_w": 7.0}
    latest.add([Reading("a", S, BUSY | gpus), Reading("b", S, SLOW | gpus)])
    assert latest.figures.gpus == Gpus(2, None, 12.0, None, None)


def test_readings_are_followed_as_they_come() -> None:
    assert follow(None)() is None
    fd = shared_file(0)
    figures = follow(fd)
    assert figures() == ServerFigures()
    line = json.dumps(asdict(Reading("server", S, BUSY))).encode() + b"\n"
    os.write(fd, line[:10])
    assert figures() == ServerFigures()
    os.write(fd, line[10:])
    found = figures()
    assert found is not None
    assert found.rate == 30.0
    os.close(fd)
