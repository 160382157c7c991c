"""Every backend computes what onnxruntime does, in any batch size, and refuses what it can not do in one line."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen import installation
from drumfire.loadgen.system import Batch
from drumfire.sut import models
from drumfire.sut.data.library import with_names
from drumfire.sut.local import backends
from drumfire.sut.local.backends import BACKENDS, Backend, BackendError, BackendOptions, PrecisionOptions
from drumfire.sut.local.backends.pytorch import PyTorchOptions
from drumfire.sut.models.model import Accuracy, Form, Model
from drumfire.sut.models.tensors import Input, Tensors, arrangement
from drumfire.sut.models.weights import forms
from tests.support.packages import EFFICIENTNET, PACKAGES, need

SMALL = 4
"""The largest batch that most tests need."""
F4 = np.dtype(np.float32)
DRAWS = np.random.default_rng(2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_DIR", str(cache))


def loaded(name: str, model: Model, cache: Path, **options: Any) -> Backend:
    own = backends.kinds()[name](**{"max_batch_size": SMALL} | options)
    return backends.load(name, model.weights(cache, None, backends.form(name)), "cpu", 1, own)


def accuracy(backend: Backend, model: Model, sizes: list[int]) -> Accuracy:
    """Over the whole data set, in batches of these sizes in turn."""
    feeds = backend.tensors.feeds(model.tensors)
    assert feeds is not None
    library = with_names(model.library(), arrangement(feeds))
    everything = np.arange(model.total_count)
    library.load(everything)
    responses, at = [], 0
    while at < everything.size:
        size = sizes[len(responses) % len(sizes)]
        batch = everything[at : at + size]
        responses.append(model.respond(backend.run(library.batch(batch))))
        at += size
    return model.accuracy(everything, np.concatenate(responses))


def laid(backend: Backend, samples: np.ndarray) -> Batch:
    """A batch for a backend of one input, of images with one channel: its place makes no difference in memory."""
    (takes,) = backend.tensors.inputs
    return {takes.name: samples.reshape(len(samples), *takes.sample_shape)}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.extra) for name in BACKENDS])
def test_digits_on_every_backend(name: str, cache: Path) -> None:
    need(*PACKAGES[name])
    backend = loaded(name, models.get("digits"), cache)
    found = accuracy(backend, models.get("digits"), [1, 3, 4, 2])
    assert (found.good, found.total) == (498, 500)
    backend.close()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.extra) for name in BACKENDS])
def test_efficientnet_on_every_backend(name: str, cache: Path) -> None:
    need(*PACKAGES[name], *EFFICIENTNET, *(("tensorflow",) if name == "tflite" else ()))
    backend = loaded(name, models.get("efficientnet-lite0"), cache, max_batch_size=2)
    found = accuracy(backend, models.get("efficientnet-lite0"), [1, 2])
    assert (found.good, found.total) == (18, 20)


@pytest.mark.extra
@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "onnxruntime"])
def test_outputs_of_a_sample_do_not_depend_on_its_batch(name: str, cache: Path) -> None:
    need(*PACKAGES[name], "onnxruntime")
    digits = models.get("digits")
    backend, reference = loaded(name, digits, cache), loaded("onnxruntime", digits, cache)
    draws = np.random.default_rng(0)
    for count in (4, 1, 3, 2, 3):
        samples = draws.random((count, 1, 8, 8), np.float32)
        (given,), (expected,) = backend.run(laid(backend, samples)), reference.run(laid(reference, samples))
        assert given.shape == expected.shape
        np.testing.assert_allclose(given, expected, atol=2e-5)


@pytest.mark.extra
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_of_pytorch_read_digits_as_well(precision: str, cache: Path) -> None:
    need(*PACKAGES["pytorch"])
    backend = loaded(
        "pytorch", models.get("digits"), cache, precision=precision, max_batch_size=backends.MAX_BATCH_SIZE
    )
    assert precision in backend.description
    found = accuracy(backend, models.get("digits"), [100])
    assert found.good is not None
    assert found.good >= 495
    (output,) = backend.run(backend.tensors.zeros(1))
    assert output.dtype == np.float32


@pytest.mark.extra
def test_pytorch_compiles(cache: Path) -> None:
    need(*PACKAGES["pytorch"])
    backend = loaded("pytorch", models.get("digits"), cache, max_batch_size=2, compile="default")
    assert "compiled (default), batches filled up to 1, 2" in backend.description
    assert accuracy(backend, models.get("digits"), [2, 1]).good == 498


@pytest.mark.extra
@pytest.mark.parametrize("width", [200, 75, 38, 37, 13])
def test_tvm_convolves_rows_of_every_width(width: int, tmp_path: Path) -> None:
    """Whole registers, parts of them, and no vector at all."""
    need(*PACKAGES["tvm-onnx"], "onnxruntime")
    from onnx import TensorProto, helper, numpy_helper, save

    draws = np.random.default_rng(width)
    weights = numpy_helper.from_array(draws.standard_normal((12, 3, 3, 3), np.float32), "weights")
    convolution = helper.make_node("Conv", ["x", "weights"], ["y"], pads=[1, 1, 1, 1])
    given, told = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, 5, width])
        for name, channels in (("x", 3), ("y", 12))
    )
    graph = helper.make_graph([convolution], "one", [given], [told], [weights])
    path = tmp_path / f"width-{width}.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    batch = draws.standard_normal((1, 3, 5, width), np.float32)
    found, expected = (
        backends.load(name, path, "cpu", 1, BackendOptions(max_batch_size=1)).run({"x": batch})[0]
        for name in ("tvm-onnx", "onnxruntime")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.extra
def test_tvm_takes_what_it_compiled_from_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(*PACKAGES["tvm-onnx"])
    import tvm

    digits = models.get("digits")
    loaded("tvm-onnx", digits, cache, max_batch_size=1)

    def compiled_again(*_: object, **__: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(tvm, "compile", compiled_again)
    backend = loaded("tvm-onnx", digits, cache, max_batch_size=1)
    assert accuracy(backend, digits, [1]).good == 498


@pytest.mark.extra
def test_tf_runs_saved_models_and_frozen_graphs(tmp_path: Path) -> None:
    need("tensorflow")
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    class Doubler(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32)])
        def __call__(self, x: object) -> object:
            return x * self.factor

    network = Doubler()
    tf.saved_model.save(network, str(tmp_path / "saved"), signatures=network.__call__)
    frozen = convert_variables_to_constants_v2(network.__call__.get_concrete_function())
    (tmp_path / "frozen.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
    samples = np.arange(6, dtype=np.float32).reshape(2, 3)
    for path in (tmp_path / "saved", tmp_path / "frozen.pb"):
        backend = backends.load("tf", path, "cpu", 1)
        ((name, shape, kind, batch_size, *_),) = backend.tensors.inputs
        assert (name, shape, kind, batch_size) == ("x", (3,), np.float32, None)
        assert len(backend.tensors.outputs) == 1
        (output,) = backend.run({name: samples})
        np.testing.assert_array_equal(output, samples * 2)


@pytest.fixture
def two_inputs(tmp_path: Path) -> Callable[[Form], Path]:
    """A network of a picture and a vector, exported: it doubles one and squares the other."""
    need("torch", "onnxscript")
    import torch
    from torch import nn

    class Network(nn.Module):
        def forward(self, picture: torch.Tensor, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return picture + picture, vector * vector

    inputs = Input("picture", (3, 4, 5), F4), Input("vector", (2,), F4)

    def made(form: Form) -> Path:
        path = tmp_path / f"two{form.value}"
        forms.export(Network().eval(), Tensors(inputs, ("doubled", "squared")), path, form)
        return path

    return made


NAMES = {
    Form.ONNX: (["picture", "vector"], ("doubled", "squared")),
    Form.TORCH: (["picture", "vector"], ("OUTPUT__0", "OUTPUT__1")),  # a program has no names for its outputs
    Form.TFLITE: (["input_0", "input_1"], ("output_0", "output_1")),
}


@pytest.mark.extra
@pytest.mark.parametrize("name", BACKENDS)
def test_several_inputs_are_taken_by_name(name: str, two_inputs: Callable[[Form], Path]) -> None:
    need(*PACKAGES[name], *(("tensorflow", "onnx") if name == "tflite" else ()))
    model = two_inputs(backends.form(name))
    backend = backends.load(name, model, "cpu", 1, backends.kinds()[name](max_batch_size=2))
    by_rank = {len(one.sample_shape): one for one in backend.tensors.inputs}
    names = [one.name for one in backend.tensors.inputs]
    assert (names, backend.tensors.outputs) == NAMES[backends.form(name)]
    assert by_rank[1].sample_shape == (2,)
    assert backend.tensors.batch_size is None
    for count in (1, 2):
        picture, vector = (DRAWS.random((count, *shape), np.float32) for shape in ((3, 4, 5), (2,)))
        last = by_rank[3].sample_shape == (4, 5, 3)
        given = np.ascontiguousarray(picture.transpose(0, 2, 3, 1)) if last else picture
        doubled, squared = backend.run({by_rank[1].name: vector, by_rank[3].name: given})
        np.testing.assert_allclose(doubled, picture * 2, rtol=1e-6)
        np.testing.assert_allclose(squared, vector * vector, rtol=1e-6)


@pytest.mark.extra
def test_a_program_that_returns_names_keeps_them(tmp_path: Path) -> None:
    need("torch")
    import torch
    from torch import nn

    class Network(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"twice": x * 2, "minus": -x}

    program = torch.export.export(Network(), (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim("N")},))
    torch.export.save(program, tmp_path / "named.pt2")
    backend = backends.load("pytorch", tmp_path / "named.pt2", "cpu", 1)
    assert backend.tensors.inputs == (Input("x", (3,), F4),)
    assert backend.tensors.outputs == ("twice", "minus")
    twice, minus = backend.run({"x": np.ones((4, 3), np.float32)})
    assert (twice == 2).all()
    assert (minus == -1).all()


@pytest.mark.gpu
def test_pytorch_on_a_gpu_gives_what_the_cpu_gives(cache: Path) -> None:
    need("torch", "onnx")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    digits = models.get("digits")
    program = digits.weights(cache, None, Form.TORCH)
    on_gpu = backends.load("pytorch", program, "gpu", 1, PyTorchOptions(max_batch_size=4))
    assert "CUDA graphs" in on_gpu.description
    assert accuracy(on_gpu, digits, [1, 3, 4, 2]).good == 498
    for precision in ("tf32", "bf16", "fp16"):
        other = backends.load("pytorch", program, "gpu", 1, PyTorchOptions(max_batch_size=4, precision=precision))
        found = accuracy(other, digits, [3]).good
        assert found is not None
        assert found >= 495


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("pytorch", "torch"),
        ("tf", "tensorflow"),
        ("tflite", "ai_edge_litert"),
        ("tvm-onnx", "tvm"),
        ("tvm-pytorch", "tvm"),
    ],
)
def test_a_backend_that_is_not_installed_names_its_extra(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [package, *(one for one in sys.modules if one.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    model = tmp_path / f"model{backends.form(name).value}"
    model.write_bytes(b"a model")
    error = refused(lambda: backends.load(name, model, "cpu", 1))
    assert "not installed" in error
    assert error.endswith(installation.command(backends.extra(name)))


@pytest.mark.extra
@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "onnxruntime"])
def test_a_gpu_that_is_not_there_is_an_error(name: str, cache: Path) -> None:
    need(*PACKAGES[name])
    if name in ("pytorch", "tf") and _has_gpu(name):
        pytest.skip("there is one")
    weights = models.get("digits").weights(cache, None, backends.form(name))
    assert "cpu" in refused(lambda: backends.load(name, weights, "gpu", 1))


def _has_gpu(name: str) -> bool:
    if name == "pytorch":
        import torch

        return bool(torch.cuda.is_available())
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


@pytest.mark.extra
@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "onnxruntime"])
@pytest.mark.parametrize("suffix", ["own", ".jpg"])
def test_a_file_that_is_no_model_is_refused(name: str, suffix: str, tmp_path: Path) -> None:
    need(*PACKAGES[name])
    model = tmp_path / f"model{backends.form(name).value if suffix == 'own' else suffix}"
    model.write_bytes(b"no model at all")
    assert "model" in refused(lambda: backends.load(name, model, "cpu", 1))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_file_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    assert "there is no such file" in refused(lambda: backends.load(name, tmp_path / "none", "cpu", 1))


def test_what_a_backend_does_not_have_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"")
    error = refused(lambda: backends.load("tf", model, "cpu", 1, PrecisionOptions(precision="fp16")))
    assert "--precision" in error
    assert "fp32" in error
    assert "GPU" in refused(lambda: backends.load("pytorch", model, "cpu", 1, PyTorchOptions(precision="tf32")))
    assert "available" in refused(lambda: backends.load("pytoch", model, "cpu", 1))


def refused(attempt: Callable[[], object]) -> str:
    """The one line that it is refused with."""
    with pytest.raises(BackendError) as caught:
        attempt()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_message_keeps_what_onnxruntime_has_to_say() -> None:
    why = "Attempting to broadcast an axis by a dimension other than 1. 16 by 20"
    node = "Non-zero status code returned while running Add node. Name:'' Status Message: "
    where = "/onnxruntime_src/onnxruntime/core/providers/cpu/math/element_wise_ops.h:563 "
    error = RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : {node}{where}{why}\nmore")
    assert backends.first_line(error) == why
    assert backends.first_line(RuntimeError("Status of the Message")) == "Status of the Message"
