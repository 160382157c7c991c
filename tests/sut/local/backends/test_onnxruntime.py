"""ONNX Runtime: any input name, and a GPU that is really used or an error, with stand-ins where no GPU is at hand."""

from __future__ import annotations

import asyncio
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut import models
from drumfire.sut.local import backends
from drumfire.sut.local.backends import BackendError, onnx_gpu
from drumfire.sut.local.backends import onnxruntime as backend
from drumfire.sut.local.batcher import BatchedSystem
from drumfire.sut.local.loaded import fit, run_batch
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
    monkeypatch.setattr(onnx_gpu, "_cuda_runtime", lambda: None)  # which another test may have loaded
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


# Several batches in bound arrays.


def graph(path: Path, nodes: list[Any], takes: list[Any], gives: list[Any], kind: int = 1) -> backends.Backend:
    """Load a graph of these nodes; ``takes`` and ``gives``: the shape of its input "in", and those of its outputs."""
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info
    outputs = [value(f"out{at}", kind, shape) for at, shape in enumerate(gives)]
    made = onnx.helper.make_graph(nodes, "network", [value("in", kind, takes)], outputs)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path / "model.onnx")
    return backends.load("onnxruntime", path / "model.onnx", "cpu", 1)


def node(*words: Any, **attributes: Any) -> Any:
    return pytest.importorskip("onnx").helper.make_node(*words, **attributes)


def numbers(rows: int, dtype: Any = np.float32, start: int = 0) -> np.ndarray:
    return np.arange(start, start + 2 * rows).reshape(rows, 2).astype(dtype)


def ran_at_once(loaded: Any, batch: dict[str, np.ndarray], size: int) -> list[list[np.ndarray]]:
    """The outputs of each batch, copied before the next is asked for."""
    number = len(next(iter(batch.values()))) // size
    return [[one.copy() for one in outputs] for outputs in loaded.several(batch, size, number)]


@pytest.mark.parametrize("in_order", [True, False])
def test_several_batches_of_a_model_answer_as_one_by_one(in_order: bool) -> None:
    model = models.get("digits")
    loaded: Any = backends.load("onnxruntime", model.weights(Path()), "cpu", 1)
    library = fit(model.library(), loaded, model)
    indices = np.arange(96) if in_order else np.random.default_rng(1).permutation(500)[:96]
    library.load(np.arange(500))
    run: Any = run_batch(loaded, model)
    asked = [indices, indices[::-1], indices[:32]]
    together = [[answer.copy() for answer in run.several(library, some, 32)] for some in asked]
    assert loaded.room(32, 3) is not None  # so they were bound
    for some, found in zip(asked, together, strict=True):
        parts = [run(library.batch(some[at : at + 32])) for at in range(0, len(some), 32)]
        assert all(part.dtype == np.float32 and part.shape == (32, 1) for part in found)
        np.testing.assert_array_equal(np.concatenate(found), np.concatenate(parts))


@pytest.mark.parametrize("kind", [1, 6, 7, 11])
@pytest.mark.parametrize("batch", ["N", None, 4])
def test_several_batches_are_as_one_by_one(tmp_path: Path, batch: Any, kind: int) -> None:
    nodes = [node("Neg", ["in"], ["out0"]), node("Identity", ["in"], ["out1"])]
    loaded: Any = graph(tmp_path, nodes, [batch, 2], [[batch, 2], [batch, 2]], kind)
    dtype = loaded.tensors.inputs[0].dtype
    for number, start in ((2, 0), (3, 100), (40, 7), (1, 9)):  # as many as are bound, more, and fewer again
        samples = {"in": numbers(4 * number, dtype, start)}
        found = ran_at_once(loaded, samples, 4)
        assert len(found) == number
        for at, outputs in enumerate(found):
            expected = loaded.run({"in": samples["in"][4 * at : 4 * at + 4]})
            for one, other in zip(outputs, expected, strict=True):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
        # The same where the samples were put into the room.
        room = loaded.room(4, number)
        room["in"][:] = samples["in"][::-1]
        again = ran_at_once(loaded, room, 4)
        np.testing.assert_array_equal(np.concatenate([outputs[1] for outputs in again]), samples["in"][::-1])
    loaded.close()


