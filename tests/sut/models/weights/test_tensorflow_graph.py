"""An ONNX graph gives in TensorFlow and in TFLite what onnxruntime gives, and what has no counterpart is named."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.extra
onnx = pytest.importorskip("onnx")
tensorflow = pytest.importorskip("tensorflow")
# Once TensorFlow has started in a process its threads are fixed, and the backend's tests load models for one.
tensorflow.config.threading.set_intra_op_parallelism_threads(1)
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from drumfire.sut.models import MODELS  # noqa: E402
from drumfire.sut.models.weights import tflite_export  # noqa: E402
from drumfire.sut.models.weights.publication import PublishedNetwork  # noqa: E402
from drumfire.sut.models.weights.tensorflow_graph import TensorFlowGraph  # noqa: E402

DRAWS = np.random.default_rng(7)


def graph(
    path: Path,
    nodes: Sequence[object],
    constants: dict[str, np.ndarray],
    sample: tuple[int, ...] = (3, 9, 11),
    inputs: Sequence[str] = ("x",),
) -> Path:
    """From ``x``, (N, *sample), to ``y``."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *sample]) for name in inputs]
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "test", given, [made], weights), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    onnx.save(model, path)
    return path


def floats(*shape: int) -> np.ndarray:
    return DRAWS.standard_normal(shape).astype(np.float32)


def conv(weights: tuple[int, ...], **attributes: object) -> tuple[list[object], dict[str, np.ndarray]]:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)
    return [node], {"w": floats(*weights), "b": floats(weights[0])}


def node(kind: str, *inputs: str, **attributes: object) -> object:
    return helper.make_node(kind, ["x", *inputs], ["y"], **attributes)


NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
CASES: dict[str, tuple[list[object], dict[str, np.ndarray]]] = {
    "plain": conv((4, 3, 3, 3)),
    "same": conv((4, 3, 3, 3), pads=[1, 1, 1, 1]),
    "stride, padded on both sides": conv((4, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
    "stride, as TensorFlow pads": conv((4, 3, 3, 3), pads=[0, 0, 1, 1], strides=[2, 2]),
    "uneven padding": conv((4, 3, 3, 3), pads=[2, 0, 1, 3]),
    "wide kernel": conv((4, 3, 1, 5), pads=[0, 2, 0, 2]),
    "dilated": conv((4, 3, 3, 3), pads=[2, 2, 2, 2], dilations=[2, 2]),
    "depthwise": conv((3, 1, 3, 3), pads=[1, 1, 1, 1], group=3),
    "depthwise, two for each": conv((6, 1, 3, 3), pads=[1, 1, 1, 1], group=3),
    "grouped": conv((4, 2, 3, 3), pads=[1, 1, 1, 1], group=2),
    "grouped, with a stride": conv((6, 2, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2], group=2),
    "resized": ([node("Resize", "", "", "s", **NEAREST)], {"s": np.array([2, 3, 18, 22])}),
    "resized unevenly": ([node("Resize", "", "", "s", **NEAREST)], {"s": np.array([2, 3, 20, 25])}),
    "resized by factors": ([node("Resize", "", "f", **NEAREST)], {"f": np.array([1, 1, 2, 1.5], np.float32)}),
    "resized to a part of its own shape": (
        [
            helper.make_node("Shape", ["x"], ["n"], end=2),
            helper.make_node("Concat", ["n", "s"], ["all"], axis=0),
            node("Resize", "", "", "all", **NEAREST),
        ],
        {"s": np.array([18, 33])},
    ),
    "pool": ([node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {}),
    "mean of places": ([node("ReduceMean", "a", keepdims=0)], {"a": np.array([2, 3])}),
    "mean of channels": ([node("ReduceMean", "a", keepdims=1)], {"a": np.array([1])}),
    "global mean": ([node("GlobalAveragePool")], {}),
    "add by channel": ([node("Add", "c")], {"c": floats(1, 3, 1, 1)}),
    "add by row": ([node("Mul", "c")], {"c": floats(11)}),
    "flattened": ([node("Flatten")], {}),
    "reshaped": ([node("Reshape", "s")], {"s": np.array([-1, 33, 9])}),
    "reshaped with its own batch": ([node("Reshape", "s")], {"s": np.array([0, 33, 9])}),
    "turned": ([node("Transpose", perm=[0, 2, 3, 1])], {}),
    "turned otherwise": ([node("Transpose", perm=[0, 3, 1, 2])], {}),
    "sum of channels": ([node("ReduceSum", "a", keepdims=0)], {"a": np.array([1])}),
    "sum of places": ([node("ReduceSum", "a", keepdims=1)], {"a": np.array([2, 3])}),
    "split into channels": (
        [
            helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
            helper.make_node("Concat", "ba", "y", axis=1),
        ],
        {},
    ),
    "split by sizes": (
        [helper.make_node("Split", ["x", "s"], ["a", "b"], axis=1), helper.make_node("Concat", "ba", "y", axis=1)],
        {"s": np.array([1, 2])},
    ),
    "split below": (
        [
            helper.make_node("Split", ["x"], ["a", "b", "c"], axis=-1, num_outputs=3),
            helper.make_node("Concat", "cab", "y", axis=-1),
        ],
        {},
    ),
    "joined": ([helper.make_node("Concat", ["x", "x"], ["y"], axis=1)], {}),
    "joined below": ([helper.make_node("Concat", ["x", "x"], ["y"], axis=2)], {}),
    "cut": ([node("Slice", "s", "e", "a")], {"s": np.array([1]), "e": np.array([3]), "a": np.array([1])}),
    "padded": ([node("Pad", "p")], {"p": np.array([0, 0, 1, 2, 0, 0, 3, 0])}),
    "clipped": ([node("Clip", "l", "h")], {"l": np.float32(-0.5).reshape(()), "h": np.float32(0.7).reshape(())}),
    "softmax": ([node("Softmax", axis=1)], {}),
    "normed": (
        [node("BatchNormalization", "s", "h", "m", "v", epsilon=1e-3)],
        {"s": floats(3), "h": floats(3), "m": floats(3), "v": np.abs(floats(3)) + 1},
    ),
}


def expected(path: Path, samples: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": samples})[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("case", CASES)
def test_an_operator_gives_what_onnxruntime_gives(case: str, tmp_path: Path) -> None:
    channels = 4 if case.startswith("grouped") else 3
    path = graph(tmp_path / "model.onnx", *CASES[case], sample=(channels, 9, 11))
    samples = floats(2, channels, 9, 11)
    function = TensorFlowGraph(path).function()
    assert function.inputs[0].shape.as_list() == [None, 9, 11, channels]
    (output,) = function(samples.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(output.numpy(), expected(path, samples), atol=1e-5, rtol=1e-5)


def test_a_graph_of_rows_is_not_taken_for_images(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0)]
    path = graph(tmp_path / "model.onnx", nodes, {"w": floats(4, 6), "b": floats(4)}, sample=(6,))
    samples = floats(3, 6)
    (output,) = TensorFlowGraph(path).function()(samples)
    np.testing.assert_allclose(output.numpy(), expected(path, samples), atol=1e-5)


@pytest.mark.parametrize("case", ["stride, padded on both sides", "grouped", "resized"])
def test_the_tflite_file_gives_it_too(case: str, tmp_path: Path) -> None:
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    channels = 4 if case == "grouped" else 3
    path = graph(tmp_path / "model.onnx", *CASES[case], sample=(channels, 9, 11))
    samples = floats(2, channels, 9, 11)
    interpreter = interpreters.Interpreter(model_content=tflite_export.converted(path))
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, (2, 9, 11, channels))
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, np.ascontiguousarray(samples.transpose(0, 2, 3, 1)))
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(output, expected(path, samples), atol=1e-5)


def test_operators_without_a_counterpart_are_named(tmp_path: Path) -> None:
    path = graph(tmp_path / "model.onnx", [node("Erf"), node("Det")], {})
    with pytest.raises(ValueError, match="Det, Erf"):
        TensorFlowGraph(path)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (([node("Resize", "", "c", mode="linear")], {"c": np.array([1, 1, 2, 2], np.float32)}), "resizing other than"),
        (([node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}), "rounds up"),
        (([node("Pad", "p", mode="reflect")], {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}), "constant"),
    ],
)
def test_attributes_without_a_counterpart_are_told(
    case: tuple[list[object], dict[str, np.ndarray]], words: str, tmp_path: Path
) -> None:
    nodes, constants = case
    path = graph(tmp_path / "model.onnx", nodes, constants)
    with pytest.raises(ValueError, match=words):
        TensorFlowGraph(path).function()


def test_two_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Sub", ["x", "z"], ["y"])]
    path = graph(tmp_path / "model.onnx", nodes, {}, inputs=("x", "z"))
    found = TensorFlowGraph(path)
    x, z = (np.full(one.shape(1), value, np.float32) for value, one in zip((5, 2), found.tensors.inputs, strict=True))
    (output,) = found.function()(tensorflow.constant(x), tensorflow.constant(z))
    assert (output.numpy() == 3).all()


@pytest.mark.parametrize("name", [model.name for model in MODELS.values() if isinstance(model, PublishedNetwork)])
def test_the_networks_of_mlperf_have_a_counterpart(name: str, tmp_path: Path) -> None:
    """Every operator with its attributes; nothing is computed."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    model = MODELS[name]
    found = TensorFlowGraph(model.weights(tmp_path)).function()
    outputs = [output.shape.as_list() for output in found.outputs]
    if model.task == "image classification":
        assert [shape[0] for shape in outputs] == [None]
        assert outputs[0][1] in (1000, 1001)
    elif name == "yolo11l":
        assert outputs == [[None, 84, 8400]]
    else:
        boxes, scores, labels = outputs
        assert boxes == [*scores, 4]
        assert labels == scores
        assert scores[1] >= 500
