"""Real servers that are no Triton, mlserver and kserve, over HTTP and gRPC, with binary tensors and with values."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.serving import environments, servers
from tests.support.command import here, one_line_error, result_of

# The environments are large, and the servers take seconds to start.
pytestmark = [pytest.mark.slow, pytest.mark.extra]

ROWS = [[float(at), 1.5, 1e-30, -0.0] for at in range(8)]
TRAFFIC: dict[str, list[object]] = {
    "SingleStream": ["--time", 0.3],
    "Server": ["--qps", 400, "--time", 1.2, "--max-latency", 5000],  # as many queries as early stopping asks for
    "Offline": ["--qps", 20_000, "--time", 0.1, "--max-batchsize", 3],
}


@pytest.fixture(scope="module", params=[environments.MLSERVER, environments.KSERVE])
def peer(request: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """A server's name, and its URLs by protocol."""
    start = {environments.MLSERVER: servers.mlserver, environments.KSERVE: servers.kserve}[request.param]
    try:
        python = environments.python(request.param, lambda line: print(line, file=sys.stderr))
    except MeasurementError as error:
        pytest.skip(str(error))
    with start(python) as running:
        yield request.param, {"grpc": f"grpc://{running.grpc}", "http": f"http://{running.http}"}


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    """Of a run whose every answer is compared."""
    return [
        "run",
        "triton",
        "identity",
        "--json",
        "--no-dashboard",
        "--output",
        tmp_path / "run",
        *data(tmp_path, ROWS),
    ]


def data(folder: Path, rows: list[list[float]]) -> list[object]:
    document = {"data": [{"INPUT0": row} for row in rows], "validation_data": [{"OUTPUT0": row} for row in rows]}
    (folder / "inputs.json").write_text(json.dumps(document))
    return ["--input-data", folder / "inputs.json"]


@pytest.mark.parametrize("scenario", TRAFFIC)
@pytest.mark.parametrize("tensors", ["auto", "values"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_run_is_valid(
    peer: tuple[str, dict[str, str]], words: list[object], protocol: str, tensors: str, scenario: str
) -> None:
    name, urls = peer
    done = here(*words, "--url", urls[protocol], "--tensors", tensors, "--scenario", scenario, *TRAFFIC[scenario])
    result = result_of(done, 0)
    assert (result["validity"], result["errors"]["failed"]) == ("VALID", 0)
    lacks_binary = (name, protocol) == (environments.MLSERVER, "http")
    wanted = "values" if lacks_binary or tensors == "values" else "binary"
    assert result["system"]["remote"]["tensors"] == wanted
    assert ("refuses binary contents" in done.stderr) == (lacks_binary and tensors == "auto")


def test_binary_tensors_are_told_apart(peer: tuple[str, dict[str, str]], words: list[object]) -> None:
    name, urls = peer
    done = here(*words, "--url", urls["http"], "--tensors", "binary", "--time", 0.3)
    if name == environments.MLSERVER:
        one_line_error(done, f"the check before the run failed: {urls['http']}", "HTTP 500")
    else:
        assert result_of(done, 0)["system"]["remote"]["tensors"] == "binary"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_model_that_is_not_there(peer: tuple[str, dict[str, str]], words: list[object], protocol: str) -> None:
    words[2] = "nothing"
    one_line_error(here(*words, "--url", peer[1][protocol]), "ModelMetadata of 'nothing': ")


def test_what_is_not_finite_comes_back(peer: tuple[str, dict[str, str]], words: list[object], tmp_path: Path) -> None:
    """Both write it as null."""
    data(tmp_path, [[1.0, float("nan"), 2.0, 3.0]])
    result_of(here(*words, "--url", peer[1]["http"], "--tensors", "values", "--time", 0.3), 0)
