"""What a server counts: read, subtracted, asked for around a run, and seen on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.kserve.messages.operations import MODEL_STATISTICS
from drumfire.sut.kserve.messages.protobuf import bytes_field, number_field, text_field
from drumfire.sut.remote.endpoint import Security, parse_url
from drumfire.sut.remote.kserve import statistics
from drumfire.sut.remote.kserve.statistics import ServerWatch, Snapshot, Total
from drumfire.sut.remote.triton_local.server import LocalTriton
from tests.support.real_server import RealServer

counts = st.integers(0, 1 << 40)
totals = st.builds(Total, counts, counts)
snapshots = st.builds(
    Snapshot,
    *[totals] * 8,
    inference_count=counts,
    execution_count=counts,
    batches=st.dictionaries(st.integers(1, 64), st.integers(1, 1 << 40), max_size=5),
)
NAMES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


def as_json(snapshot: Snapshot, model: str = "m", version: str = "1") -> dict[str, Any]:
    """As a server tells it over HTTP."""
    told = {name: {"count": getattr(snapshot, name).count, "ns": getattr(snapshot, name).ns} for name in NAMES}
    return {
        "name": model,
        "version": version,
        "last_inference": 1,
        "inference_count": snapshot.inference_count,
        "execution_count": snapshot.execution_count,
        "inference_stats": told,
        "batch_stats": [
            {"batch_size": size, "compute_infer": {"count": count, "ns": 1}} for size, count in snapshot.batches.items()
        ],
    }


def as_message(snapshot: Snapshot) -> bytes:
    """As a server tells it over gRPC."""

    def total(one: Total) -> bytes:
        return number_field(1, one.count) + number_field(2, one.ns)

    told = b"".join(bytes_field(number, total(getattr(snapshot, name))) for number, name in enumerate(NAMES, 1))
    message = text_field(1, "m") + text_field(2, "1") + number_field(3, 1)
    message += number_field(4, snapshot.inference_count) + number_field(5, snapshot.execution_count)
    message += bytes_field(6, told)
    for size, count in snapshot.batches.items():
        message += bytes_field(7, number_field(1, size) + bytes_field(3, total(Total(count, 1))))
    return bytes_field(1, message)


@given(snapshots)
def test_both_protocols_tell_the_same(snapshot: Snapshot) -> None:
    body = json.dumps({"model_stats": [as_json(snapshot, "other"), as_json(snapshot)]}).encode()
    assert Snapshot.of(MODEL_STATISTICS.from_body(body), "m") == snapshot
    assert Snapshot.of(MODEL_STATISTICS.from_message(as_message(snapshot)), "m") == snapshot


@given(snapshots, snapshots)
def test_versions_are_summed_unless_one_is_asked_for(one: Snapshot, two: Snapshot) -> None:
    answer = {"model_stats": [as_json(one, version="1"), as_json(two, version="2")]}
    assert Snapshot.of(answer, "m") == one.plus(two)
    assert Snapshot.of(answer, "m", "2") == two


@given(snapshots, snapshots)
def test_what_was_added_is_the_difference(before: Snapshot, added: Snapshot) -> None:
    after = before.plus(added)
    assert after.since(before) == added
    assert not after.since(before).went_backwards
    less = replace(added, success=replace(added.success, count=added.success.count + 1))
    assert after.since(before.plus(less)).went_backwards


@given(snapshots)
def test_means_are_over_all_requests_answered(snapshot: Snapshot) -> None:
    mean = snapshot.mean_ns()
    if not snapshot.success.count:
        assert mean is None
        return
    assert mean is not None
    assert mean["queue"] == pytest.approx(snapshot.queue.ns / snapshot.success.count)
    assert mean["request"] == pytest.approx((snapshot.success.ns - snapshot.cache_miss.ns) / snapshot.success.count)


def test_the_mean_batch_size_is_over_batches() -> None:
    assert Snapshot(batches={1: 3, 5: 1}).mean_batch_size == 2.0
    assert Snapshot().mean_batch_size is None


def test_numbers_as_text_and_servers_without_a_cache_are_read() -> None:
    told = as_json(Snapshot(success=Total(3, 9), batches={2: 1}))
    del told["inference_stats"]["cache_hit"], told["inference_stats"]["cache_miss"]
    told["inference_stats"]["success"] = {"count": "3", "ns": "9"}
    assert Snapshot.of({"model_stats": [told]}, "m") == Snapshot(success=Total(3, 9), batches={2: 1})


def test_a_batch_size_that_never_occurred_is_none() -> None:
    told = as_json(Snapshot(batches={1: 0, 2: 3}))
    assert Snapshot.of({"model_stats": [told]}, "m").batches == {2: 3}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"model_stats": None},
        {"model_stats": []},
        {"model_stats": [3]},
        {"model_stats": [{"name": "m"}]},
        {"model_stats": [{"name": "m", "inference_stats": {"success": {"count": "many"}}}]},
        {"model_stats": [{"name": "m", "inference_count": float("inf"), "inference_stats": {}}]},
        {"model_stats": [{"name": "m", "inference_stats": {"success": {"count": 1, "ns": "9" * 400}}}]},
        {"model_stats": [{"name": "m", "execution_count": -1, "inference_stats": {}}]},
    ],
)
def test_statistics_that_can_not_be_used_are_an_error_of_one_line(answer: dict[str, Any]) -> None:
    with pytest.raises(ServerError, match="statistics") as raised:
        Snapshot.of(answer, "m")
    assert "\n" not in str(raised.value)


# Around a run: a peer that tells what it is given to tell.


class Peer:
    """An HTTP server whose statistics are ``snapshots``, one a question, the last one again and again."""

    def __init__(self, *snapshots: Snapshot | int) -> None:
        """A number is an HTTP status in place of statistics."""
        self.snapshots = list(snapshots)
        self.asked = 0
        peer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                said = peer.snapshots.pop(0) if len(peer.snapshots) > 1 else peer.snapshots[0]
                peer.asked += 1
                status = said if isinstance(said, int) else 200
                body = b"" if isinstance(said, int) else json.dumps({"model_stats": [as_json(said)]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Peer:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def done(requests: int, **more: Any) -> Snapshot:
    return Snapshot(success=Total(requests, requests * 100), **more)


def watch(peer: Peer) -> ServerWatch:
    return ServerWatch(parse_url(peer.url), Security(), "m")


def test_the_window_is_the_difference_of_two_snapshots() -> None:
    with Peer(done(10, batches={1: 10})) as peer:

        async def run() -> dict[str, Any]:
            watching = watch(peer)
            await watching.begin()
            peer.snapshots = [done(15, batches={1: 10, 5: 1}, fail=Total(2, 2))]
            await watching.end(5)
            return watching.report()

        report = asyncio.run(run())
    assert report["url"] == peer.url
    assert report["note"] is None
    assert (report["success"], report["fail"]) == (5, 2)
    assert report["batch_sizes"] == {"5": 1}
    assert report["mean_ns"]["request"] == 100.0
    json.dumps(report, allow_nan=False)


def test_counts_that_come_late_are_waited_for() -> None:
    with Peer(done(10)) as peer:

        async def run() -> dict[str, Any]:
            watching = watch(peer)
            await watching.begin()
            # The count of batches follows that of requests.
            peer.snapshots = [done(12), done(12), done(15), done(15, execution_count=3)]
            await watching.end(5)
            return watching.report()

        report = asyncio.run(run())
    assert report["success"] == 5
    assert report["execution_count"] == 3


def test_the_first_snapshot_is_taken_when_what_was_before_is_counted() -> None:
    with Peer(done(8), done(9), done(10), done(10)) as peer:

        async def run() -> dict[str, Any]:
            watching = watch(peer)
            await watching.begin()
            await watching.end(0)
            return watching.report()

        assert asyncio.run(run())["success"] == 0


def test_counts_that_never_come_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_SETTLE_S", 0.1)
    with Peer(done(10)) as peer:

        async def run() -> dict[str, Any]:
            watching = watch(peer)
            await watching.begin()
            peer.snapshots = [done(13)]
            await watching.end(5)
            return watching.report()

        assert asyncio.run(run())["success"] == 3


def test_a_model_that_others_use_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_SETTLE_S", 0.05)
    with Peer(*map(done, range(1000))) as peer:

        async def run() -> dict[str, Any]:
            watching = watch(peer)
            await watching.begin()
            await watching.end(0)
            return watching.report()

        assert "in use" in asyncio.run(run())["note"]


@pytest.mark.parametrize("status", [404, 501])
def test_a_server_without_statistics_gives_a_note(status: int) -> None:
    with Peer(status) as peer:

        async def run() -> dict[str, Any]:
            watching = watch(peer)
            await watching.begin()
            await watching.end(5)
            return watching.report()

        report = asyncio.run(run())
    assert report["note"] == "the server does not report statistics"
    assert report["success"] is None
    assert report["mean_ns"] is None
    assert peer.asked == 1


def test_a_server_that_was_restarted_gives_a_note() -> None:
    with Peer(done(10)) as peer:

        async def run() -> dict[str, Any]:
            watching = watch(peer)
            await watching.begin()
            peer.snapshots = [done(3)]
            await watching.end(0)
            return watching.report()

        report = asyncio.run(run())
    assert "counts fell" in report["note"]
    assert report["success"] is None


def test_a_server_that_is_gone_gives_a_note() -> None:
    async def run() -> dict[str, Any]:
        with Peer(done(10)) as peer:
            watching = watch(peer)
            await watching.begin()
        await watching.end(5)
        return watching.report()

    report = asyncio.run(run())
    assert report["note"].startswith("no statistics: ")
    assert report["success"] is None


# A real server.


@contextlib.contextmanager
def sender(server: RealServer) -> Iterator[Any]:
    with contextlib.closing(http.client.HTTPConnection(server.http)) as connection:

        def send(model: str, array: np.ndarray[Any, Any]) -> int:
            size = {"binary_data_size": array.nbytes}
            tensor = {"name": "INPUT0", "datatype": "FP32", "shape": list(array.shape), "parameters": size}
            head = json.dumps({"inputs": [tensor]}).encode()
            fields = {"Inference-Header-Content-Length": str(len(head))}
            connection.request("POST", f"/v2/models/{model}/infer", head + array.tobytes(), fields)
            answer = connection.getresponse()
            answer.read()
            return answer.status

        yield send


def parts(mean: Mapping[str, float]) -> float:
    """Of a request's time, in whole ns: a sum of means is off by a rounding."""
    return round(sum(value for name, value in mean.items() if name != "request"))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_requests_batches_and_samples_of_a_real_server(server: RealServer, protocol: str) -> None:
    async def run() -> dict[str, Any]:
        watching = ServerWatch(parse_url(f"{protocol}://{getattr(server, protocol)}"), Security(), "identity")
        with sender(server) as send:
            send("identity", np.ones((7, 4), np.float32))  # not of the run
            await watching.begin()
            for rows in (1, 1, 3, 3, 3):
                assert send("identity", np.ones((rows, 4), np.float32)) == 200
            assert send("identity", np.ones((65, 4), np.float32)) == 400  # refused before anything counts it
            await watching.end(5)
        return watching.report()

    report = asyncio.run(run())
    assert report["note"] is None
    assert (report["success"], report["fail"]) == (5, 0)
    assert (report["inference_count"], report["execution_count"]) == (11, 5)
    assert report["batch_sizes"] == {"1": 2, "3": 3}
    assert report["mean_batch_size"] == 2.2
    assert 0 < parts(report["mean_ns"]) <= round(report["mean_ns"]["request"])


