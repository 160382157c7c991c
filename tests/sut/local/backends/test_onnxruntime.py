"""ONNX Runtime: any input name, and a GPU that is really used or an error, with stand-ins where no GPU is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.sut.local import backends
from drumfire.sut.local.backends import BackendError
from drumfire.sut.local.backends import onnxruntime as backend
from drumfire.sut.models.tensors import Input, Tensors

onnxruntime = pytest.importorskip("onnxruntime")

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Options:
    """Session options that can be asked what they were told."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class Argument:
    type = "tensor(float)"

    def __init__(self, name: str) -> None:
        self.name, self.shape = name, ["N", 3]


class Session:
    """On ``used`` in the end; ``refuses``: how it answers to being allowed no operator on the CPU, and to the other."""

    used = CUDA
    refuses: tuple[str | None, str | None] = (None, None)

    def __init__(self, model: str, options: Options, providers: list[str]) -> None:
        assert providers == [CUDA]
        strict = options.entries["session.disable_cpu_ep_fallback"] == "1"
        if text := self.refuses[0 if strict else 1]:
            raise RuntimeError(text)

    def get_providers(self) -> list[str]:
        return [self.used, CPU]

    def get_inputs(self) -> list[Argument]:
        return [Argument("x")]

    def get_overridable_initializers(self) -> list[Argument]:
        return []

    def get_outputs(self) -> list[Argument]:
        return [Argument("y")]

    def run(self, outputs: list[str], batch: Any) -> list[Any]:
        raise AssertionError("only loaded here")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Loads a model on the GPU of a machine whose sessions are as told."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    (tmp_path / "model.onnx").write_bytes(b"a model")

    def load(**session: Any) -> backends.Backend:
        monkeypatch.setattr(onnxruntime, "InferenceSession", type("Told", (Session,), session))
        return backends.load("onnxruntime", tmp_path / "model.onnx", "gpu", 1)

    return load


def test_a_model_that_is_whole_on_the_gpu(gpu: Any) -> None:
    assert gpu().description == f"onnxruntime {onnxruntime.__version__} {CUDA}"


def test_operators_on_the_cpu_are_told(gpu: Any) -> None:
    loaded = gpu(refuses=("a node was given to the CPU", None))
    assert loaded.description == f"onnxruntime {onnxruntime.__version__} {CUDA}, some operators on the CPU"


def test_a_silent_fall_back_is_an_error(gpu: Any) -> None:
    with pytest.raises(BackendError, match=f"^asked for {CUDA}, but onnxruntime fell back to {CPU}: check the GPU"):
        gpu(used=CPU)
    with pytest.raises(BackendError, match="fell back"):
        gpu(used=CPU, refuses=("no libcudnn", None))


def test_a_gpu_that_fails_is_one_line(gpu: Any) -> None:
    with pytest.raises(BackendError, match=r"^onnxruntime cannot load .*model\.onnx on the gpu: out of memory$"):
        gpu(refuses=("strict", "out of memory\nand pages of advice"))


def test_a_wheel_without_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    (tmp_path / "model.onnx").write_bytes(b"a model")
    with pytest.raises(BackendError, match=r"this onnxruntime has no CUDA: .*onnx-gpu"):
        backends.load("onnxruntime", tmp_path / "model.onnx", "gpu", 1)


def test_both_wheels_break_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "versions", lambda names: dict.fromkeys(names, "1.0"))
    with pytest.raises(BackendError, match=r"are both installed and break each other: .*pip uninstall both"):
        backend.check_installation()
    monkeypatch.setattr(backend, "versions", lambda names: dict.fromkeys(names))
    with pytest.raises(BackendError, match=r"not installed: .*pip install"):
        backend.check_installation()


def network(path: Path, inputs: dict[str, int], operator: str = "Sum") -> Path:
    """The sum of inputs of the given ONNX types."""
    onnx = pytest.importorskip("onnx")
    kind = next(iter(inputs.values()))
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, list(inputs), ["out"])],
        "network",
        [onnx.helper.make_tensor_value_info(name, one, ["N", 2]) for name, one in inputs.items()],
        [onnx.helper.make_tensor_value_info("out", kind, ["N", 2])],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize("name", ["input", "image_tensor:0", "any name at all"])
def test_any_input_name(name: str, tmp_path: Path) -> None:
    loaded = backends.load("onnxruntime", network(tmp_path / "model.onnx", {name: 1}), "cpu", 1)
    batch = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert loaded.tensors == Tensors((Input(name, (2,), np.dtype(np.float32)),), ("out",), "N")
    np.testing.assert_array_equal(loaded.run({name: batch})[0], batch)


TYPES = {
    "FLOAT": np.array([[1.5, -2]], np.float32),
    "FLOAT16": np.array([[1.5, -2]], np.float16),
    "DOUBLE": np.array([[1e300, -2]]),
    "BOOL": np.array([[True, False]]),
    "STRING": np.array([["Füße".encode(), b""]], object),
    "BFLOAT16": np.array([[0x3FC0, 0xC000]], np.uint16),  # 1.5 and -2
    **{f"INT{bits}": np.array([[-7, 100]], f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.array([[200, 7]], f"u{bits // 8}") for bits in (8, 16, 32, 64)},
}


@pytest.mark.parametrize("name", TYPES)
def test_every_type_comes_back_as_it_went_in(name: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    kind = getattr(onnx.TensorProto, name)
    loaded = backends.load("onnxruntime", network(tmp_path / "model.onnx", {"x": kind}, "Identity"), "cpu", 1)
    (takes,) = loaded.tensors.inputs
    expected = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64", "STRING": "BYTES", "BFLOAT16": "BF16"}
    assert takes.datatype == expected.get(name, name)
    assert loaded.tensors.bfloat16_outputs == ({"out"} if name == "BFLOAT16" else set())
    for batch in (TYPES[name], TYPES[name].repeat(3, axis=0), loaded.tensors.zeros(2)["x"]):
        (output,) = loaded.run({"x": batch})
        assert output.dtype == batch.dtype
        np.testing.assert_array_equal(output, batch)


def test_texts_that_are_not_utf_8_are_an_error(tmp_path: Path) -> None:
    loaded = backends.load("onnxruntime", network(tmp_path / "model.onnx", {"x": 8}, "Identity"), "cpu", 1)
    with pytest.raises(UnicodeDecodeError):
        loaded.run({"x": np.array([[b"\xff", b""]], object)})


def test_a_type_that_no_array_has(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Argument, "type", "tensor(float8e4m3fn)")
    with pytest.raises(BackendError, match=r"^the model's input 'x' is a tensor\(float8e4m3fn\), which onnxruntime "):
        gpu()
