"""perf_analyzer drives the small files on our server, and checks each answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.serving import perf_analyzer
from tests.support.running_server import Running
from tests.support.small_files import Sample, computed_alone, load, samples
from tests.support.triton import made_perf_analyzer

pytest.importorskip("onnxruntime")
# It is installed with the real Triton.
pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.extra]
CASES = {
    "two_inputs": ("two_inputs", False),
    "strings": ("string", False),
    "an open image": ("open_image", False),
    "without the optional input": ("optional_input", False),
    "with the optional input": ("optional_input", True),
}
OUTPUTS = {"two_inputs": "vector", "string": "y", "open_image": "mean", "optional_input": "vector"}


@pytest.fixture(scope="module")
def program() -> tuple[Path, Mapping[str, str]]:
    return made_perf_analyzer()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running(*map(load, OUTPUTS)) as running:
        yield running


def sample(name: str, seed: int, *, biased: bool) -> Sample:
    if name == "string":  # of text that JSON can hold
        return {"x": np.array([[f"text {seed}".encode(), "\u00f6".encode(), b"", b"d"]], object)}
    bias = {"bias": np.arange(8, dtype=np.float32)[None]} if biased else {}
    return samples(name, 1, 3 + seed, seed) | bias


def written(path: Path, name: str, batches: Sequence[Sample], *, wrong: bool = False) -> Path:
    """The requests, of different shapes where the model takes them, with the answers that are right."""

    def one(array: np.ndarray) -> dict[str, Any]:
        values = array[0].reshape(-1).tolist()
        texts = [value.decode() if isinstance(value, bytes) else value for value in values]
        return {"content": texts, "shape": list(array.shape[1:])}

    data = [{key: one(array) for key, array in batch.items()} for batch in batches]
    right = [{OUTPUTS[name]: one(computed_alone(name, batch)[0])} for batch in batches]
    if wrong:
        content = right[-1][OUTPUTS[name]]["content"]
        content[0] = f"{content[0]}!" if name == "string" else content[0] + 1
    path.write_text(json.dumps({"data": data, "validation_data": right}))
    return path


def driven(
    server: Running, program: tuple[Path, Mapping[str, str]], name: str, way: str, data: Path
) -> tuple[int, int]:
    """Requests that it was answered, and those that failed."""

    def counts() -> tuple[int, int]:
        (found,) = server.ask("GET", f"/v2/models/{name}/stats")[1]["model_stats"]
        return found["inference_count"], found["inference_stats"]["fail"]["count"]

    before = counts()
    addresses = {"grpc": server.addresses.grpc, "http": server.addresses.http}
    assert perf_analyzer.check(*program, way, model=name, options=("--input-data", str(data)), **addresses) > 0
    good, failed = np.subtract(counts(), before).tolist()
    return good, failed


@pytest.mark.parametrize("way", ["gRPC", "gRPC, async streaming", "HTTP", "HTTP, async"])
@pytest.mark.parametrize("case", CASES)
def test_it_drives_them_and_finds_each_answer_right(
    case: str, way: str, server: Running, program: tuple[Path, Mapping[str, str]], tmp_path: Path
) -> None:
    name, biased = CASES[case]
    batches = [sample(name, seed, biased=biased) for seed in range(4)]
    good, failed = driven(server, program, name, way, written(tmp_path / "data.json", name, batches))
    assert good > 10
    assert failed == 0


@pytest.mark.parametrize("way", ["gRPC", "HTTP"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_it_would_say_if_one_were_wrong(
    name: str, way: str, server: Running, program: tuple[Path, Mapping[str, str]], tmp_path: Path
) -> None:
    batches = [sample(name, seed, biased=False) for seed in range(4)]
    data = written(tmp_path / "data.json", name, batches, wrong=True)
    with pytest.raises(MeasurementError, match=r"Output (size )?doesn't match expected"):
        driven(server, program, name, way, data)
