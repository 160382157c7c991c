"""The sockets: order, bounds, hostile and unlucky peers, TLS and tokens, and the end.  No other client may notice."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import socket
import ssl
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h2.connection
import h2.events
import h2.settings
import numpy as np
import pytest

from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.kserve.messages import operations
from drumfire.sut.kserve.messages.exchange import Part
from drumfire.sut.kserve.messages.grpc_client import GrpcMessages
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec
from drumfire.sut.local.batcher import BatchRule
from drumfire.sut.remote.endpoint import Security, parse_url
from drumfire.sut.remote.kserve import metrics
from drumfire.sut.remote.kserve.client import Client
from drumfire.sut.serving import model as serving
from drumfire.sut.serving.connection import Bounds
from drumfire.sut.serving.model import Batching
from drumfire.sut.serving.server import ServeError
from tests.support.running_server import Running, certificate, http_request, json_request, read_response, until
from tests.support.serving_fakes import Doubler, Gate, served

ROWS = [[1.0, 2.0]]
ANSWER = (200, {"twice": [2.0, 4.0], "minus": [-1.0, -2.0]})


def works(server: Running, model: str = "double") -> None:
    """Another client, meanwhile."""
    assert server.infer(ROWS, model) == ANSWER


def ask_grpc(server: Running, operation: operations.Operation, security: Security | None = None, **asked: Any) -> Any:
    async def main() -> Any:
        scheme = "grpcs" if security is not None and security.ca is not None else "grpc"
        async with Client(parse_url(f"{scheme}://{server.addresses.grpc}"), security) as client:
            return await client.ask(operation, **asked)

    return run_on_fast_loop(main())


def test_everything_that_can_be_asked_over_http() -> None:
    with Running(served(Doubler())) as server:
        works(server)
        for path, status in {
            "/v2/health/live": 200, "/v2/health/ready": 200, "/v2": 200, "/v2/models/double": 200,
            "/v2/models/double/versions/1": 200, "/v2/models/double/ready": 200, "/v2/models/double/config": 200,
            "/v2/models/double/stats": 200, "/v2/models/stats": 200, "/v2/systemsharedmemory/status": 200,
            "/v2/models/none": 404, "/v2/models/none/ready": 503, "/v2/nothing": 404, "/": 404,
        }.items():  # fmt: skip
            assert server.ask("GET", path)[0] == status, path
        assert server.ask("POST", "/v2/repository/index")[1][0]["state"] == "READY"
        assert server.ask("GET", "/v2/models/double/infer")[0] == 405
        assert server.ask("POST", "/v2/cudasharedmemory/region/r/register", b'{"raw_handle": {"b64": ""}}')[0] == 501
        status, text = server.ask("GET", "/metrics", port="metrics")
        assert status == 200
        assert b'nv_inference_request_success{model="double",version="1"} 1' in text
        assert server.ask("GET", "/other", port="metrics")[0] == 404
        assert server.ask("POST", "/metrics", b"x", port="metrics")[0] == 405


def test_everything_that_can_be_asked_over_grpc() -> None:
    with Running(served(Doubler())) as server:
        assert ask_grpc(server, operations.SERVER_READY) == {"ready": True}
        assert ask_grpc(server, operations.MODEL_METADATA, name="double")["inputs"][0]["shape"] == [-1, 2]
        assert ask_grpc(server, operations.MODEL_CONFIG, name="double")["max_batch_size"] == 4
        assert ask_grpc(server, operations.REPOSITORY_INDEX)["models"][0]["name"] == "double"
        told = ask_grpc(server, operations.MODEL_STATISTICS, name="double")
        assert told["model_stats"][0]["inference_count"] == 0
        with pytest.raises(ServerError, match="NOT_FOUND: unknown model 'none'"):
            ask_grpc(server, operations.MODEL_METADATA, name="none")
        with pytest.raises(ServerError, match="UNIMPLEMENTED"):
            ask_grpc(server, operations.Operation("NoSuchThing", "", ""))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"POST /v2/models/double/infer HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /v2/models/double/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (http_request(b"{"), 400),
        (http_request(b"[]"), 400),
        (http_request(b'{"inputs": 3}'), 400),
        (http_request(json_request(ROWS, name="y")), 400),
        (http_request(json_request(ROWS, datatype="FP64")), 400),
        (http_request(json_request(ROWS, shape=[1, 3])), 400),
        (http_request(json_request(ROWS, shape=[1 << 40, 1 << 40])), 400),
        (http_request(json_request(ROWS, shape=[-1, 2])), 400),
        (http_request(json_request([[1, 2]] * 5)), 400),
        (http_request(json_request(ROWS), "/v2/models/none/infer"), 404),
        (http_request(json_request(ROWS), extra="Content-Encoding: gzip\r\n"), 415),
        (http_request(json_request(ROWS), extra="Inference-Header-Content-Length: 9999\r\n"), 400),
    ],
)
def test_wrong_requests_over_http_are_told_and_nobody_else_notices(request_: bytes, status: int) -> None:
    with Running(served(Doubler()), bounds=Bounds(most_message_bytes=100_000)) as server:
        with server.connect() as peer, peer.makefile("rb") as reader:
            peer.sendall(request_)
            found, headers, body = read_response(reader)
            assert found == status
            assert json.loads(body)["error"]
            assert "\n" not in json.loads(body)["error"]
            if found in (413, 431) or not request_.startswith(b"POST"):
                assert headers["connection"] == "close"
                assert reader.read() == b""
        works(server)


def test_answers_come_in_the_order_of_the_requests() -> None:
    gate = Gate()
    server = Running(served(Doubler(before=gate), name="slow"), served(Doubler()))
    with server, server.connect() as peer, peer.makefile("rb") as reader:
        peer.sendall(http_request(json_request([[5, 5]]), "/v2/models/slow/infer"))
        gate.wait_entered()
        peer.sendall(
            http_request(json_request(ROWS)) + http_request(b"{") + b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        until(lambda: server.counts()["success"] == 1)
        gate.opened.release()
        first, second, third, fourth = (read_response(reader) for _ in range(4))
        assert json.loads(first[2])["outputs"][0]["data"] == [10.0, 10.0]
        assert json.loads(second[2])["outputs"][0]["data"] == [2.0, 4.0]
        assert (third[0], fourth[0]) == (400, 200)


def test_a_connection_is_closed_behind_its_last_answer() -> None:
    with Running(served(Doubler())) as server, server.connect() as peer, peer.makefile("rb") as reader:
        peer.sendall(http_request(json_request(ROWS), extra="Connection: close\r\n"))
        status, headers, _ = read_response(reader)
        assert (status, headers["connection"]) == (200, "close")
        assert reader.read() == b""


def test_a_client_that_has_said_all_still_gets_its_answer() -> None:
    gate = Gate()
    with Running(served(Doubler(before=gate))) as server, server.connect() as peer, peer.makefile("rb") as reader:
        peer.sendall(http_request(json_request(ROWS)))
        gate.wait_entered()
        peer.shutdown(socket.SHUT_WR)
        gate.opened.release()
        assert read_response(reader)[0] == 200
        assert reader.read() == b""


def test_a_client_that_waits_to_be_told_to_go_on() -> None:
    with Running(served(Doubler())) as server, server.connect() as peer, peer.makefile("rb") as reader:
        body = json_request(ROWS)
        whole = http_request(body, extra="Expect: 100-continue\r\n")
        peer.sendall(whole[: -len(body)])
        assert reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert reader.readline() == b"\r\n"
        peer.sendall(body)
        assert read_response(reader)[0] == 200


def test_clients_that_vanish_are_not_computed_for() -> None:
    gate = Gate()
    model = Doubler(before=gate)
    with Running(served(model)) as server:
        held = server.connect()
        held.sendall(http_request(json_request(ROWS)))
        gate.wait_entered()
        gone = server.connect()
        gone.sendall(http_request(json_request([[7, 7]])) * 3)
        (scheduler,) = server.server.service.schedulers
        until(lambda: scheduler.pending == 3)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()  # by a reset
        held.close()
        until(lambda: scheduler.pending == 0)
        gate.opened.release(5)
        works(server)
        assert [batch.tolist() for batch in model.batches] == [ROWS, ROWS]
        assert server.counts()["fail"] == 3
        until(lambda: server.server.service.open_requests == 0)


def test_requests_that_are_cut_short_leave_nothing_behind() -> None:
    whole = http_request(json_request(ROWS))
    with Running(served(Doubler())) as server:
        for end in range(0, len(whole), 7):
            with server.connect() as peer:
                peer.sendall(whole[:end])
        for end in range(0, 60, 3):
            with server.connect("grpc") as peer:
                peer.sendall((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(40))[:end])
        works(server)
        until(lambda: not server.server.connections.open)


def test_half_sent_requests_end_after_their_time() -> None:
    bounds = Bounds(message_s=0.2)
    with Running(served(Doubler()), bounds=bounds) as server:
        with server.connect() as slow, slow.makefile("rb") as reader:
            slow.sendall(http_request(json_request(ROWS))[:-5])
            status, _, body = read_response(reader)
            assert status == 408
            assert "did not arrive within 0.2 s" in json.loads(body)["error"]
            assert reader.read() == b""
        works(server)


@pytest.mark.parametrize("port", ["http", "grpc", "metrics"])
def test_idle_connections_end_after_their_time(port: str) -> None:
    with Running(served(Doubler()), bounds=Bounds(idle_s=0.2)) as server, server.connect(port) as idle:
        while idle.recv(1000):  # a gRPC server says something first
            pass
        works(server)


def test_a_reader_that_does_not_read_is_bounded_and_ended() -> None:
    """Its answers are far larger than what sockets take; the model must not be asked for all of them."""
    width = 100_000
    model = Doubler((None,))
    big = served(model, shape=(-1,), name="big")
    with Running(big, served(Doubler()), bounds=Bounds(reading_s=1.5)) as server:
        with server.connect() as peer:
            header = json.dumps(
                {
                    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, width],
                                "parameters": {"binary_data_size": 4 * width}}],
                    "parameters": {"binary_data_output": True},
                }
            ).encode()  # fmt: skip
            extra = f"Inference-Header-Content-Length: {len(header)}\r\n"
            one = http_request(header + bytes(4 * width), "/v2/models/big/infer", extra)
            peer.settimeout(0.5)
            # It takes no more requests when it can not send its answers.
            with pytest.raises(TimeoutError):
                peer.sendall(one * 400)
            works(server)
            until(lambda: len(server.server.connections.open) == 0)
        assert len(model.batches) < 100
        works(server)


def test_a_grpc_client_that_never_opens_its_window_is_ended() -> None:
    """Its answer waits within the protocol, where no socket is full."""
    client = h2.connection.H2Connection()
    client.initiate_connection()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    client.send_headers(
        1,
        [
            (":method", "POST"), (":scheme", "http"), (":authority", "here"),
            (":path", "/inference.GRPCInferenceService/ServerMetadata"),
            ("te", "trailers"), ("content-type", "application/grpc"),
        ],
    )  # fmt: skip
    client.send_data(1, bytes(5), end_stream=True)
    with Running(served(Doubler()), bounds=Bounds(reading_s=1.5)) as server:
        with server.connect("grpc") as peer:
            peer.sendall(client.data_to_send())
            until(lambda: any(connection.unsent for connection in server.server.connections.open))
            works(server)
            until(lambda: len(server.server.connections.open) == 0)
        works(server)


def test_too_many_connections_are_turned_away() -> None:
    with Running(served(Doubler()), bounds=Bounds(most_connections=3)) as server:
        kept = [server.connect() for _ in range(3)]
        until(lambda: len(server.server.connections.open) == 3)
        with server.connect() as extra, pytest.raises(OSError, match=r".*"):  # noqa: PT012
            extra.sendall(http_request(json_request(ROWS)))
            if extra.recv(100) == b"":
                raise ConnectionResetError
        kept.pop().close()
        until(lambda: len(server.server.connections.open) == 2)
        works(server)
        for one in kept:
            one.close()


def test_a_thousand_idle_connections_beside_a_working_one() -> None:
    with Running(served(Doubler())) as server:
        idle = [server.connect("grpc" if n % 2 else "http") for n in range(1000)]
        until(lambda: len(server.server.connections.open) == 1000)
        for _ in range(50):
            works(server)
        for one in idle:
            one.close()
        until(lambda: not server.server.connections.open)


def test_a_full_queue_is_told_over_http() -> None:
    gate = Gate()
    with Running(served(Doubler(before=gate)), most_waiting=2) as server, ThreadPoolExecutor(8) as pool:
        first = pool.submit(server.infer, ROWS)
        gate.wait_entered()
        (scheduler,) = server.server.service.schedulers
        waiting = [pool.submit(server.infer, ROWS) for _ in range(2)]
        until(lambda: scheduler.pending == 2)
        status, text = server.infer(ROWS)
        assert status == 503
        assert "queue of double is full" in text
        gate.opened.release(5)
        assert [one.result() for one in (first, *waiting)] == [ANSWER] * 3


def test_a_timeout_is_told_while_the_model_is_busy() -> None:
    gate = Gate()
    with Running(served(Doubler(before=gate))) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.infer, ROWS)
        gate.wait_entered()
        asked = json.loads(json_request(ROWS)) | {"parameters": {"timeout": 1000}}
        status, said = server.ask("POST", "/v2/models/double/infer", json.dumps(asked).encode())
        assert status == 504
        assert "deadline passed" in said["error"]
        gate.opened.release(5)
        assert first.result() == ANSWER


def test_a_model_that_raises_and_a_worker_that_dies() -> None:
    def fails(batch: np.ndarray) -> None:
        if batch[0, 0] == 13:
            raise RuntimeError("unlucky")
        if batch[0, 0] == 14:
            raise SystemExit

    with Running(served(Doubler(before=fails))) as server:
        assert server.infer([[13, 0]]) == (500, "double failed: RuntimeError: unlucky")
        status, text = server.infer([[14, 0]])
        assert status == 500
        assert "a worker was lost" in text
        works(server)
        _, metrics = server.ask("GET", "/metrics", port="metrics")
        assert b'drumfire_worker_lost{model="double",version="1"} 1' in metrics


# TLS and tokens.


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    return certificate(tmp_path)


def test_tls_and_plain_text_to_it(pair: tuple[Path, Path]) -> None:
    chain, key = pair
    context = ssl.create_default_context(cafile=str(chain))
    with Running(served(Doubler()), tls_cert=chain, tls_key=key) as server:
        with server.connect("http", context) as peer, peer.makefile("rb") as reader:
            peer.sendall(http_request(json_request(ROWS)))
            assert read_response(reader)[0] == 200
            for port in ("http", "grpc"):
                with server.connect(port) as plain:
                    plain.sendall(http_request(json_request(ROWS)))
                    while plain.recv(1000):  # an alert, perhaps, and the end
                        pass
            peer.sendall(http_request(json_request(ROWS)))
            assert read_response(reader)[0] == 200
        assert ask_grpc(server, operations.SERVER_READY, Security(ca=chain)) == {"ready": True}
        offers = ssl.create_default_context(cafile=str(chain))
        offers.set_alpn_protocols(["h2"])
        with server.connect("grpc", offers) as peer:
            assert peer.selected_alpn_protocol() == "h2"  # type: ignore[attr-defined]


def test_tokens_are_asked_for_and_can_be_changed(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("first\n")

    def status(token: str | None, path: str = "/v2/models/double") -> int:
        return server.ask("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})[0]

    with Running(served(Doubler()), token_file=file) as server:
        assert [status(None), status("wrong"), status("first")] == [401, 401, 200]
        assert status(None, "/v2/health/ready") == 200
        assert server.infer(ROWS)[0] == 401
        good = Security(headers=[("authorization", "Bearer first")])
        assert ask_grpc(server, operations.MODEL_READY, good, name="double") == {"ready": True}
        assert ask_grpc(server, operations.SERVER_LIVE) == {"live": True}
        with pytest.raises(ServerError, match="UNAUTHENTICATED"):
            ask_grpc(server, operations.MODEL_READY, name="double")
        file.write_text("second\n")
        os.utime(file, ns=(1, 1))
        until(lambda: status("second") == 200)
        assert status("first") == 401
        file.write_text("third\n")
        server.begin(_call(server.server.reload_tokens)).result(20)  # as SIGHUP does
        assert [status("second"), status("third")] == [401, 200]


def test_without_a_token_no_body_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("right\n")
    with Running(served(Doubler()), token_file=file) as server:
        for token, status in (("wrong", 401), ("right", 100)):
            with server.connect() as peer, peer.makefile("rb") as reader:
                extra = (
                    f"Expect: 100-continue\r\nAuthorization: Bearer {token}\r\nInference-Header-Content-Length: 100\r\n"
                )
                whole = http_request(bytes(50_000_000), extra=extra)
                peer.sendall(whole[: whole.index(b"\r\n\r\n") + 4])
                assert int(reader.readline().split()[1]) == status
        client = h2.connection.H2Connection()
        client.initiate_connection()
        client.send_headers(
            1,
            [
                (":method", "POST"), (":scheme", "http"), (":authority", "here"),
                (":path", "/inference.GRPCInferenceService/ModelInfer"),
                ("te", "trailers"), ("content-type", "application/grpc"),
            ],
        )  # fmt: skip
        with server.connect("grpc") as peer:
            peer.sendall(client.data_to_send())
            ended: list[Any] = []
            while not ended:
                events = client.receive_data(peer.recv(65_536))
                ended = [dict(event.headers) for event in events if isinstance(event, h2.events.ResponseReceived)]
        assert ended[0][b"grpc-status"] == b"16"  # UNAUTHENTICATED


def test_json_that_takes_long_to_read_is_refused(tmp_path: Path) -> None:
    with Running(served(Doubler()), bounds=Bounds(most_json_bytes=100_000)) as server:
        with server.connect() as peer, peer.makefile("rb") as reader:
            peer.sendall(http_request(bytes(100_001))[:200])
            status, _, body = read_response(reader)  # before the body has come
            assert status == 413
            assert "JSON of 100001 bytes; at most 100000 are accepted" in json.loads(body)["error"]
        nested = json_request(ROWS).replace(b"[[1.0, 2.0]]", b"[" * 13_000)
        status, said = server.ask("POST", "/v2/models/double/infer", nested)
        assert status == 400
        assert "values; at most 12500 are accepted" in said["error"]
        works(server)


def test_metrics_need_the_token_and_tls_too(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("right\n")
    ca, key = certificate(tmp_path)
    with Running(served(Doubler()), token_file=file, tls_cert=ca, tls_key=key) as server:
        url = f"https://localhost:{server.addresses.metrics.rpartition(':')[2]}/metrics"

        def fetched(token: str) -> str:
            security = Security(ca=ca, headers=(("authorization", f"Bearer {token}"),))
            return asyncio.run(metrics.fetch(url, security=security))

        assert "nv_inference_count" in fetched("right")
        with pytest.raises(metrics.MetricsError, match="needs a token: --header"):
            fetched("wrong")


def test_bodies_that_do_not_become_whole_take_bounded_memory() -> None:
    """Those that have arrived in part are too many for the server: the oldest is ended."""
    bounds = Bounds(most_partial_bytes=1 << 20, most_message_bytes=1 << 19)
    body = bytes(400_000)
    head = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 100_000],
                                   "parameters": {"binary_data_size": 400_000}}]}).encode()  # fmt: skip
    whole = http_request(head + body, extra=f"Inference-Header-Content-Length: {len(head)}\r\n")
    with Running(served(Doubler()), bounds=bounds) as server:
        peers = [server.connect() for _ in range(4)]
        for peer in peers[:3]:
            peer.sendall(whole[:-1000])
        with peers[0].makefile("rb") as reader:
            status, _, said = read_response(reader)
            assert status == 503
            assert "not arrived whole" in json.loads(said)["error"]
        works(server)
        for peer in peers[1:3]:  # these were not ended
            peer.sendall(whole[-1000:])
            with peer.makefile("rb") as reader:
                assert read_response(reader)[0] == 400  # of another shape than the model's
        for peer in peers:
            peer.close()


async def _call(act: Any) -> None:
    act()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tls_cert": Path("x")}, "--tls-cert and --tls-key go together"),
        ({"tls_cert": Path("/nothere"), "tls_key": Path("/nothere")}, "No such file"),
        ({"token_file": Path("/nothere")}, "--token-file /nothere cannot be read"),
    ],
)
def test_files_that_can_not_be_used_are_told_at_once(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ServeError, match=words):
        Running(served(Doubler()), **changes)


def test_a_port_in_use_is_told() -> None:
    with Running(served(Doubler())) as server:
        taken = int(server.addresses.grpc.rsplit(":", 1)[1])
        other = Running(served(Doubler()), http_port=taken)
        with pytest.raises(ServeError, match=f"port {taken} of 127.0.0.1 is in use: give another with --http-port"):
            other.__enter__()


# The end.


def test_the_end_answers_what_was_taken_and_refuses_the_rest() -> None:
    gate = Gate()
    with Running(served(Doubler(before=gate), rule=BatchRule(1))) as server, ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(server.infer, ROWS) for _ in range(5)]
        gate.wait_entered()
        until(lambda: server.server.service.open_requests == 5)
        idle = http.client.HTTPConnection(server.addresses.http, timeout=20)
        idle.connect()
        until(lambda: len(server.server.connections.open) == 6)
        draining = server.begin(server.server.drain())
        until(lambda: server.server.service.draining)
        assert server.ask("GET", "/v2/health/ready")[0] == 503
        assert server.ask("GET", "/v2/health/live")[0] == 200
        status, text = server.infer(ROWS)
        assert status == 503
        assert "shutting down" in text
        idle.request("GET", "/v2/health/ready")
        response = idle.getresponse()
        assert (response.status, response.headers["Connection"]) == (503, "close")
        idle.close()
        assert not draining.done()
        gate.opened.release(10)
        assert [one.result() for one in taken] == [ANSWER] * 5
        assert draining.result(20) is True
        with pytest.raises(OSError, match=r".*"):
            server.connect()


def test_the_end_does_not_wait_for_ever() -> None:
    gate = Gate()
    with Running(served(Doubler(before=gate)), drain_s=0.1) as server, ThreadPoolExecutor(2) as pool:
        held = pool.submit(server.infer, ROWS)
        gate.wait_entered()
        assert server.run(server.server.drain()) is False
        with pytest.raises((OSError, http.client.HTTPException)):
            held.result()
        assert not server.server.stopped  # a thread is still within the model
        gate.opened.release(5)


def test_no_request_is_lost_when_the_end_comes_under_load() -> None:
    """Each request that is sent is answered, by outputs or by a refusal; outputs are counted on both sides."""
    with Running(serving.identity("identity", "1", Batching(8)), served(Doubler())) as server:
        answered, refused, stop = [0], [0], threading.Event()
        lock = threading.Lock()

        def client() -> None:
            while not stop.is_set():
                try:
                    status, _ = server.infer(ROWS)
                except OSError:  # before anything was sent: nobody listens any more
                    return
                with lock:
                    (answered if status == 200 else refused)[0] += 1
                if status != 200:
                    assert status == 503
                    return

        threads = [threading.Thread(target=client) for _ in range(8)]
        for one in threads:
            one.start()
        until(lambda: answered[0] > 50)
        assert server.run(server.server.drain()) is True
        stop.set()
        for one in threads:
            one.join(20)
        (statistics,) = [one.statistics for one in server.server.service.schedulers if one.model.name == "double"]
        assert statistics.model_stats("", "")["inference_stats"]["success"]["count"] == answered[0]


# Calls over gRPC by our own client's messages.

INTERFACE = ModelInterface(
    "double", "", "", (TensorSpec("x", "FP32", (2,)),),
    (TensorSpec("twice", "FP32", (2,)), TensorSpec("minus", "FP32", (2,))), 4,
)  # fmt: skip


def test_calls_that_are_cancelled_or_late_over_grpc() -> None:
    grpc = pytest.importorskip("grpc")
    gate = Gate()
    model = Doubler(before=gate)
    message = GrpcMessages(INTERFACE).request([Part((1, 2), np.array(ROWS, np.float32).tobytes())])[5:]
    with Running(served(model, rule=BatchRule(1))) as server, grpc.insecure_channel(server.addresses.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        first = infer.future(message)
        gate.wait_entered()
        (scheduler,) = server.server.service.schedulers
        second, third = infer.future(message), infer.future(message, timeout=0.3)
        until(lambda: scheduler.pending == 2)
        second.cancel()
        until(lambda: scheduler.pending == 1)
        assert third.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: scheduler.pending == 0)
        gate.opened.release(10)
        assert first.result()
        assert len(model.batches) == 1
        until(lambda: server.server.service.open_requests == 0)


@pytest.mark.parametrize(
    ("method", "message", "code"),
    [
        ("ModelInfer", b"\xff\xff", "INVALID_ARGUMENT"),
        ("ModelInfer", b"", "NOT_FOUND"),
        ("ModelInfer", bytes(200_000), "RESOURCE_EXHAUSTED"),
        ("Nothing", b"", "UNIMPLEMENTED"),
        ("ModelMetadata", b"\x0a\x05", "INVALID_ARGUMENT"),
        ("ModelMetadata", b"\x0a\x04none", "NOT_FOUND"),
    ],
)
def test_wrong_calls_over_grpc_are_told_and_the_connection_goes_on(method: str, message: bytes, code: str) -> None:
    grpc = pytest.importorskip("grpc")
    bounds = Bounds(most_message_bytes=100_000)
    with Running(served(Doubler()), bounds=bounds) as server, grpc.insecure_channel(server.addresses.grpc) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        with pytest.raises(grpc.RpcError) as error:
            call(message, timeout=20)
        assert error.value.code().name == code
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", timeout=20) == b"\x08\x01"
        works(server)


def test_a_stream_is_answered_in_its_order() -> None:
    grpc = pytest.importorskip("grpc")
    delays = {1.0: 0.05}
    models = [Doubler(before=lambda batch: time.sleep(delays.get(float(batch[0, 0]), 0))) for _ in range(2)]
    messages = GrpcMessages(INTERFACE)
    good = [messages.request([Part((1, 2), np.array([[n, n]], np.float32).tobytes())])[5:] for n in range(1, 6)]
    with Running(served(*models, rule=BatchRule(1))) as server, grpc.insecure_channel(server.addresses.grpc) as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        answers = list(stream(iter([*good[:3], b"\xff\xff", *good[3:]]), timeout=20))
        assert len(answers) == 6
        found = [np.float32(2 * n).tobytes() * 2 in answer for n, answer in zip((1, 2, 3), answers[:3], strict=True)]
        assert found == [True] * 3
        assert answers[3][:1] == b"\x0a"  # error_message
        assert np.float32(10).tobytes() * 2 in answers[5]


def test_the_end_closes_grpc_connections_in_order() -> None:
    grpc = pytest.importorskip("grpc")
    gate = Gate()
    message = GrpcMessages(INTERFACE).request([Part((1, 2), np.array(ROWS, np.float32).tobytes())])[5:]
    with Running(served(Doubler(before=gate))) as server, grpc.insecure_channel(server.addresses.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(message)
        gate.wait_entered()
        draining = server.begin(server.server.drain())
        until(lambda: server.server.service.draining)
        gate.opened.release()
        assert call.result(timeout=20)
        assert draining.result(20) is True
