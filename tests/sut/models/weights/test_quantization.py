"""int8 files: what is made int8 and what is not, how well they still read digits, and what can not be quantized."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from drumfire.loadgen import installation
from drumfire.sut import models
from drumfire.sut.models import MissingExtra, digits, shapes
from drumfire.sut.models.digits import Digits
from drumfire.sut.models.model import Calibrated
from drumfire.sut.models.weights import quantization
from drumfire.sut.models.weights.quantization import QuantizeError, quantize

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.extra


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "digits.onnx"
    quantize(digits.WEIGHTS, Digits().calibration(100), path)
    return path


def outputs(path: Path, batch: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch})


def int8_weighted(path: Path) -> dict[str, list[bool]]:
    """By the kind of layer with weights: whether each has int8 weights, in the graph's order."""
    graph = onnx.load(path).graph
    made = {name: node for node in graph.node for name in node.output}
    kinds: dict[str, list[bool]] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            source = made.get(node.input[1])
            kinds.setdefault(node.op_type, []).append(source is not None and source.op_type == "DequantizeLinear")
    return kinds


def test_convolutions_are_int8_and_the_last_layer_is_not(int8: Path) -> None:
    kinds = int8_weighted(int8)
    assert len(kinds["Conv"]) == 9
    assert all(kinds["Conv"])
    assert kinds["Gemm"] == [False]
    scales = [one for one in onnx.load(int8).graph.initializer if "scale" in one.name]
    assert any(list(one.dims) == [128] for one in scales)  # by channel
    assert [path.name for path in int8.parent.iterdir()] == ["digits.onnx"]


def test_digits_are_read_as_well(int8: Path) -> None:
    data = digits.read()
    for batch_size in (1, 500):  # any batch size
        given = outputs(int8, data.inputs[:batch_size])[0]
        assert len(given) == batch_size
    assert np.mean(given.argmax(axis=1) == data.labels) >= Digits.quality_target
    assert np.abs(given - outputs(digits.WEIGHTS, data.inputs)[0]).max() > 1e-3  # it is another network


def test_boxes_stay_as_precise(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    model = shapes.Shapes()
    quantize(shapes.WEIGHTS, model.calibration(64), tmp_path / "shapes.onnx")
    everything = np.arange(model.total_count)
    found = {}
    for path in (shapes.WEIGHTS, tmp_path / "shapes.onnx"):
        answers = model.logged(everything, model.respond(outputs(path, model._data.pixels)))
        found[path] = model.accuracy(everything, answers).value
    before, after = found.values()
    assert before > 0.87
    assert abs(before - after) < 0.02


def test_calibration_shows_nothing_that_is_judged() -> None:
    calibrated = {name for name, model in models.MODELS.items() if isinstance(model, Calibrated)}
    assert calibrated == {"digits", "shapes"}
    shown = {image.tobytes() for image in Digits().calibration(1297)}
    assert len(Digits().calibration(100)) == 100
    assert not shown.intersection(image.tobytes() for image in digits.read().inputs)
    pictures = {picture.tobytes() for picture in shapes.Shapes().calibration(50)}
    assert len(pictures) == 50
    assert not pictures.intersection(picture.tobytes() for picture in shapes.held_out().pixels)


def chain(path: Path, *, opset: int, layers: int, batch: int | None = None) -> Path:
    """So many convolutions one after the other, then a ReLU; ``batch``: the only size."""
    draws = np.random.default_rng(1)
    nodes, weights = [], []
    for at in range(layers):
        values = draws.normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(values, f"w{at}"))
        given = "pixels" if at == 0 else f"x{at - 1}"
        nodes.append(onnx.helper.make_node("Conv", [given, f"w{at}"], [f"x{at}"], pads=[1, 1, 1, 1]))
    nodes.append(onnx.helper.make_node("Relu", [f"x{layers - 1}"], ["out"]))
    kind = onnx.TensorProto.FLOAT
    sizes = [batch or "N", 4, 8, 8]
    graph = onnx.helper.make_graph(
        nodes,
        "chain",
        [onnx.helper.make_tensor_value_info("pixels", kind, sizes)],
        [onnx.helper.make_tensor_value_info("out", kind, sizes)],
        weights,
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(made, path)
    return path


@pytest.mark.parametrize(("opset", "batch"), [(11, None), (18, None), (18, 1), (18, 3)])
def test_other_exports(tmp_path: Path, opset: int, batch: int | None) -> None:
    """Older operator sets, whatever the input's name, and files that take one batch size."""
    source = chain(tmp_path / "chain.onnx", opset=opset, layers=3, batch=batch)
    samples = np.random.default_rng(2).normal(0, 1, (20, 4, 8, 8)).astype(np.float32)
    quantize(source, samples, tmp_path / "int8.onnx")
    assert int8_weighted(tmp_path / "int8.onnx") == {"Conv": [True, True, False]}
    shown = samples[: batch or 5]
    before, after = outputs(source, shown)[0], outputs(tmp_path / "int8.onnx", shown)[0]
    assert 0 < np.abs(before - after).mean() < 0.1 * np.abs(before).mean()


def test_what_can_not_be_quantized_is_one_line(tmp_path: Path) -> None:
    samples = np.zeros((4, 4, 8, 8), np.float32)
    target = tmp_path / "int8.onnx"
    with pytest.raises(QuantizeError, match="has no two layers with weights"):
        quantize(chain(tmp_path / "one.onnx", opset=18, layers=1), samples, target)
    (tmp_path / "text.onnx").write_bytes(b"no network")
    with pytest.raises(
        QuantizeError, match=r"onnxruntime cannot quantize .*text\.onnx \(.*is it an ONNX file"
    ) as raised:
        quantize(tmp_path / "text.onnx", samples, target)
    assert "\n" not in str(raised.value)
    with pytest.raises(QuantizeError, match="cannot quantize"):  # samples of another shape
        quantize(chain(tmp_path / "two.onnx", opset=18, layers=2), samples[:, :3], target)
    (tmp_path / "file").write_text("")
    with pytest.raises(QuantizeError, match=r"^cannot write .*int8\.onnx: .*; choose another --output$"):
        quantize(tmp_path / "two.onnx", samples, tmp_path / "file" / "int8.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "one.onnx", "text.onnx", "two.onnx"]


def test_a_missing_onnx_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    how = re.escape(installation.command("onnx-cpu,quantize"))
    with pytest.raises(MissingExtra, match=f"^quantizing needs onnx, which is not installed: {how}$"):
        quantize(digits.WEIGHTS, digits.read().inputs[:8], tmp_path / "int8.onnx")


def test_importing_it_costs_no_framework() -> None:
    assert importlib.util.find_spec(quantization.__name__) is not None
    text = Path(quantization.__file__).read_text()
    assert "\nimport onnx" not in text
