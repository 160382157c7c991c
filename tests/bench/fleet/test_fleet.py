"""All generators as one: what is known of them without any process."""

from __future__ import annotations

from drumfire.bench.fleet.fleet import Fleet
from drumfire.sut.remote.endpoint import parse_url


def test_a_server_that_no_generator_reported_answered_nothing() -> None:
    """As when all generators are lost at once: the run still ends with what is known."""
    fleet = object.__new__(Fleet)
    fleet.messages = {}
    assert fleet.served[parse_url("grpc://127.0.0.1:8001")] == 0
    fleet.messages = {0: {"served": {"grpc://127.0.0.1:8001": 3}}, 1: {"served": {"grpc://127.0.0.1:8001": 4}}}
    assert fleet.served[parse_url("grpc://127.0.0.1:8001")] == 7
