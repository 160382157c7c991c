"""``drumfire run triton`` against our own server in this process, with small files of several and of open inputs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import drumfire
from drumfire.sut.data.lengths import Lengths
from drumfire.sut.data.options import InputOptions
from drumfire.sut.local.backends import BackendOptions
from drumfire.sut.serving import model as serving
from drumfire.sut.serving.model import Batching, Source
from tests.support.command import Done, columns, here, one_line_error
from tests.support.running_server import Running

pytest.importorskip("onnxruntime")

FILES = Path(__file__).parents[2] / "data" / "onnx"
NAMES = ("two_inputs", "open_image", "string")
IDS = ["--shape", "input_ids=8", "--shape", "attention_mask=8"]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    sources = [Source(name, "1", FILES / f"{name}.onnx", None, InputOptions()) for name in NAMES]
    details: dict[str, Any] = {"threads": 1, "options": BackendOptions(), "batching": Batching(8)}
    with Running(*(serving.load(one, "onnxruntime", "cpu", **details) for one in sources)) as running:
        yield running


@pytest.fixture
def run(server: Running, tmp_path: Path) -> Any:
    """Runs a model over a protocol, with further words."""

    def running(model: str, protocol: str, *words: object) -> Done:
        url = f"{protocol}://{getattr(server.addresses, protocol)}"
        if "--scenario" not in words:
            words = ("--scenario", "SingleStream", *words)
        return here("run", "triton", model, "--url", url, *words, "--no-dashboard", "--output", tmp_path / "run")

    return running


def result(done: Done) -> dict[str, Any]:
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["errors"]["failed"] == 0, found["errors"]
    return found


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("words", [[], ["--shared-memory", "system"]], ids=["sent", "shared"])
def test_random_values_beyond_a_table_name_the_option(words: list[str], protocol: str, run: Any) -> None:
    done = run("two_inputs", protocol, *IDS, *words)
    one_line_error(done, "indices element out of data bounds", "(say which values an input may have: --range input_ids")
    assert done.stderr.endswith("--range input_ids=0..N)\n")  # and not those of the mask, which are 1


def test_the_first_failure_ends_the_check(run: Any, server: Running) -> None:
    before = server.counts("two_inputs")
    assert run("two_inputs", "grpc", *IDS, "--range", "input_ids=100..200").returncode == 2
    after = server.counts("two_inputs")
    assert (after["fail"] - before["fail"], after["success"] - before["success"]) == (1, 0)


@pytest.mark.parametrize(
    ("words", "most"),
    [
        (["--count", 10], 20),
        (["--count", 10, "--scenario", "MultiStream", "--samples-per-query", 2], 40),
        (["--count", 10, "--scenario", "Server", "--time", 0.1], 20),
        (["--scenario", "Server", "--qps", 100, "--time", 0.1], 64 + 100),
    ],
)
def test_the_check_sends_no_more_than_the_run(words: list[object], most: int, run: Any, server: Running) -> None:
    before = server.counts("two_inputs")["success"]
    done = run("two_inputs", "grpc", *IDS, "--range", "input_ids=0..99", *words, "--json")
    sent, check = result(done)["delivered"]["samples"], server.counts("two_inputs")["success"] - before
    assert sent < check <= most


LENGTHS = ["--shape", "input_ids=8..16", "--shape", "attention_mask=8..16", "--range", "input_ids=0..99"]


@pytest.mark.parametrize(
    "words",
    [[], ["--shared-memory", "system"]],
    ids=["sent", "shared"],
)
def test_samples_of_different_sizes_are_told(words: list[str], run: Any, tmp_path: Path) -> None:
    found = result(run("two_inputs", "grpc", *LENGTHS, "--count", 50, *words, "--json"))
    sizes, delivered = columns(tmp_path / "run")["size"], found["delivered"]
    assert found["system"]["sizes"] == {"mean": sizes.mean(), "least": 8, "most": 16}
    assert delivered["elements_per_second"] == pytest.approx(sizes.mean() * delivered["samples_per_second"])
    lengths = Lengths(8, 16).draw(128, 1, "0")
    shapes = [lengths[index] for index in columns(tmp_path / "run")["sample_index"].tolist()]
    assert sizes.tolist() == shapes
    report = (tmp_path / "run" / "report.txt").read_text()
    assert re.search(r"\nsizes +8 to 16 elements, mean 1[0-9.]+; [0-9,.]+ elements a second\n", report)


def test_samples_of_one_size_have_none(run: Any, tmp_path: Path) -> None:
    found = result(run("two_inputs", "grpc", *IDS, "--range", "input_ids=0..99", "--count", 5, "--json"))
    assert "sizes" not in found["system"]
    assert "elements_per_second" not in found["delivered"]
    assert "size" not in columns(tmp_path / "run")


@pytest.mark.parametrize(
    ("protocol", "words"),
    [("grpc", []), ("http", []), pytest.param("grpc", ["--client", "tritonclient"], marks=pytest.mark.extra)],
    ids=["grpc", "http", "tritonclient"],
)
@pytest.mark.parametrize("mode", [["--accuracy"], ["--qps", 300, "--time", 0.1]], ids=["accuracy", "performance"])
def test_a_request_holds_samples_of_one_shape(
    mode: list[object], protocol: str, words: list[str], run: Any, tmp_path: Path
) -> None:
    lengths = [3] * 4 + [5] * 20 + [3, 5] * 4
    lines = [json.dumps({"input_ids": [7] * length, "attention_mask": [1] * length}) for length in lengths]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    (tmp_path / "labels.txt").write_text("0\n" * len(lines))
    data = ["--input-data", tmp_path / "texts.jsonl", "--labels", tmp_path / "labels.txt", "--scenario", "Offline"]
    done = run("two_inputs", protocol, *data, *words, *mode, "--max-batchsize", 8)
    assert "note: --max-batchsize 8: samples differ in shape, and a request holds samples of one shape" in done.stdout
    saved = drumfire.load(tmp_path / "run")
    found = saved.result
    assert (found["errors"]["failed"], found["errors"]["unanswered"]) == (0, 0)
    alike = [len([*group]) for _, group in groupby(lengths[index] for index in saved.columns["sample_index"].tolist())]
    requests = sum(math.ceil(count / 8) for count in alike)
    assert found["system"]["server"]["servers"][0]["success"] == requests
    assert "--accuracy" not in mode or found["accuracy"]["total"] == len(lines)
