"""The small ONNX files of ``tests/data/onnx``: samples of each, what it computes alone, and how it is served.

Also by a real Triton, behind its Python backend.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.ragged import Padding
from drumfire.sut.kserve.messages.schemas import config_type
from drumfire.sut.local import backends
from drumfire.sut.local.backends import BackendOptions
from drumfire.sut.remote.triton_local import server as triton_local
from drumfire.sut.remote.triton_local.environment import LocalTritonError, check_platform
from drumfire.sut.remote.triton_local.server import LocalTriton
from drumfire.sut.serving import model as serving
from drumfire.sut.serving.model import Batching, ServedModel, Source

FILES = Path(__file__).parents[1] / "data" / "onnx"
NAMES = sorted(file.stem for file in FILES.glob("*.onnx"))
BF16 = "bfloat16"
ONE_SAMPLE = ("scalar_output", "output_without_batch")
"""Files that take one sample at a time."""
ON_TRITON = tuple(name for name in NAMES if name != BF16)
"""Triton's Python backend has no bfloat16."""
Sample = dict[str, np.ndarray]


def load(name: str, padding: Padding | None = None, **inputs: tuple[str, ...]) -> ServedModel:
    """``padded_NAME``: the file NAME."""
    source = Source(name, "1", FILES / f"{name.removeprefix('padded_')}.onnx", None, InputOptions(**inputs))
    batching = Batching(8, padding=padding)
    return serving.load(source, "onnxruntime", "cpu", threads=1, options=BackendOptions(), batching=batching)


def samples(name: str, rows: int, length: int = 3, seed: int = 0) -> Sample:
    """A batch, by input."""
    rng = np.random.default_rng(seed)

    def real(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    ids = rng.integers(0, 100, (rows, length))
    mask = np.ones((rows, length), np.int64)
    return {
        "two_inputs": lambda: {"input_ids": ids, "attention_mask": mask},
        "masked_text": lambda: {"input_ids": ids, "attention_mask": mask},
        "optional_input": lambda: {"input_ids": ids, "attention_mask": mask},
        "text_length": lambda: {"ids": ids.astype(np.int32)},
        "open_image": lambda: {"image": real(rows, 3, length, length + 1)},
        "bool": lambda: {"x": rng.integers(0, 2, (rows, 4)).astype(bool)},
        "string": lambda: {"x": np.array([[b"a", "\u00f6".encode(), b"", b"\0 d"]] * rows, object)},
        BF16: lambda: {"x": (real(rows, 4).view(np.uint32) >> 16).astype(np.uint16)},
        "float16": lambda: {"x": real(rows, 4).astype(np.float16)},
        "uint8": lambda: {"x": rng.integers(0, 256, (rows, 4)).astype(np.uint8)},
        "state": lambda: {"x": real(rows, 4), "state": real(rows, 2, 4), "rate": np.full(rows, 3)},
    }.get(name.removeprefix("padded_"), lambda: {"x": real(rows, 4)})()


def computed_alone(name: str, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """By the file itself, whose batch may be elsewhere."""
    onnxruntime = pytest.importorskip("onnxruntime")
    path = FILES / f"{name.removeprefix('padded_')}.onnx"
    given = dict(batch)
    if name == BF16:
        return list(backends.load("onnxruntime", path, "cpu", 1).run(given))
    if name == "state":
        given |= {
            "state": np.ascontiguousarray(np.moveaxis(given["state"], 0, 1)),
            "rate": np.asarray(given["rate"][0]),
        }
    if name == "string":
        given["x"] = np.frompyfunc(bytes.decode, 1, 1)(given["x"])
    if "bias" in given:
        given["bias"] = given["bias"][0]
    outputs = onnxruntime.InferenceSession(str(path)).run(None, given)
    if name == "state":
        outputs[1] = np.moveaxis(outputs[1], 1, 0)
    if name == "string":
        outputs[0] = np.frompyfunc(str.encode, 1, 1)(outputs[0])
    return [np.asarray(output)[None] if name in ONE_SAMPLE else output for output in outputs]


def same(found: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> None:
    assert len(found) == len(right)
    for one, wanted in zip(found, right, strict=True):
        assert (one.shape, one.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_array_equal(one, wanted)


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
"""A file behind Triton's Python backend."""


def _configuration(model: ServedModel) -> str:
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


@contextmanager
def real_triton() -> Iterator[LocalTriton]:
    """With the files ``ON_TRITON``; skips where it cannot run."""
    try:
        check_platform()
    except LocalTritonError as error:
        pytest.skip(str(error))
    usual = triton_local._repository

    def repository(folder: Path) -> Path:
        models = usual(folder)
        for name in ON_TRITON:
            code = models / name / "1"
            code.mkdir(parents=True)
            (code / "model.py").write_text(MODEL)
            shutil.copy(FILES / f"{name}.onnx", code / "model.onnx")
            (models / name / "config.pbtxt").write_text(_configuration(load(name)))
        return models

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(triton_local, "_repository", repository)
        with LocalTriton() as running:
            yield running
