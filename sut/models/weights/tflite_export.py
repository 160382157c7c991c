"""Turns a PyTorch network into a TFLite file, through ONNX and TensorFlow's own converter.

Does not depend on any particular model.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from drumfire.sut.local.backends import first_line
from drumfire.sut.local.silence import silenced
from drumfire.sut.models.model import WeightsError
from drumfire.sut.models.tensors import Tensors
from drumfire.sut.models.weights import onnx_export

if TYPE_CHECKING:
    from torch import nn

_TENSORFLOW = ("tensorflow", "tensorflow-cpu")


def export(network: nn.Module, tensors: Tensors, path: Path) -> None:
    """Write ``network`` (in eval mode) to ``path``.

    The graph takes images channels last; its batch size is 1 and can be resized.  Needs onnx, onnxscript and
    tensorflow.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        graph = Path(folder, "graph.onnx")
        onnx_export.export(network, tensors, graph)
        path.write_bytes(converted(graph))


def converted(graph: Path) -> bytes:
    """The TFLite file of an ONNX file.  Raises ``WeightsError`` for an operator without a counterpart."""
    with silenced():
        import tensorflow as tf

        from drumfire.sut.models.weights.tensorflow_graph import TensorFlowGraph

    try:
        network = TensorFlowGraph(graph)
    except ValueError as error:
        raise WeightsError(f"{graph} has no TFLite form: {error}") from None
    function = network.function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], network)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        with silenced():
            made: bytes = converter.convert()
    except Exception as error:  # the converter raises many kinds
        raise WeightsError(f"{graph} has no TFLite form: {first_line(error)}") from None
    return made


def exporter() -> str:
    """The converter with its version, for file names.  Raises ``PackageNotFoundError``."""
    for name in _TENSORFLOW:
        try:
            return f"tensorflow{version(name)}"
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError("tensorflow")
