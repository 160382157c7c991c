"""Files of every kind in every scenario: in process, behind ``serve`` over each protocol, and behind a real Triton."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from drumfire.sut.data.options import InputOptions
from drumfire.sut.kserve.messages.schemas import config_type
from drumfire.sut.local.backends import BackendOptions
from drumfire.sut.remote.triton_local import server as triton_local
from drumfire.sut.remote.triton_local.environment import LocalTritonError, check_platform
from drumfire.sut.remote.triton_local.server import LocalTriton
from drumfire.sut.serving import model as serving
from drumfire.sut.serving.model import Batching, ServedModel, Source
from tests.support.command import here
from tests.support.running_server import Running

pytest.importorskip("onnxruntime")

FILES = Path(__file__).parents[2] / "data" / "onnx"
NAMES = sorted(file.stem for file in FILES.glob("*.onnx"))
SCENARIOS = ("SingleStream", "MultiStream", "Server", "Offline")
BATCH_OF_ONE = ("scalar_output", "output_without_batch")
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
    assert (result["system"]["max_batch_size"] == 1) == (name in BATCH_OF_ONE)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["Server", "Offline"])
@pytest.mark.parametrize("name", NAMES)
def test_in_a_process_of_its_own(name: str, scenario: str, tmp_path: Path) -> None:
    words = ["onnxruntime", FILES / f"{name}.onnx", *HERE.get(name, []), "--processes", "1"]
    check(result_of(words, scenario, tmp_path))


def loaded(name: str) -> ServedModel:
    source = Source(name, "1", FILES / f"{name}.onnx", None, InputOptions())
    return serving.load(source, "onnxruntime", "cpu", threads=1, options=BackendOptions(), batching=Batching(8))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running(*map(loaded, NAMES)) as running:
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


MODEL = """
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        self._session = onnxruntime.InferenceSession(str(Path(__file__).with_name("model.onnx")))
        self._takes = {one.name: one.type for one in self._session.get_inputs()}

    def execute(self, requests):
        answers = []
        for request in requests:
            given = {one.name(): one.as_numpy() for one in request.inputs()}
            if "rate" in given:
                given["rate"] = np.asarray(given["rate"].reshape(-1)[0])
                given["state"] = np.ascontiguousarray(np.moveaxis(given["state"], 0, 1))
            if "bias" in given:
                given["bias"] = given["bias"][0]
            for name, kind in self._takes.items():
                if kind == "tensor(string)":
                    given[name] = np.frompyfunc(bytes.decode, 1, 1)(given[name])
            outputs = self._session.run(None, given)
            made = []
            for spec, output in zip(self._session.get_outputs(), outputs):
                if spec.name == "new_state":
                    output = np.moveaxis(output, 1, 0)
                if spec.name in ("total", "columns", "largest", "place"):
                    alone = np.ndim(output) == 0 or spec.name == "columns"
                    output = np.asarray(output).reshape(1 if alone else len(output), -1)
                if output.dtype == object:
                    output = np.frompyfunc(str.encode, 1, 1)(output)
                made.append(triton.Tensor(spec.name, np.ascontiguousarray(output)))
            answers.append(triton.InferenceResponse(made))
        return answers
"""
"""A file behind Triton's Python backend, which has no bfloat16."""


def configuration(model: ServedModel) -> str:
    """Of Triton, which needs a size where a tensor has none."""

    def one(spec: Any) -> str:
        optional = " optional: true" if getattr(spec, "optional", False) else ""
        dims = list(spec.shape) or [1]
        return f'{{ name: "{spec.name}" data_type: {config_type(spec.datatype)} dims: {dims}{optional} }}'

    tensors = (
        f"{kind} [ {', '.join(map(one, specs))} ]"
        for kind, specs in (("input", model.interface.inputs), ("output", model.interface.outputs))
    )
    most = f"max_batch_size: {model.interface.max_batch_size}"
    return "\n".join(
        [f'name: "{model.name}"', 'backend: "python"', most, *tensors, "instance_group [ { kind: KIND_CPU } ]"]
    )


@pytest.fixture(scope="module")
def triton() -> Iterator[LocalTriton]:
    """A real Triton with the same files."""
    try:
        check_platform()
    except LocalTritonError as error:
        pytest.skip(str(error))
    usual = triton_local._repository

    def repository(folder: Path) -> Path:
        models = usual(folder)
        for name in NAMES:
            if name == "bfloat16":
                continue
            code = models / name / "1"
            code.mkdir(parents=True)
            (code / "model.py").write_text(MODEL)
            shutil.copy(FILES / f"{name}.onnx", code / "model.onnx")
            (models / name / "config.pbtxt").write_text(configuration(loaded(name)))
        return models

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(triton_local, "_repository", repository)
        with LocalTriton() as running:
            yield running


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "bfloat16"])
def test_behind_triton(name: str, protocol: str, scenario: str, triton: LocalTriton, tmp_path: Path) -> None:
    words = ["triton", name, "--url", f"{protocol}://{getattr(triton, protocol)}", *REMOTE.get(name, [])]
    check(result_of(words, scenario, tmp_path))
