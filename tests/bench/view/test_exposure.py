"""A run's figures for Prometheus: their names and values as its parser reads them, and the port they are at."""

from __future__ import annotations

import errno
import http.client
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from drumfire.bench.view import exposure, port
from drumfire.bench.watch import LOOK_ROWS, Snapshot, ViewPlan, Watch
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.record import Status
from tests.bench.view.test_dashboard import MS, SERVER, SINGLE, HandMade, S
from tests.support.command import here, one_line_error

LABELS = {"scenario": "Server", "model": 'a "b"\n\\c', "backend": "onnxruntime", "version": "1"}


def samples(plan: ViewPlan, snapshot: Snapshot | None) -> dict[str, float]:
    """Every sample as Prometheus reads it, by its name and labels."""
    text = exposure.exposition(plan, snapshot, LABELS).decode()
    assert text.endswith("# EOF\n")
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
    return found


def underway() -> Snapshot:
    made = HandMade(100, batch_size=np.uint16)
    made.start()
    made.issue(60, late_ns=2_000)
    made.record.columns["batch_size"][:48] = [4] * 12 + [3] * 36
    made.answer(list(range(48)), [10_000 if row < 40 else 100 * MS for row in range(48)])
    made.answer([48, 49], 0, Status.FAILED)
    return Watch(made.record, SERVER, every_row=True).look(2 * S)


def test_names_types_and_values() -> None:
    text = exposure.exposition(SERVER, underway(), LABELS).decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert types == {
        "drumfire_run": "info",
        "drumfire_scheduled_rate": "gauge",
        "drumfire_samples_issued": "counter",
        "drumfire_samples_completed": "counter",
        "drumfire_in_flight": "gauge",
        "drumfire_latency_seconds": "histogram",
        "drumfire_lateness_seconds": "histogram",
        "drumfire_batch_size": "histogram",
    }
    found = samples(SERVER, underway())
    assert found['drumfire_run_info{backend=onnxruntime,model=a "b"\n\\c,scenario=Server,version=1}'] == 1
    assert found["drumfire_scheduled_rate"] == 1000
    assert found["drumfire_samples_issued_total"] == 60
    assert found["drumfire_samples_completed_total{status=ok}"] == 48
    assert found["drumfire_samples_completed_total{status=failed}"] == 2
    assert found["drumfire_in_flight"] == 10
    assert found["drumfire_latency_seconds_count"] == 48
    assert found["drumfire_latency_seconds_sum"] == pytest.approx(40 * 1e-5 + 8 * 0.1, rel=1e-3)
    assert found["drumfire_lateness_seconds_count"] == 60
    assert found["drumfire_batch_size_count"] == 15
    assert found["drumfire_batch_size_sum"] == 48
    assert found["drumfire_batch_size_bucket{le=2.0}"] == 0
    assert found["drumfire_batch_size_bucket{le=4.0}"] == 15


def test_buckets_double_from_10_us() -> None:
    found = samples(SERVER, underway())
    bounds = [re.fullmatch(r"drumfire_latency_seconds_bucket\{le=(.+)\}", name) for name in found]
    values = [float(one[1]) for one in bounds if one]
    assert values == [*(pytest.approx(1e-5 * 2**k) for k in range(22)), float("inf")]
    counts = [found[f"drumfire_latency_seconds_bucket{{le={one[1]}}}"] for one in bounds if one]
    assert counts == [40.0] * 14 + [48.0] * 9  # 100 ms is below 10 us * 2**14 = 164 ms


def test_before_the_run_and_without_a_schedule() -> None:
    assert set(samples(SINGLE, None)) == {name for name in samples(SERVER, None) if "scheduled_rate" not in name}
    assert samples(SERVER, None)["drumfire_scheduled_rate"] == 1000
    found = samples(SINGLE, replace(underway(), latency=None, lateness=None, batches={}, batch_count=0))
    assert found["drumfire_latency_seconds_count"] == 0
    assert not any("lateness" in name or "batch" in name for name in found)


