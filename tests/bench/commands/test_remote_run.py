"""``drumfire run triton`` as a user types it, against the real Triton and a peer that misbehaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from drumfire.sut.remote.triton_local.server import LocalTriton
from tests.support.certificates import Certificates
from tests.support.command import (
    Done,
    await_answers,
    columns,
    drumfire,
    finished,
    here,
    one_line_error,
    result_of,
    start,
)
from tests.support.scripted_peer import Peer, Talk, until
from tests.support.triton import statistics, url

QUIET = ["--no-dashboard"]
SCENARIOS = ["SingleStream", "MultiStream", "Server", "Offline"]
# What is tested here is not this machine's speed.
SMALL = {
    "SingleStream": ["--time", "0.3"],
    "MultiStream": ["--time", "0.3"],
    "Server": ["--qps", "700", "--time", "1", "--max-latency", "5"],
    "Offline": ["--qps", "40000", "--time", "0.2"],
}
over_both = pytest.mark.parametrize("protocol", ["grpc", "http"])


# The real Triton.


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """The columns of a run in this process by scenario, with the settings of ``SMALL``."""
    found = {}
    for scenario in SCENARIOS:
        folder = tmp_path_factory.mktemp("here") / "out"
        settings = ["--scenario", scenario, *SMALL[scenario], "--json", *QUIET]
        done = here("run", "null", "digits", *settings, "--output", folder)
        assert done.returncode in (0, 1), done.stderr  # Offline is over before its time
        found[scenario] = columns(folder)
    return found


@over_both
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_valid_with_the_very_traffic_of_a_run_in_process(
    scenario: str, protocol: str, triton: LocalTriton, tmp_path: Path, in_process: dict[str, dict[str, np.ndarray]]
) -> None:
    """VALID; and indices and schedule are to the last bit those of a run in this process with the same settings."""
    settings = ["--scenario", scenario, *SMALL[scenario], "--json", *QUIET]
    before = statistics(triton, "digits")
    done = here("run", "triton", "digits", "--url", url(triton, protocol), *settings, "--output", tmp_path / "there")
    result = result_of(done, 0)
    assert result["validity"] == "VALID"
    after = statistics(triton, "digits")
    samples = after["inference_count"] - before["inference_count"]
    assert samples >= result["delivered"]["samples"]
    if scenario != "SingleStream":  # dynamic batching is at work
        assert samples > after["execution_count"] - before["execution_count"]

    there, alone = columns(tmp_path / "there"), in_process[scenario]
    rows = min(len(there["sample_index"]), len(alone["sample_index"]))
    if scenario in ("Server", "Offline"):
        assert len(there["sample_index"]) == len(alone["sample_index"]) == rows
        assert there["scheduled"].tobytes() == alone["scheduled"].tobytes()
    else:
        assert rows > 50
    assert there["sample_index"].dtype == alone["sample_index"].dtype
    assert there["sample_index"][:rows].tobytes() == alone["sample_index"][:rows].tobytes()
    assert (there["sent"] >= there["issued"]).all()
    assert (there["completed"] >= there["sent"]).all()


def test_accuracy_is_that_of_the_model_in_process(triton: LocalTriton, tmp_path: Path) -> None:
    settings = ["--scenario", "Offline", "--accuracy", "--json", *QUIET]
    alone = result_of(here("run", "onnxruntime", "digits", *settings, "--output", tmp_path / "here"), 0)
    for protocol in ("grpc", "http"):
        arguments = ["run", "triton", "digits", "--url", url(triton, protocol), *settings]
        there = result_of(here(*arguments, "--output", tmp_path / protocol), 0)
        assert there["accuracy"] == alone["accuracy"]
        logs = [
            sorted(
                json.loads((tmp_path / run / "mlperf_log_accuracy.json").read_text()), key=lambda one: one["qsl_idx"]
            )
            for run in ("here", protocol)
        ]
        assert [one["data"] for one in logs[0]] == [one["data"] for one in logs[1]]


@over_both
def test_what_the_server_does_not_have(protocol: str, triton: LocalTriton, tmp_path: Path) -> None:
    there = ["--url", url(triton, protocol), "--output", tmp_path / "out"]
    one_line_error(here("run", "triton", "resnet51", *there), "resnet51")
    one_line_error(here("run", "triton", "digits", "--model-version", "7", *there), "7")
    one_line_error(here("run", "triton", "identity", *there), "set them with --shape INPUT0=128")
    one_line_error(here("run", "triton", "identity", "--input", "IN:4", *there), "IN", "INPUT0")
    one_line_error(here("run", "triton", "digits", "--input", "input:1,8,9", *there), "input")
    one_line_error(here("run", "triton", "digits", "--max-batchsize", "65", *there), "--max-batchsize 65", "64")
    assert not (tmp_path / "out" / "settings.json").exists()


def disturbed(process: subprocess.Popen[str], disturb: Callable[[], object]) -> Done:
    """``disturb`` is called as soon as the run has answers."""
    try:
        await_answers(process)
        disturb()
    finally:
        done = finished(process, 100)
    return done


@pytest.mark.serial
@pytest.mark.slow
@over_both
def test_the_server_is_killed_in_the_run(protocol: str, tmp_path: Path) -> None:
    settings = ["--scenario", "Server", "--qps", "500", "--time", "120", "--max-latency", "10", "--json"]
    with LocalTriton() as own:
        there = ["--url", url(own, protocol), "--output", tmp_path / "out"]
        done = disturbed(start("run", "triton", "digits", *there, *settings), lambda: os.kill(own.pid, signal.SIGKILL))
    result, found = result_of(done, 1), columns(tmp_path / "out")
    assert result["validity"] == "INVALID"
    assert result["errors"]["failed"] > 0
    assert not result["errors"]["unanswered"]
    assert not result["errors"]["refused"]
    assert any("The system under test is gone" in reason and "refused" in reason for reason in result["reasons"])
    assert set(found["status"]) == {1, 2}
    assert result["delivered"]["samples"] > 50
    assert result["errors"]["failed"] == (found["status"] == 2).sum()
    assert len(found["status"]) < 30_000  # of 60,000
    assert "INVALID" in (tmp_path / "out" / "mlperf_log_summary.txt").read_text()


@over_both
def test_the_server_stands_still_for_three_seconds(protocol: str, triton: LocalTriton, tmp_path: Path) -> None:
    def stand_still() -> None:
        os.kill(triton.pid, signal.SIGSTOP)
        try:
            time.sleep(3)
        finally:
            os.kill(triton.pid, signal.SIGCONT)

    settings = ["--scenario", "Server", "--qps", "500", "--time", "3", "--max-latency", "10", "--json"]
    there = ["--url", url(triton, protocol), "--output", tmp_path / "out"]
    result = result_of(disturbed(start("run", "triton", "digits", *there, *settings), stand_still), 0)
    assert result["validity"] == "VALID"
    assert result["latency_ns"]["max"] > 2_000_000_000
    assert result["lateness_ns"]["p99"] < 1_000_000_000  # the schedule went on meanwhile
    assert not any(result["errors"][what] for what in ("failed", "unanswered", "refused"))
    assert result["delivered"]["samples"] == len(columns(tmp_path / "out")["status"])


# The scripted peer.

ECHO = ["run", "triton", "echo", "--scenario", "Server", "--qps", "1000", "--time", "0.6", "--max-latency", "10"]
ECHO += ["--json", *QUIET]


def test_a_process_says_its_result_and_nothing_else(tmp_path: Path) -> None:
    with Peer("grpc") as peer:
        words = [word for word in ECHO if word not in QUIET]
        result = result_of(drumfire(*words, "--url", peer.url, "--output", tmp_path / "out"), 0)
    assert result == json.loads((tmp_path / "out" / "result.json").read_text())


@over_both
def test_nobody_listens(protocol: str, tmp_path: Path) -> None:
    with Peer(protocol, listening=False) as peer:
        one_line_error(here(*ECHO, "--url", peer.url, "--output", tmp_path / "out"), "connection refused", peer.url)
    assert not (tmp_path / "out" / "settings.json").exists()


def test_urls_that_can_not_be(tmp_path: Path) -> None:
    for given, words in (
        ([], ["--url", "triton-local"]),
        (["--url", "ftp://here"], ["grpc://HOST:PORT"]),
        (["--url", "grpc://127.0.0.1:1", "--url", "http://127.0.0.1:2"], ["the same protocol"]),
        (["--url", "grpc://127.0.0.1:1,grpc://127.0.0.1:1"], ["twice"]),
        (["--url", "grpc://127.0.0.1:1", "--header", "nonsense"], ["--header"]),
        (["--url", "grpcs://127.0.0.1:1", "--tls-ca", "/no/such.pem"], ["/no/such.pem"]),
        (["--url", "grpc://no-such-host.invalid:1"], ["no-such-host.invalid"]),
    ):
        one_line_error(here(*ECHO, *given, "--output", tmp_path / "out"), *words)


@pytest.mark.parametrize(("spoken", "asked"), [("http", "grpc"), ("grpc", "http")])
def test_a_port_that_speaks_the_other_protocol(spoken: str, asked: str, triton: LocalTriton, tmp_path: Path) -> None:
    there = f"{asked}://{triton.http if spoken == 'http' else triton.grpc}"
    one_line_error(here(*ECHO, "--url", there, "--output", tmp_path / "out"), there)


@pytest.mark.slow
@over_both
def test_a_server_without_configuration_and_with_the_users_headers(protocol: str, tmp_path: Path) -> None:
    headers = ["--header", "authorization: Bearer abc", "--header", "X-Tenant: seven"]
    with Peer(protocol) as peer:
        done = here(*ECHO, "--url", peer.url, *headers, "--output", tmp_path / "out")
        result = result_of(done, 0)
        assert "note: the server gives no model configuration" in done.stderr
        assert len(peer.calls) >= result["delivered"]["samples"]
        for call in peer.calls:
            assert call.headers["authorization"] == "Bearer abc"
            assert call.headers["x-tenant"] == "seven"
        assert b"gzip" not in peer.heard()


@over_both
def test_errors_in_the_run_are_rows_that_failed(protocol: str, tmp_path: Path) -> None:
    """Over HTTP, where a request is lost with its connection, as over gRPC: the others are answered."""

    def play(talk: Talk) -> None:
        for call in talk.calls():
            if not in_run(talk.peer) or call.ordinal % 20:
                talk.answer(call)
            else:
                talk.refuse(call, "out of memory")

    def in_run(peer: Peer) -> bool:
        return (tmp_path / "out" / "settings.json").exists()

    with Peer(protocol, play) as peer:
        result = result_of(here(*ECHO, "--url", peer.url, "--output", tmp_path / "out"), 1)
    assert result["errors"]["failed"] > 0
    assert "out of memory" in result["reasons"][0]
    status = columns(tmp_path / "out")["status"]
    assert (status == 2).sum() == result["errors"]["failed"]
    assert (status == 1).sum() > 10 * result["errors"]["failed"]


def test_a_server_that_refuses_from_the_start(tmp_path: Path) -> None:
    def refuse(talk: Talk) -> None:
        for call in talk.calls():
            talk.refuse(call, "model is not ready")

    with Peer("grpc", refuse) as peer:
        one_line_error(here(*ECHO, "--url", peer.url, "--output", tmp_path / "out"), "model is not ready")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "protocol"),
    [
        ("--request-timeout", "grpc"),
        ("--patience", "http"),
        ("--request-timeout", "http"),
        ("--patience", "grpc"),
    ],
)
def test_a_reply_that_never_comes(given: str, protocol: str, tmp_path: Path) -> None:
    def play(talk: Talk) -> None:
        for call in talk.calls():
            if (tmp_path / "out" / "settings.json").exists() and not ignored:
                ignored.append(call)
            else:
                talk.answer(call)

    ignored: list[object] = []
    with Peer(protocol, play) as peer:
        few = ["--qps", "300", "--time", "0.3"]  # which are all answered in far less than the second
        result = result_of(here(*ECHO, *few, "--url", peer.url, given, "1", "--output", tmp_path / "out"), 1)
    errors = result["errors"]
    assert (errors["failed"], errors["unanswered"]) == ((1, 0) if given == "--request-timeout" else (0, 1))
    assert errors["refused"] == 0
    assert any(given in reason or "for 1 s" in reason or "within 1 s" in reason for reason in result["reasons"])
    assert len(columns(tmp_path / "out")["status"]) == result["delivered"]["samples"] + 1


@pytest.mark.parametrize(
    ("protocol", "number"),
    [
        ("grpc", signal.SIGINT),
        ("http", signal.SIGTERM),
        pytest.param("grpc", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("http", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_interrupted_with_requests_under_way(protocol: str, number: signal.Signals, tmp_path: Path) -> None:
    def play(talk: Talk) -> None:
        for call in talk.calls():
            if (tmp_path / "out" / "settings.json").exists() and len(talk.peer.calls) % 3 == 0:
                held.append(call)  # never answered
            else:
                talk.answer(call)

    held: list[object] = []
    arguments = [word for word in ECHO if word not in QUIET] + ["--time", "600"]
    with Peer(protocol, play) as peer:
        process = start(*arguments, "--url", peer.url, "--output", tmp_path / "out")

        def interrupt() -> None:
            until(lambda: len(held) > 5, "requests under way")
            os.kill(process.pid, number)

        result = result_of(disturbed(process, interrupt), 130)
    assert result["validity"] == "INVALID"
    assert number.name in result["reasons"][0]
    assert result["errors"]["refused"] == 0
    assert result["errors"]["failed"] == 0
    assert result["errors"]["unanswered"] >= 5
    assert set(columns(tmp_path / "out")["status"]) == {1, 3}


# TLS.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("makes certificates with the openssl command")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.slow
@over_both
def test_a_trusted_certificate(protocol: str, certificates: Certificates, tmp_path: Path) -> None:
    with Peer(protocol, tls=certificates.server("server", protocol)) as peer:
        arguments = ["--url", peer.url, "--tls-ca", certificates.of("ca"), "--output", tmp_path / "out"]
        result = result_of(here(*ECHO, *arguments), 0)
        assert result["validity"] == "VALID"
        assert {talk.alpn for talk in peer.talks} == {"h2" if protocol == "grpc" else "http/1.1"}
        assert peer.answered.total() >= result["delivered"]["samples"]


@over_both
@pytest.mark.parametrize(
    ("served", "trusted", "words"),
    [
        ("server", "other_ca", ["is not trusted", "--tls-ca"]),
        ("server", None, ["is not trusted", "--tls-ca"]),
        ("elsewhere", "ca", ["is not trusted", "127.0.0.1"]),
    ],
    ids=["wrong_ca", "unknown_ca", "wrong_host"],
)
def test_a_certificate_that_is_not_trusted(
    served: str, trusted: str | None, words: list[str], protocol: str, certificates: Certificates, tmp_path: Path
) -> None:
    with Peer(protocol, tls=certificates.server(served, protocol)) as peer:
        given = ["--tls-ca", certificates.of(trusted)] if trusted else []
        one_line_error(here(*ECHO, "--url", peer.url, *given, "--output", tmp_path / "out"), *words)
        assert not peer.calls


@over_both
def test_tls_asked_of_a_plain_port(protocol: str, certificates: Certificates, tmp_path: Path) -> None:
    def play(talk: Talk) -> None:
        with contextlib.suppress(Exception):  # what it makes of our hello
            for call in talk.calls():
                talk.answer(call)

    with Peer(protocol, play) as peer:
        there = peer.url.replace("://", "s://")
        arguments = ["--url", there, "--tls-ca", certificates.of("ca"), "--output", tmp_path / "out"]
        one_line_error(here(*ECHO, *arguments), there, "speak TLS")


def test_grpc_without_alpn_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    with Peer("grpc", tls=certificates.server("server", "grpc", alpn=False)) as peer:
        arguments = ["--url", peer.url, "--tls-ca", certificates.of("ca"), "--output", tmp_path / "out"]
        one_line_error(here(*ECHO, *arguments), "does not offer HTTP/2")


@over_both
def test_our_own_certificate(protocol: str, certificates: Certificates, tmp_path: Path) -> None:
    with Peer(protocol, tls=certificates.server("server", protocol, asks=True)) as peer:
        trusted = ["--url", peer.url, "--tls-ca", certificates.of("ca")]
        ours = ["--tls-cert", certificates.of("client"), "--tls-key", certificates.key("client")]
        result_of(here(*ECHO, *trusted, *ours, "--output", tmp_path / "out"), 0)
        one_line_error(here(*ECHO, *trusted, "--output", tmp_path / "b"), peer.url)
