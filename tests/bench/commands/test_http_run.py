"""``drumfire run http`` as a user types it, against a real FastAPI service."""

from __future__ import annotations

import json
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra test")
pytest.importorskip("uvicorn", reason="needs the extra test")

from drumfire.bench.assemble import probe
from drumfire.loadgen.answers import Answers
from tests.support.certificates import Certificates
from tests.support.command import columns, here, one_line_error, result_of
from tests.support.http_service import Service

QUIET = ["--no-dashboard"]
SMALL = {
    "SingleStream": ["--time", "1"],
    "MultiStream": ["--time", "1"],
    "Server": ["--qps", "600", "--time", "1", "--max-latency", "5"],
    "Offline": ["--qps", "20000", "--time", "0.1"],
}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service() as running:
        yield running


@pytest.fixture
def at_begin(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Functions to call when a run begins; what the probes before it did is then over."""
    functions: list[Callable[[], object]] = []
    begin, run = Answers.begin, probe.Probe._run
    probing: list[object] = []

    def probed(self: Any, *arguments: Any) -> Any:
        probing.append(self)
        try:
            return run(self, *arguments)
        finally:
            probing.pop()

    def begun(self: Answers, *arguments: Any) -> None:
        if not probing:
            for function in functions:
                function()
        begin(self, *arguments)

    monkeypatch.setattr(probe, "_PROBE_S", 0.02)
    monkeypatch.setattr(probe.Probe, "_run", probed)
    monkeypatch.setattr(Answers, "begin", begun)
    return functions


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(f'{{"id": {number}}}\n' for number in range(20)))
    return file


def test_the_wait_for_a_connection_is_shown_first(service: Service, samples: Path, tmp_path: Path) -> None:
    what = ["--body", '{"x": $input}', "--input-data", samples, "--connections", "1"]
    traffic = ["--scenario", "Server", "--qps", "20000", "--max-latency", "60", "--time", "0.05", "--json", *QUIET]
    there = tmp_path / "out"
    result = result_of(
        here("run", "http", "service", "--url", f"{service.url}/predict", *what, *traffic, "--output", there), 0
    )
    found = columns(there)
    late = np.sort(found["sent"] - found["scheduled"])
    told = result["sent_lateness_ns"]
    assert (told["p99"], told["max"], told["unsent"]) == (late[int(late.size * 0.99)], late[-1], 0)
    assert told["waited"]["max"] == (found["sent"] - found["issued"]).max()
    first = result["warnings"][0]
    assert "most waited for a free connection: raise --connections" in first
    said = (there / "report.txt").read_text()
    assert said.index("requests were sent late") < said.index("sent late ") > said.index("lateness ")


@pytest.mark.parametrize(
    "scenario", [pytest.param(one, marks=() if one in ("Server", "Offline") else pytest.mark.slow) for one in SMALL]
)
def test_every_request_of_a_run_is_one_that_the_service_counted(
    scenario: str, service: Service, samples: Path, tmp_path: Path, at_begin: list[Any]
) -> None:
    at_begin.append(service.seen.clear)
    settings = ["--scenario", scenario, *SMALL[scenario], "--json", *QUIET, "--output", tmp_path / "out"]
    what = ["--body", '{"x": $input}', "--input-data", samples]
    what += ["--expect-json", "ok=true", "--expect-json", "y[0].label"]
    result = result_of(here("run", "http", "service", "--url", f"{service.url}/predict", *what, *settings), 0)
    assert result["validity"] == "VALID"
    assert service.count == result["delivered"]["samples"]
    found = columns(tmp_path / "out")
    assert set(found["status"]) == {1}
    sent = Counter(json.dumps({"id": index}) for index in found["sample_index"].tolist())
    assert service.seen == sent
    assert (found["sent"] >= found["issued"]).all()
    assert (found["completed"] >= found["sent"]).all()
    lateness = (found["issued"] - found["scheduled"])[found["issued"] > 0]
    assert lateness.min() >= 0
    if scenario == "Server":
        assert result["lateness_ns"]["max"] == lateness.max() > 0
    assert result["system"]["backend"] == "http"
    assert result["system"]["description"] == "POST of application/json"
    assert result["system"]["remote"]["urls"] == [f"{service.url}/predict"]
    assert result["system"]["remote"]["input_data"] == f"20 lines of {samples}"
    assert result["system"]["server"] == {"servers": [], "reconciliation": None, "events": {}}


@pytest.mark.slow
def test_the_traffic_is_that_of_a_run_in_process(service: Service, tmp_path: Path, at_begin: list[Any]) -> None:
    settings = ["--scenario", "Server", *SMALL["Server"], "--json", *QUIET]
    what = ["--url", f"{service.url}/predict", "--body", '{"x": $input}', "--performance-sample-count", "100"]
    here("run", "http", "service", *what, *settings, "--output", tmp_path / "there")
    here("run", "null", "digits", *settings, "--performance-sample-count", "100", "--output", tmp_path / "here")
    there, alone = columns(tmp_path / "there"), columns(tmp_path / "here")
    assert there["scheduled"].tobytes() == alone["scheduled"].tobytes()
    assert there["sample_index"].tobytes() == alone["sample_index"].tobytes()


def test_a_service_that_begins_to_refuse_in_the_run(service: Service, tmp_path: Path, at_begin: list[Any]) -> None:
    at_begin += [service.seen.clear, lambda: service.refused.add("3")]
    (tmp_path / "samples.json").write_text(json.dumps(list(range(10))))
    what = ["--body", '{"x":$input}', "--input-data", tmp_path / "samples.json", "--output", tmp_path / "out"]
    settings = ["--scenario", "Server", *SMALL["Server"], "--json", *QUIET]
    try:
        result = result_of(here("run", "http", "s", "--url", f"{service.url}/predict", *what, *settings), 1)
    finally:
        service.refused.clear()
    assert result["validity"] == "INVALID"
    assert result["errors"]["failed"] == service.seen["3"] > 0
    found = columns(tmp_path / "out")
    assert ((found["status"] == 2) == (found["sample_index"] == 3)).all()
    assert "HTTP 500 instead of 200: out of order" in json.dumps(result["errors"])


@pytest.mark.slow
def test_bytes_by_put_with_a_prefix_and_a_query(tmp_path: Path, at_begin: list[Any]) -> None:
    rows = np.arange(12, dtype=np.uint8).reshape(4, 3)
    np.save(tmp_path / "rows.npy", rows)
    with Service(prefix="/serving/v1") as service:
        at_begin += [service.seen.clear, service.types.clear, service.hosts.clear]
        what = ["--url", f"{service.url}/serving/v1/raw?key=a%20b", "--method", "put"]
        what += ["--input-data", tmp_path / "rows.npy"]
        expect = ["--expect-json", "size=3", "--expect-json", "method=PUT", "--expect-json", "query=key=a%20b"]
        settings = [*SMALL["SingleStream"], "--json", *QUIET, "--output", tmp_path / "out"]
        result = result_of(here("run", "http", "raw", *what, *expect, *settings), 0)
        assert service.count == result["delivered"]["samples"]
        assert set(service.seen) == {row.tobytes() for row in rows}
        assert set(service.types) == {"application/octet-stream"}
        assert set(service.hosts) == {service.authority}


def test_ipv6(tmp_path: Path, at_begin: list[Any]) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with Service("::1") as service:
        at_begin += [service.seen.clear]
        settings = [*SMALL["SingleStream"], "--json", *QUIET, "--output", tmp_path / "out"]
        result = result_of(here("run", "http", "six", "--url", f"{service.url}/raw", "--input", "2", *settings), 0)
        assert service.count == result["delivered"]["samples"]
        assert set(service.hosts) == {service.authority}


@pytest.mark.slow
def test_tls_with_a_name_of_its_own(tmp_path: Path, at_begin: list[Any]) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("makes certificates with the openssl command")
    certificates = Certificates(tmp_path)
    server = (certificates.of("elsewhere"), certificates.key("elsewhere"))
    with Service(certificate=server) as service:
        where = ["--url", f"{service.url}/raw", "--input", "2", "--tls-ca", certificates.of("ca")]
        settings = [*SMALL["SingleStream"], "--json", *QUIET, "--output", tmp_path / "out"]
        one_line_error(here("run", "http", "tls", *where, *settings), "not trusted", "127.0.0.1")
        host = ["--header", "Host: elsewhere.example"]
        result = result_of(here("run", "http", "tls", *where, *host, *settings), 0)
        assert result["system"]["remote"]["urls"] == [f"{service.url}/raw"]
        assert set(service.hosts) == {"elsewhere.example"}


@pytest.mark.slow
def test_two_workers(service: Service, tmp_path: Path) -> None:
    settings = ["--scenario", "Server", *SMALL["Server"], "--json", *QUIET]
    what = ["--url", f"{service.url}/predict", "--body", '{"x": $input}', "--workers", "2"]
    result = result_of(here("run", "http", "service", *what, *settings, "--output", tmp_path / "out"), 0)
    assert result["validity"] == "VALID"
    assert [one["state"] for one in result["hosts"]["generators"]] == ["done", "done"]
    assert set(columns(tmp_path / "out")["status"]) == {1}
    assert result["system"]["server"]["servers"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", "URL/nothing", "--body", "{}"], ["POST URL/nothing", "HTTP 404", "Not Found", "path"]),
        (["--url", "URL/status/503", "--body", "{}"], ["POST URL/status/503", "HTTP 503 instead of 200"]),
        (["--url", "URL/predict", "--body", '{"z": 1}'], ["HTTP 500"]),
        (["--url", "URL/predict", "--body", '{"x": 1}', "--expect-json", "no"], ["has no no"]),
        (["--url", "URL/predict", "--body", '{"x": 1}', "--expect-status", "201"], ["HTTP 200 instead of 201"]),
        (["--url", "http://127.0.0.1:1/p", "--body", "1"], ["http://127.0.0.1:1", "refused"]),
        (["--url", "grpc://127.0.0.1:1", "--body", "1"], ["http://HOST:PORT/PATH"]),
        (["--url", "URL/p", "--url", "URL/q", "--body", "1"], ["one path of each server"]),
        (["--body", "1"], ["--url"]),
        (["--url", "URL/predict"], ["say what to send"]),
        (["--url", "URL/predict", "--body", "1", "--body-file", "x"], ["--body-file"]),
        (["--url", "URL/predict", "--body-file", "/no/such"], ["/no/such"]),
        (["--url", "URL/predict", "--body", "1", "--input", "3"], ["$input"]),
        (["--url", "URL/predict", "--body", "1", "--method", "DELETE"], ["--method"]),
        (["--url", "URL/predict", "--body", "1", "--expect-status", "99"], ["--expect-status"]),
        (["--url", "URL/predict", "--body", "1", "--expect-json", "a..b"], ["--expect-json"]),
        (["--url", "URL/predict", "--body", "1", "--content-type", "a\nb"], ["--content-type"]),
        (["--url", "URL/predict", "--body", "1", "--header", "content-type: x"], ["--content-type"]),
        (["--url", "URL/predict", "--body", "1", "--header", "content-length: 1"], ["content-length"]),
        (["--url", "URL/predict", "--body", "1", "--tls-ca", "x"], ["--tls-ca", "https://"]),
        (["--url", "URL/predict", "--body", "1", "--accuracy"], ["--accuracy", "labels", "--expect-json"]),
        (["--url", "URL/predict", "--body", "1", "--submission"], ["--submission", "labels"]),
        (["--url", "URL/predict", "--body", "1", "--dataset-path", "x"], ["--dataset-path"]),
        (["--url", "URL/predict", "--body", "1", "--shared-memory", "system"], ["--shared-memory", "triton"]),
        (["cpu", "--url", "URL/predict", "--body", "1"], ["no DEVICE"]),
    ],
)
def test_what_cannot_be_is_one_line_before_the_run(
    words: list[str], said: list[str], service: Service, tmp_path: Path
) -> None:
    written = [word.replace("URL", service.url) for word in words]
    done = here("run", "http", "service", *written, "--output", tmp_path / "out", *QUIET)
    one_line_error(done, *(text.replace("URL", service.url) for text in said))
    assert not (tmp_path / "out").exists()


def test_the_help_of_this_target(service: Service) -> None:
    text = here("run", "http", "--help").stdout
    for name in ("--body", "--expect-json", "--connections", "--workers"):
        assert name in text
    assert "--shared-memory" not in text