def test_every_row_is_counted_however_many_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drumfire.bench.watch._EVERY_ROW", 1000)
    monkeypatch.setattr("drumfire.bench.watch._WAITING_ROWS", 10)
    rows = LOOK_ROWS * 3
    made = HandMade(rows)
    watch = Watch(made.record, replace(SERVER, rows=rows), every_row=True)
    made.start()
    made.issue(rows)
    late = list(range(0, rows, 100))
    made.answer([row for row in range(rows) if row % 100], MS)
    for second in range(2, 2 + rows // 1000 + 1):
        seen = watch.look(second * S)
    assert seen.latency is not None
    assert seen.lateness is not None
    assert (seen.latency.count, seen.lateness.count) == (rows - len(late), rows)
    made.answer(late, MS)
    last = watch.look(10_000 * S).latency
    assert last is not None
    assert last.count == rows


@pytest.mark.parametrize(
    ("text", "host", "number"),
    [
        ("9400", "127.0.0.1", 9400),
        ("0.0.0.0:9400", "0.0.0.0", 9400),
        ("[::1]:0", "::1", 0),
        ("localhost:65535", "localhost", 65535),
    ],
)
def test_a_port_or_an_address_and_a_port(text: str, host: str, number: int) -> None:
    assert port.address(text) == (host, number)


@pytest.mark.parametrize("text", ["", "x", "65536", "-1", "1.5", "::1:9400", "host:", ":9400", "9400/metrics", "²"])
def test_what_is_no_port_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="give a port, 0 to 65535"):
        port.address(text)
    done = here("run", "null", "digits", "--no-dashboard", f"--expose={text}")
    one_line_error(done, "expose")


UNKNOWN, NOT_OURS = "is not known as a host", "is not an address of this machine"


@pytest.mark.parametrize(
    ("where", "host", "why"),
    [
        ("192.0.2.1:9400", "192.0.2.1", NOT_OURS),
        ("[2001:db8::1]:9400", "2001:db8::1", NOT_OURS),
        ("no.such.host.invalid:9400", "no.such.host.invalid", UNKNOWN),
        ("22a:80", "22a", UNKNOWN),
        ("a..b:80", "a..b", UNKNOWN),  # no name of a host at all
        ("[1:2]:80", "1:2", UNKNOWN),
    ],
)
def test_an_address_that_is_not_ours(where: str, host: str, why: str) -> None:
    with pytest.raises(UserError) as raised:
        port.listen(where)
    assert str(raised.value) == (
        f"--expose {where}: {host} {why}: give an address of this machine, such as 127.0.0.1 or 0.0.0.0, or a port "
        "alone"
    )


def test_a_port_that_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(UserError, match=r"^--expose 80: this user may not take port 80: give one of 1024 or above"):
        port.listen("80")


def test_a_port_in_use_is_told_before_the_run(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        done = here("run", "null", "digits", "--no-dashboard", "--expose", number, "--output", tmp_path / "run")
    one_line_error(done, f"port {number} is in use")
    assert not (tmp_path / "run" / "result.json").exists()


def get(url: str, method: str = "GET", wait_s: float = 10.0) -> tuple[int, Mapping[str, str], bytes]:
    _, _, rest = url.partition("//")
    host, _, path = rest.partition("/")
    connection = http.client.HTTPConnection(host, timeout=wait_s)
    connection.request(method, f"/{path}")
    answer = connection.getresponse()
    got = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return got


def test_answers_over_http() -> None:
    with port.listen("0") as taken:
        url = port.url(taken)
        server = exposure.Server(os.dup(taken.fileno()), SERVER, LABELS | {"model": "\udcff"})
        server.show(underway())
        status, headers, body = get(url)
        assert (status, headers["Content-Type"]) == (200, exposure.CONTENT_TYPE)
        assert "openmetrics-text; version=1.0.0" in exposure.CONTENT_TYPE
        assert b"drumfire_samples_issued_total 60" in body
        assert get(url, "HEAD")[2] == b""
        status, _, body = get(url.replace("/metrics", "/"))
        assert (status, body) == (404, b"The metrics are at /metrics\n")
        server.close()


@pytest.mark.parametrize("form", ["--json", "--submission"])
@pytest.mark.slow
@pytest.mark.serial
def test_a_real_run_is_exposed_without_a_screen(tmp_path: Path, form: str) -> None:
    words = ["run", "null", "digits", "--scenario", "Server", "--qps", "500", "--time", "2", "--no-dashboard"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "drumfire", *words, form, "--expose", "0", "--output", str(tmp_path / "run")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    url = next(found[1] for line in process.stdout if (found := re.search(r"metrics at (http://\S+)", line)))
    counted: list[float] = []
    while process.poll() is None:
        try:
            body = urllib.request.urlopen(url, timeout=10).read().decode()
        except (OSError, http.client.HTTPException):  # it ends, also in the midst of an answer
            break
        found = re.search(r"^drumfire_latency_seconds_count (\S+)$", body, re.MULTILINE)
        counted += [] if found is None else [float(found[1])]
        time.sleep(0.1)
    assert process.wait(60) in (0, 1), process.stdout.read()
    process.stdout.close()
    assert counted == sorted(counted)
    assert 100 < counted[-1] <= 1500
    with pytest.raises(OSError, match=r"."):
        urllib.request.urlopen(url, timeout=10)