def test_dynamic_batches_of_a_real_server(server: RealServer) -> None:
    async def run() -> dict[str, Any]:
        watching = ServerWatch(parse_url(f"grpc://{server.grpc}"), Security(), "identity")
        await watching.begin()

        def some() -> None:
            with sender(server) as send:
                for _ in range(20):
                    assert send("identity", np.ones((1, 4), np.float32)) == 200

        await asyncio.gather(*(asyncio.to_thread(some) for _ in range(8)))
        await watching.end(160)
        return watching.report()

    report = asyncio.run(run())
    assert report["success"] == report["inference_count"] == 160
    assert sum(int(size) * count for size, count in report["batch_sizes"].items()) == 160
    assert sum(report["batch_sizes"].values()) == report["execution_count"]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_cached_replies_of_a_real_server(triton: LocalTriton, protocol: str) -> None:
    """Hits are successes, but neither inferences nor executions; and a miss's time is not counted twice."""
    fresh = np.frombuffer(os.urandom(4 * 50_000), np.uint32).astype(np.float32).reshape(1, -1)

    async def run() -> dict[str, Any]:
        watching = ServerWatch(
            parse_url(f"{protocol}://{getattr(triton, protocol)}"), Security(), "identity_cached", "1"
        )
        await watching.begin()
        with sender(triton) as send:
            for number in (0, 0, 0, 1):
                assert send("identity_cached", fresh + number) == 200
        await watching.end(4)
        return watching.report()

    report = asyncio.run(run())
    assert report["success"] == 4
    assert (report["inference_count"], report["execution_count"]) == (2, 2)
    assert (report["cache_hits"], report["cache_misses"]) == (2, 2)
    assert report["mean_ns"]["cache_hit"] > 0
    assert 0 < parts(report["mean_ns"]) <= round(report["mean_ns"]["request"])


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_real_server_that_was_stopped_is_not_waited_for(
    server: RealServer, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> dict[str, Any]:
        watching = ServerWatch(parse_url(f"{protocol}://{getattr(server, protocol)}"), Security(), "identity")
        await watching.begin()
        monkeypatch.setattr(statistics, "PATIENCE_S", 0.5)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await watching.end(1)
            return watching.report()
        finally:
            os.kill(server.pid, signal.SIGCONT)

    report = asyncio.run(run())
    assert report["note"] == "no statistics: no answer within 0.5 s"
    assert report["success"] is None
