"""``drumfire serve`` as a user types it: a real process, driven by Drumfire itself and by Triton's own clients."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.bench.view.serving import ModelView, View, Watch, draw, plain_line
from drumfire.sut.models import digits
from drumfire.sut.remote.figures import ServerFigures
from drumfire.sut.remote.kserve.memory import FOLDER
from drumfire.sut.serving.statistics import BatchTimes, Statistics
from tests.support.command import columns, drumfire, here, one_line_error, result_of, start
from tests.support.served import PORTS, Served, serving

QUIET = ["--json", "--no-dashboard"]
SMALL = {
    "SingleStream": ["--time", "0.3"],
    "MultiStream": ["--time", "0.3"],
    "Server": ["--qps", "700", "--time", "1", "--max-latency", "5"],
    "Offline": ["--qps", "60000", "--time", "0.2"],
}
over_both = pytest.mark.parametrize("protocol", ["grpc", "http"])


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    pytest.importorskip("onnxruntime")
    with serving("onnxruntime", "digits", "identity", "--max-batchsize", 16, "--instances", 2, "--threads", 1) as one:
        yield one
        one.end()


@pytest.mark.slow
@over_both
@pytest.mark.parametrize("scenario", SMALL)
def test_drumfire_drives_it_in_every_scenario(served: Served, protocol: str, scenario: str, tmp_path: Path) -> None:
    words = ["digits", "--scenario", scenario, *SMALL[scenario], *QUIET]
    done = here("run", "triton", *words, "--url", served.ready[protocol], "--output", tmp_path / "run")
    # How fast this machine is must not decide: an Offline run may end early on a faster one than was expected.
    result = result_of(done, done.returncode)
    assert result["validity"] == "VALID" or scenario == "Offline", result["reasons"]
    assert result["errors"]["failed"] == 0
    server = result["system"]["server"]
    assert server["reconciliation"]["requests"]["equal"]
    (told,) = server["servers"]
    assert told["inference_count"] == told["success"] == result["delivered"]["samples"]
    assert result["system"]["remote"]["dynamic_batching"] is True
    if scenario == "Server":  # whose traffic is that of a run in this process
        alone = here("run", "null", *words, "--output", tmp_path / "alone")
        assert alone.returncode == 0, alone.stderr
        tables = columns(tmp_path / "run"), columns(tmp_path / "alone")
        for name in ("sample_index", "scheduled"):
            assert tables[0][name].tobytes() == tables[1][name].tobytes()


@over_both
def test_its_accuracy_is_that_of_the_model(served: Served, protocol: str, tmp_path: Path) -> None:
    words = ["digits", "--url", served.ready[protocol], "--accuracy", "--scenario", "Offline", *QUIET]
    accuracy = result_of(here("run", "triton", *words, "--output", tmp_path / "run"), 0)["accuracy"]
    assert (accuracy["good"], accuracy["total"]) == (498, 500)


@over_both
def test_labels_of_a_user_judge_it(served: Served, protocol: str, tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.flip(digits.Digits().labels()[:100]))
    words = ["digits", "--url", served.ready[protocol], "--accuracy", "--scenario", "Offline", *QUIET]
    some = *words, "--count", "100"
    labels = "--labels", tmp_path / "labels.npy", "--metric", "top5:logits", "--quality", "0.99"
    accuracy = result_of(here("run", "triton", *some, *labels, "--output", tmp_path / "run"), 1)["accuracy"]
    assert (accuracy["metric"], accuracy["total"], accuracy["target"], accuracy["met"]) == ("top-5", 100, 0.99, False)
    one_line_error(here("run", "triton", *some, *labels[:2], "--metric", "top1:x"), "--metric top1:x: the model gives")
    one_line_error(here("run", "triton", *words, *labels), "labels.npy has 100 labels for 500 samples")


@over_both
def test_drumfire_hands_over_tensors_in_shared_memory(served: Served, protocol: str, tmp_path: Path) -> None:
    words = ["digits", "--url", served.ready[protocol], "--shared-memory", "system", "--accuracy", *QUIET]
    done = here("run", "triton", *words, "--scenario", "Offline", "--output", tmp_path / "run")
    assert result_of(done, 0)["accuracy"]["good"] == 498
    assert not list(FOLDER.glob(f"drumfire-{os.getpid()}-*"))


@over_both
def test_what_it_does_not_have(served: Served, protocol: str, tmp_path: Path) -> None:
    there = ["--url", served.ready[protocol], "--output", tmp_path / "out"]
    one_line_error(here("run", "triton", "resnet51", *there), "resnet51")
    one_line_error(here("run", "triton", "digits", "--model-version", "7", *there), "7")
    one_line_error(here("run", "triton", "identity", *there), "set them with --shape INPUT0=128")
    one_line_error(here("run", "triton", "digits", "--max-batchsize", "17", *there), "--max-batchsize 17", "16")
    assert not (tmp_path / "out").exists()


# Triton's own clients.


def client_library(protocol: str, *, aio: bool = False) -> Any:
    return pytest.importorskip(f"tritonclient.{protocol}{'.aio' if aio else ''}")


def inputs_of(library: Any, images: np.ndarray) -> list[Any]:
    given = library.InferInput("input", list(images.shape), "FP32")
    given.set_data_from_numpy(images)
    return [given]


IMAGES = digits.read().inputs[:12]


def labels(logits: np.ndarray) -> list[int]:
    assert logits.shape == (12, 10)
    found: list[int] = logits.argmax(axis=1).tolist()
    return found


LABELS = digits.read().labels[:12].tolist()


@over_both
def test_tritonclient_asks_everything(served: Served, protocol: str) -> None:
    library = client_library(protocol)
    client = library.InferenceServerClient(served.address(protocol))
    as_json = {"as_json": True} if protocol == "grpc" else {}
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert not client.is_model_ready("none")
    assert client.get_server_metadata(**as_json)["name"] == "drumfire"
    metadata = client.get_model_metadata("digits", **as_json)
    assert list(map(int, metadata["inputs"][0]["shape"])) == [-1, 1, 8, 8]
    config = client.get_model_config("digits", **as_json)
    config = config.get("config", config)
    assert config["max_batch_size"] == 16
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert {one["name"] for one in _listed(client.get_model_repository_index(**as_json))} == {"digits", "identity"}
    assert not _listed(client.get_system_shared_memory_status(**as_json))
    before = served.statistics("digits")["inference_count"]
    assert labels(client.infer("digits", inputs_of(library, IMAGES)).as_numpy("logits")) == LABELS
    outputs = [library.InferRequestedOutput("logits")]
    again = client.infer("digits", inputs_of(library, IMAGES), outputs=outputs, request_id="7", model_version="1")
    assert labels(again.as_numpy("logits")) == LABELS
    response = again.get_response()
    assert (response["id"] if protocol == "http" else response.id) == "7"
    assert served.statistics("digits")["inference_count"] == before + 24
    with pytest.raises(library.InferenceServerException, match="FP32\\[1,8,8\\]"):
        client.infer("digits", inputs_of(library, IMAGES[:, :, :4]))
    with pytest.raises(library.InferenceServerException, match="unknown model 'none'"):
        client.infer("none", inputs_of(library, IMAGES))
    client.close()


def _listed(told: Any) -> list[Any]:
    if isinstance(told, dict):  # gRPC's has a message around it
        told = told.get("models", told.get("regions", []))
    return list(told.values()) if isinstance(told, dict) else list(told)


def test_tritonclient_over_json(served: Served) -> None:
    library = client_library("http")
    client = library.InferenceServerClient(served.address("http"))
    given = library.InferInput("input", list(IMAGES.shape), "FP32")
    given.set_data_from_numpy(IMAGES, binary_data=False)
    outputs = [library.InferRequestedOutput("logits", binary_data=False)]
    assert labels(client.infer("digits", [given], outputs=outputs).as_numpy("logits")) == LABELS
    client.close()


@over_both
def test_tritonclient_aio_many_at_a_time(served: Served, protocol: str) -> None:
    library = client_library(protocol, aio=True)

    async def main() -> list[Any]:
        async with library.InferenceServerClient(served.address(protocol)) as client:
            asked = [client.infer("digits", inputs_of(library, IMAGES)) for _ in range(30)]
            return list(await asyncio.gather(*asked))

    assert [labels(one.as_numpy("logits")) for one in asyncio.run(main())] == [LABELS] * 30


def test_tritonclient_streams(served: Served) -> None:
    library = client_library("grpc")
    client = library.InferenceServerClient(served.address("grpc"))
    answers: list[Any] = []
    changed = threading.Condition()

    def answered(result: Any, error: Any) -> None:
        with changed:
            answers.append(error or result)
            changed.notify()

    client.start_stream(answered)
    for number in range(20):
        client.async_stream_infer("digits", inputs_of(library, IMAGES), request_id=str(number))
    client.async_stream_infer("none", inputs_of(library, IMAGES))
    with changed:
        assert changed.wait_for(lambda: len(answers) == 21, 20)
    assert [one.get_response().id for one in answers[:20]] == [str(number) for number in range(20)]
    assert [labels(one.as_numpy("logits")) for one in answers[:20]] == [LABELS] * 20
    assert "unknown model" in str(answers[20])
    client.stop_stream()
    client.close()


@over_both
def test_tritonclient_in_shared_memory(served: Served, protocol: str) -> None:
    library = client_library(protocol)
    shared_memory = pytest.importorskip("tritonclient.utils.shared_memory")
    client = library.InferenceServerClient(served.address(protocol))
    key = f"/drumfire-test-{os.getpid()}"
    handle = shared_memory.create_shared_memory_region("both", key, IMAGES.nbytes + 480)
    try:
        shared_memory.set_shared_memory_region(handle, [IMAGES])
        client.register_system_shared_memory("both", key, IMAGES.nbytes + 480)
        given = library.InferInput("input", list(IMAGES.shape), "FP32")
        given.set_shared_memory("both", IMAGES.nbytes)
        output = library.InferRequestedOutput("logits")
        output.set_shared_memory("both", 480, offset=IMAGES.nbytes)
        client.infer("digits", [given], outputs=[output])
        assert labels(shared_memory.get_contents_as_numpy(handle, np.float32, [12, 10], IMAGES.nbytes)) == LABELS
        output.set_shared_memory("both", 100, offset=IMAGES.nbytes)
        with pytest.raises(library.InferenceServerException, match="480 bytes does not fit in the 100 bytes"):
            client.infer("digits", [given], outputs=[output])
        client.unregister_system_shared_memory("both")
    finally:
        shared_memory.destroy_shared_memory_region(handle)
        client.close()


def test_the_metrics_agree_with_the_statistics(served: Served) -> None:
    told = served.statistics("digits")
    with urllib.request.urlopen(served.ready["metrics"], timeout=20) as answer:
        text = answer.read().decode()
    count = told["inference_count"]
    assert f'nv_inference_count{{model="digits",version="1"}} {count}\n' in text
    sizes = {one["batch_size"]: one["compute_infer"]["count"] for one in told["batch_stats"]}
    # Those that failed were computed, and did not fit in the shared memory that was named for them.
    assert sum(size * number for size, number in sizes.items()) == count + 12 * told["inference_stats"]["fail"]["count"]
    assert max(sizes) <= 16


# The command.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "digits"], ["BACKEND: unknown 'nothing'", "onnxruntime"]),
        (["onnxruntime", "nothing"], ["unknown model 'nothing'", "digits", "identity"]),
        (["onnxruntime", "x/nothing.onnx"], ["the model file x/nothing.onnx cannot be read: there is no such file"]),
        (["onnxruntime", "a=nothing.onnx"], ["the model file nothing.onnx cannot be read: there is no such file"]),
        (["onnxruntime", "=x"], ["give NAME=FILE"]),
        (["null", "digits"], ["null serves only identity"]),
        (["null", "identity", "--tls-cert", "x"], ["--tls-cert and --tls-key go together"]),
        (["null", "identity", "--tls-cert", "x", "--tls-key", "y"], ["No such file"]),
        (["null", "identity", "--token-file", "x"], ["--token-file x cannot be read"]),
        (["null", "identity", "--http-port", "70000"], ["--http-port: must be at most 65,535"]),
        (["null", "identity", "--host", "999.1.1.1"], ["--host 999.1.1.1"]),
        (["null", "identity", "--host", "192.0.2.1"], ["--host 192.0.2.1"]),
        (["null", "identity", "--preferred-batchsize", "4,x"], ["--preferred-batchsize: 'x' is not a whole number"]),
        (["null", "identity", "--preferred-batchsize", "64"], ["above --max-batchsize 32"]),
        (["null", "identity", "--max-batchsize", "1000000"], ["at most 65,535"]),
        (["onnxruntime", "digits", "--precision", "bf16"], ["no effect with onnxruntime, only with pytorch, tf"]),
        (["onnxruntime", "digits", "--pad", "most"], ["--pad 'most': use longest, a size such as 128, or buckets:"]),
        (["onnxruntime", "digits", "--pad", "longest"], ["--pad longest: digits takes samples of one size"]),
        (["null", "identity", "--pad", "16"], ["--pad 16: identity gives rows back as they are: leave it out"]),
    ],
)
def test_what_can_not_be_is_told_in_one_line(arguments: list[str], words: list[str]) -> None:
    done = here("serve", *arguments, *(() if "--http-port" in arguments else PORTS))
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.strip().split("\n") if not line.startswith("loading ")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = drumfire("serve", "null", "identity", "--http-port", port, "--grpc-port", 0, "--metrics-port", 0)
    one_line_error(done, f"port {port} of 127.0.0.1 is in use: give another with --http-port")


def test_versions_and_files_by_name() -> None:
    pytest.importorskip("onnxruntime")
    with serving("onnxruntime", "digits", f"digits={digits.WEIGHTS}", f"mine={digits.WEIGHTS}", "cpu") as one:
        with urllib.request.urlopen(f"{one.ready['http']}/v2/models/digits", timeout=20) as answer:
            assert json.load(answer)["versions"] == ["1", "2"]
        assert one.ready["models"] == ["digits", "mine"]
        assert "digits 2: 0 requests answered" in one.end()


def test_lines_without_a_terminal() -> None:
    process = start("serve", "null", "identity", *PORTS)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("identity version 1: INPUT0 FP32[-1] -> OUTPUT0 FP32[-1], batches of 32")
        process.stdout.readline()
        ready = process.stdout.readline()
        assert ready.startswith("ready (Ctrl-C ends it): http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert "\x1b" not in stdout + stderr
    assert "draining: 0 requests are under way" in stderr


def test_a_second_signal_ends_at_once() -> None:
    """A client that does not read its answer holds up the end, for as long as it is let."""
    with serving("null", "identity", "--drain-timeout", 300) as one:
        host, port = one.address("http").split(":")
        width = 5_000_000
        given = {
            "name": "INPUT0",
            "datatype": "FP32",
            "shape": [1, width],
            "parameters": {"binary_data_size": 4 * width},
        }
        text = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
        head = (
            "POST /v2/models/identity/infer HTTP/1.1\r\nHost: x\r\n"
            f"Content-Length: {len(text) + 4 * width}\r\nInference-Header-Content-Length: {len(text)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), timeout=60) as peer:
            peer.sendall(head.encode() + text + bytes(4 * width))
            peer.recv(1)  # it is on its way, and most of it has no room
            one.process.send_signal(signal.SIGTERM)
            assert one.process.stderr is not None
            assert "draining: 0 requests" in one.process.stderr.readline()
            one.process.send_signal(signal.SIGTERM)
            _, stderr = one.process.communicate(timeout=60)
        assert one.process.returncode == 130
        assert "ended at once" in stderr


def test_the_end_of_its_terminal_ends_it_and_a_daemons_reads_tokens_again(tmp_path: Path) -> None:
    def as_in_a_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-some-length\n")
    words = ["serve", "null", "identity", *PORTS, "--json", "--drain-timeout", "1"]
    with start(*words, preexec_fn=as_in_a_terminal) as process:
        Served(process).process.send_signal(signal.SIGHUP)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "draining: 0 requests" in stderr
    with start(*words, "--token-file", tokens, preexec_fn=as_in_a_terminal) as process:
        server = Served(process)
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        assert f"read {tokens} again" in process.stderr.readline()
        server.end()


def look(at_s: float, statistics: Statistics) -> dict[str, Any]:
    told = statistics.model_stats("digits", "1")
    gpus = {"GPU-1": {"nv_gpu_utilization": 0.5, "nv_gpu_power_usage": 300.0, "nv_gpu_memory_used_bytes": 2.0**31}}
    model = {"statistics": told, "waiting": 3, "under_way": 7, "padding": 0.25}
    return {"at_ns": round(at_s * 1e9), "connections": 4, "note": "read it again", "gpus": gpus, "models": [model]}


def test_the_status_view_tells_of_the_last_seconds() -> None:
    statistics, watch = Statistics(), Watch()
    statistics.batch(1000, 1000, 0, BatchTimes(1, 2, 3, 4), 1000)
    watch.see(look(0, statistics))
    watch.see(look(5, statistics))
    for _ in range(10):
        statistics.batch(4, 8, 4 * 1_000_000, BatchTimes(1_200_000, 1_200_000, 2_200_000, 2_200_000), 8)
    statistics.failed("BACKEND", 2, 5)
    view = watch.see(look(7, statistics))
    (model,) = view.models
    assert model.recent.rate == pytest.approx(20)
    assert model.recent.mean_batch_size == 8
    assert model.recent.queue_ns == pytest.approx(200_000)
    assert model.recent.compute_ns == pytest.approx(1_000_000)
    assert (model.answered, model.failed, model.under_way) == (1040, 2, 7)
    line = plain_line(view)
    for words in (
        "digits 1: 20.0/s",
        "batch 8.0",
        "queue 200 us",
        "compute 1.00 ms",
        "7 under way",
        "25% padding",
        "4 connections",
    ):
        assert words in line
    for width in (60, 80, 200):
        drawn = draw(view, width).plain
        for words in ("digits 1", "20.0/s", "1,040", "4 connections", "1 GPU 50% 300 W 2.0 GiB", "read it again"):
            assert words in drawn


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("name", ["m 1", "a-model-of-a-long-name 12", "a-model-whose-name-is-cut-as-it-is-too-long 1"])
@pytest.mark.parametrize("large", [False, True])
def test_the_columns_of_the_status_view_keep_apart(width: int, name: str, large: bool) -> None:
    recent = ServerFigures(1234567.0 if large else 2.0, 1234.5 if large else 8.0, 1e13 if large else 2e5, 1e6)
    answered = 1_234_567_890 if large else 1
    view = View([ModelView(name, recent, answered, 0, 0, 7), ModelView("m 2", recent, 0, 3, 0, 0)], 1, None, "")
    lines = draw(view, width).plain.split("\n")
    assert all(len(line) <= max(width, 60) - 1 for line in lines) or large
    heads, one, two = (re.split("  +", line.strip()) for line in lines[:3])
    assert len(heads) == len(one) == len(two)
    assert {"model", "now", "in flight", "answered", "failed"} <= set(heads)
    assert {"batch", "queue", "compute"} <= set(heads) or width < 100
    assert dict(zip(heads, one, strict=True))["answered"] == f"{answered:,}"
    assert "1 connection" in lines
