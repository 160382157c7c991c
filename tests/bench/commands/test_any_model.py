"""Files of every kind in every scenario: in process, behind ``serve`` over each protocol, and behind a real Triton."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from drumfire.sut.remote.triton_local.server import LocalTriton
from tests.support.command import here
from tests.support.running_server import Running
from tests.support.small_files import FILES, NAMES, ON_TRITON, ONE_SAMPLE, load, real_triton

pytest.importorskip("onnxruntime")

SCENARIOS = ("SingleStream", "MultiStream", "Server", "Offline")
HERE = {
    "two_inputs": ["--dim", "sequence=4..9"],
    "optional_input": ["--dim", "sequence=5", "--shape", "bias=8"],
    "text_length": ["--dim", "sequence=7"],
    "masked_text": ["--dim", "sequence=7"],
    "open_image": ["--dim", "height=4", "--dim", "width=6"],
}
"""Open sizes, by name."""
REMOTE = {
    "two_inputs": ["--shape", "input_ids=5", "--shape", "attention_mask=5", "--range", "input_ids=0..99"],
    "optional_input": ["--shape", "input_ids=5", "--shape", "attention_mask=5", "--range", "input_ids=0..99"],
    "text_length": ["--shape", "ids=7", "--range", "ids=0..99"],
    "masked_text": ["--shape", "input_ids=5", "--shape", "attention_mask=5", "--range", "input_ids=0..99"],
    "open_image": ["--shape", "image=3x4x6"],
    "state": ["--range", "rate=3..3"],
}
"""A server has no names of sizes."""
FORMS = {
    "grpc": ("grpc", []),
    "HTTP, binary": ("http", ["--tensors", "binary"]),
    "HTTP, JSON": ("http", ["--tensors", "values"]),
}


def result_of(words: Sequence[Any], scenario: str, folder: Path) -> dict[str, Any]:
    few = ["--count", "24"] if scenario != "Offline" else ["--qps", "100"]
    rate = ["--qps", "200"] if scenario == "Server" else []
    done = here(
        "run", *words, "--scenario", scenario, *few, *rate, "--time", "0.05", "--json", "--no-dashboard",
        "--output", folder / "run",
    )  # fmt: skip
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def check(result: dict[str, Any]) -> None:
    assert result["errors"]["failed"] == result["errors"]["refused"] == result["errors"]["unanswered"] == 0
    assert result["delivered"]["samples"] >= 5


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(one, marks=[pytest.mark.slow] if one in ("MultiStream", "Server") else []) for one in SCENARIOS],
)
@pytest.mark.parametrize("name", NAMES)
def test_in_process(name: str, scenario: str, tmp_path: Path) -> None:
    own = [] if scenario == "SingleStream" else ["--processes", "0"]
    result = result_of(["onnxruntime", FILES / f"{name}.onnx", *HERE.get(name, []), *own], scenario, tmp_path)
    check(result)
    assert (result["system"]["max_batch_size"] == 1) == (name in ONE_SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["Server", "Offline"])
@pytest.mark.parametrize("name", NAMES)
def test_in_a_process_of_its_own(name: str, scenario: str, tmp_path: Path) -> None:
    words = ["onnxruntime", FILES / f"{name}.onnx", *HERE.get(name, []), "--processes", "1"]
    check(result_of(words, scenario, tmp_path))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running(*map(load, NAMES)) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_served(name: str, form: str, scenario: str, server: Running, tmp_path: Path) -> None:
    protocol, options = FORMS[form]
    url = f"{protocol}://{getattr(server.addresses, protocol)}"
    words = ["triton", name, "--url", url, *options, *REMOTE.get(name, [])]
    if name == "bfloat16" and form == "HTTP, JSON":  # which has no form for its bits
        done = here("run", *words, "--count", "5", "--no-dashboard", "--output", tmp_path / "run")
        assert done.returncode == 2
        assert "BF16" in done.stderr.splitlines()[-1]
        return
    check(result_of(words, scenario, tmp_path))


@pytest.fixture(scope="module")
def triton() -> Iterator[LocalTriton]:
    with real_triton() as running:
        yield running


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("name", ON_TRITON)
def test_behind_triton(name: str, protocol: str, scenario: str, triton: LocalTriton, tmp_path: Path) -> None:
    words = ["triton", name, "--url", f"{protocol}://{getattr(triton, protocol)}", *REMOTE.get(name, [])]
    check(result_of(words, scenario, tmp_path))