def test_samples_that_the_model_does_not_take_are_not_converted(tmp_path: Path) -> None:
    loaded: Any = graph(tmp_path, [node("Neg", ["in"], ["out0"])], ["N", 2], [["N", 2]])
    good = numbers(8)
    for wrong in ({"in": good.astype(np.float64)}, {"in": good[:, :1]}, {"in": good[:7]}, {"x": good},
                  {"in": good, "x": good}):  # fmt: skip
        assert loaded.several(wrong, 4, 2) is None
    assert loaded.several({"in": good}, 4, 2) is not None


@pytest.mark.parametrize(
    ("nodes", "takes", "gives"),
    [
        ([("NonZero", ["in"], ["index"]), ("Cast", ["index"], ["out0"], {"to": 1})], ["N", 2], [["K", "M"]]),
        ([("Neg", ["in"], ["out0"])], ["N", "M"], [["N", "M"]]),
        ([("ReduceSum", ["in"], ["out0"], {"keepdims": 0})], ["N", 2], [[]]),
        ([("ReduceSum", ["in"], ["out0"])], ["N", 2], [["K", 1]]),  # one row, which its sizes do not tell
        ([("Neg", ["in"], ["out0"])], ["N", 100_000], [["N", 100_000]]),  # too large to be worth a copy
        ([("SequenceConstruct", ["in"], ["all"]), ("SequenceAt", ["all", "first"], ["out0"])], ["N", 2], [["N", "M"]]),
    ],
)  # fmt: skip
def test_models_that_cannot_be_bound_run_one_by_one(
    nodes: list[Any], takes: list[Any], gives: list[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if nodes[0][0] == "SequenceConstruct":
        nodes = [("Constant", [], ["first"], {"value_int": 0}), *nodes]
    made = [node(*words[:3], **(words[3] if len(words) > 3 else {})) for words in nodes]
    loaded: Any = graph(tmp_path, made, takes, gives)
    assert loaded.room(4, 2) is None
    sizes = [2 if size == "M" else size for size in takes[1:]]
    assert loaded.several({"in": np.ones((8, *sizes), np.float32)}, 4, 2) is None
    assert loaded.room(4, 2) is None
    assert capfd.readouterr() == ("", "")


def test_several_batches_of_several_inputs(tmp_path: Path) -> None:
    loaded: Any = backends.load("onnxruntime", network(tmp_path / "model.onnx", {"a": 1, "b": 1}), "cpu", 1)
    room = loaded.room(4, 3)
    room["a"][:] = numbers(12)
    samples = {"b": numbers(12, start=50), "a": room["a"]}  # one gathered in place, and one that lies elsewhere
    found = ran_at_once(loaded, samples, 4)
    np.testing.assert_array_equal(np.concatenate([outputs[0] for outputs in found]), samples["a"] + samples["b"])
    assert loaded.several({"a": room["a"]}, 4, 3) is None


def test_large_samples_are_gathered_in_place_but_not_copied(tmp_path: Path) -> None:
    loaded: Any = graph(tmp_path, [node("Neg", ["in"], ["out0"])], ["N", 4096], [["N", 4096]])
    samples = np.random.default_rng(1).random((8, 4096), np.float32)
    room = loaded.room(4, 2)
    assert loaded.several({"in": samples}, 4, 2) is None
    room["in"][:] = samples
    found = ran_at_once(loaded, room, 4)
    np.testing.assert_array_equal(np.concatenate([outputs[0] for outputs in found]), -samples)


# On a GPU: two threads share the session, here one on the CPU.


class Runtime:
    """A CUDA runtime that keeps what it is asked."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses, self.pinned = refuses, dict[int, int]()

    def cudaHostRegister(self, address: Any, size: Any, flags: Any) -> int:  # noqa: N802
        assert flags.value == 1
        assert address.value % mmap.PAGESIZE == 0
        if not self.refuses:
            self.pinned[address.value] = size.value
        return int(self.refuses)

    def cudaHostUnregister(self, address: Any) -> int:  # noqa: N802
        del self.pinned[address.value]
        return 0


def on_gpu(path: Path, most: int = 4) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=[CPU])
    return onnx_gpu.OnGpu(session, CUDA, onnxruntime.__version__, most)


@pytest.fixture
def digits_file() -> Path:
    return models.get("digits").weights(Path())


@pytest.mark.parametrize("refuses", [True, False, None])
def test_samples_are_gathered_in_pinned_memory(
    refuses: bool | None, digits_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = None if refuses is None else Runtime(refuses=refuses)
    monkeypatch.setattr(onnx_gpu, "_cuda_runtime", lambda: runtime)
    gpu, cpu = on_gpu(digits_file), backends.load("onnxruntime", digits_file, "cpu", 1)
    assert ("pinned" in gpu.description) == (runtime is not None)
    first, second = backends.lanes(gpu)
    (name,) = gpu.room(4)
    for lane in (first, second):
        for size in (3, 4, 1):
            room: Any = lane.room(size)  # type: ignore[attr-defined]
            assert lane.room(size) is room  # type: ignore[attr-defined]
            room[name][:] = np.random.default_rng(size).random(room[name].shape)
            np.testing.assert_array_equal(lane.run(room)[0], cpu.run(room)[0])
    assert gpu.room(5) is gpu.room(2, 2) is gpu.several({}, 2, 2) is None
    if runtime is not None:
        assert list(runtime.pinned.values()) == [] if refuses else [4 * 64 * 4] * 2
    gpu.close()
    if runtime is not None:
        assert not runtime.pinned


def test_two_threads_run_a_session_of_the_gpu(digits_file: Path) -> None:
    model = models.get("digits")
    gpu: Any = on_gpu(digits_file, 32)
    library = fit(model.library(), gpu, model)
    library.load(np.arange(500))
    system = BatchedSystem(
        "digits", [run_batch(lane, model) for lane in backends.lanes(gpu)], library, max_batch_size=32, lanes=2
    )
    settings = TestSettings(scenario=Scenario.Offline, mode=Mode.AccuracyOnly, min_duration_ms=0, min_query_count=500)
    test = Test(system, library, settings)
    asyncio.run(test.run())
    assert test.spoiled() == []
    plain = backends.load("onnxruntime", digits_file, "cpu", 1)
    expected = model.respond(plain.run(library_batch(model, plain)))
    kept = {
        row: bytes(response)
        for batch in test.answers.kept
        for row, response in zip(batch.rows.tolist(), batch.responses, strict=True)
    }
    indices = test.record.sample_index[: test.record.issued_rows]
    assert [kept[row] for row in range(len(indices))] == [bytes(expected[index]) for index in indices]


def library_batch(model: Any, backend: backends.Backend) -> Any:
    library = fit(model.library(), backend, model)
    library.load(np.arange(500))
    return library.batch(np.arange(500))


def test_inputs_that_cannot_be_pinned_are_gathered_as_before(tmp_path: Path) -> None:
    graph(tmp_path, [node("Neg", ["in"], ["out0"])], ["N", "M"], [["N", "M"]])
    gpu = on_gpu(tmp_path / "model.onnx")
    assert gpu.room(2) is None
    assert "pinned" not in gpu.description
    np.testing.assert_array_equal(gpu.beside[0].run({"in": numbers(2)})[0], -numbers(2))


def test_a_model_on_the_gpu_is_loaded_for_two_threads(gpu: Any) -> None:
    loaded = gpu()
    assert isinstance(loaded, backends.HasLanes)
    assert loaded.room(4, 2) is None


@pytest.mark.gpu
def test_a_real_gpu_pins_memory(digits_file: Path) -> None:
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("no onnxruntime-gpu")
    gpu: Any = backends.load("onnxruntime", digits_file, "gpu", 1)
    cpu = backends.load("onnxruntime", digits_file, "cpu", 1)
    assert gpu.description.endswith("samples in pinned memory")
    room = gpu.room(8)
    assert all(memory.is_pinned for memory in gpu._memory)
    for samples in room.values():
        samples[:] = np.random.default_rng(1).random(samples.shape)
    for lane in backends.lanes(gpu):
        np.testing.assert_allclose(lane.run(room)[0], cpu.run(room)[0], atol=1e-4)
    gpu.close()
