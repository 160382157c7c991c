"""Reading and fetching Prometheus metrics."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.sut.remote.kserve.metrics import MetricsError, Reading, fetch, read, tells_of

GPU_A = {"utilization": 0.5, "power_w": 250.0, "memory_used_bytes": 1e9, "memory_total_bytes": 8e9, "energy_j": 1e6}
NAMES = {
    "utilization": "nv_gpu_utilization",
    "power_w": "nv_gpu_power_usage",
    "memory_used_bytes": "nv_gpu_memory_used_bytes",
    "memory_total_bytes": "nv_gpu_memory_total_bytes",
    "energy_j": "nv_energy_consumption",
}

figures = st.floats(0, 1e18, allow_nan=False)
# Any text may stand in a label's value.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), max_size=8)
pending = st.dictionaries(st.tuples(texts, st.sampled_from(["1", "2"])), st.integers(0, 1 << 40), max_size=4)


def written(
    gpus: dict[str, dict[str, float]], waiting: dict[tuple[str, str], int] | None = None, cpu: float | None = None
) -> str:
    """Metrics as a server writes them."""
    lines = ["# HELP nv_inference_count Number of inferences", "# TYPE nv_inference_count counter"]
    lines.append('nv_inference_count{model="other",version="1"} 7')
    for ours, name in NAMES.items():
        told = {uuid: of[ours] for uuid, of in gpus.items() if ours in of}
        if told:
            lines += [f"# HELP {name} A figure", f"# TYPE {name} {'counter' if ours == 'energy_j' else 'gauge'}"]
            lines += [f'{name}{{gpu_uuid="{quoted(uuid)}"}} {value!r}' for uuid, value in told.items()]
    if waiting:
        lines.append("# TYPE nv_inference_pending_request_count gauge")
    for (model, version), count in (waiting or {}).items():
        lines.append(f'nv_inference_pending_request_count{{model="{quoted(model)}",version="{version}"}} {count}')
    if cpu is not None:
        lines += ["# TYPE nv_cpu_utilization gauge", f"nv_cpu_utilization {cpu!r}"]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@given(
    st.dictionaries(texts, st.dictionaries(st.sampled_from(list(NAMES)), figures, min_size=1), max_size=3),
    pending,
    st.none() | st.floats(0, 1),
)
def test_what_a_server_writes_is_read(
    gpus: dict[str, dict[str, float]], waiting: dict[tuple[str, str], int], cpu: float | None
) -> None:
    for model in {model for model, _ in waiting} | {"absent"}:
        text = written(gpus, waiting, cpu)
        found = read(text, model)
        assert found.gpus == gpus
        assert found.server.get("cpu_utilization") == cpu
        ours = [count for (name, _), count in waiting.items() if name == model]
        assert found.server.get("pending_requests") == (sum(ours) if ours else None)
        assert tells_of(text, model) == bool(ours)
        assert read(text, model, "2").server.get("pending_requests") == waiting.get((model, "2"))


@pytest.mark.parametrize("figures", ["9" * 400, f"1 {'9' * 400}"], ids=["value", "time"])
def test_a_number_too_large_for_the_format_is_refused(figures: str) -> None:
    with pytest.raises(MetricsError, match=r"^not Prometheus metrics: "):
        read(f"nv_cpu_utilization {figures}\n", "model")


@given(st.text() | st.text('nv_gpu_utilization{}"=,# \n1eTYPE'))
def test_any_other_text_is_refused_in_one_line_or_gives_finite_figures(text: str) -> None:
    try:
        found = read(text, "model")
    except MetricsError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert "\n" not in refusal
    if refusal:
        return
    for told in (*found.gpus.values(), found.server):
        assert all(math.isfinite(value) for value in told.values())


def test_a_figure_that_is_no_number_is_left_out() -> None:
    text = 'nv_gpu_power_usage{gpu_uuid="a"} NaN\nnv_gpu_utilization{gpu_uuid="a"} 1\nnv_cpu_utilization +Inf\n'
    assert read(text, "model") == Reading({"a": {"utilization": 1.0}}, {})


# Fetching: a peer that says what it is told to.


@contextmanager
def peer(*says: bytes, hold: bool = False) -> Iterator[str]:
    """Its address.  Each connection gets the next of ``says`` after its request, the last one again and again;
    ``hold``: and is then left open."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held = []

        def serve() -> None:
            number = 0
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connection.recv(65_536)
                connection.sendall(says[min(number, len(says) - 1)])
                number += 1
                held.append(connection) if hold else connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in held:
        connection.close()


def ok(text: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(text.encode())}\r\n\r\n{text}".encode()


def test_fetch_takes_an_address_with_or_without_the_rest_of_a_url() -> None:
    with peer(ok("nv_x 1\n")) as address:
        for url in (address, f"http://{address}", f"http://{address}/metrics", f"http://{address}/a b?c=d e"):
            assert asyncio.run(fetch(url)) == "nv_x 1\n"


def test_fetch_reads_what_lasts_until_the_end() -> None:
    text = "nv_x 1\n" * 50_000
    with peer(b"HTTP/1.1 200 OK\r\n\r\n" + text.encode()) as address:
        assert asyncio.run(fetch(address)) == text


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP 404: is this the server's --metrics-port"),
        (b"SSH-2.0-OpenSSH\r\n", "cannot read"),
        (b"", "cannot read"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "cannot read"),
    ],
)
def test_a_peer_without_metrics_is_told_of(says: bytes, reason: str) -> None:
    with peer(says) as address, pytest.raises(MetricsError, match=reason):
        asyncio.run(fetch(address))


def test_a_silent_peer_is_not_waited_for() -> None:
    with peer(b"HTTP/1.1 200 OK\r\n", hold=True) as address, pytest.raises(MetricsError, match=r"within 0\.1 s"):
        asyncio.run(fetch(address, 0.1))


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(MetricsError, match="cannot reach"):
        asyncio.run(fetch(f"http://127.0.0.1:{port}"))


@pytest.mark.parametrize("url", ["grpc://host/metrics", "http://", "http://host:port", "ftp://host", "http://[::1"])
def test_a_url_that_is_none_names_the_mend(url: str) -> None:
    with pytest.raises(MetricsError, match=r"--metrics-url .*: use http://HOST:8002/metrics"):
        asyncio.run(fetch(url))
