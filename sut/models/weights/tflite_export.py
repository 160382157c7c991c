"""Turns a PyTorch network into a TFLite file, through ONNX and TensorFlow's own converter.

Does not depend on any particular model.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from drumfire.sut.local.backends import first_line
from drumfire.sut.local.silence import silenced
from drumfire.sut.models.model import WeightsError
from drumfire.sut.models.weights import onnx_export

if TYPE_CHECKING:
    from torch import nn

_TENSORFLOW = ("tensorflow", "tensorflow-cpu")


def export(
    network: nn.Module,
    sample_shape: tuple[int, ...],
    path: Path,
    *,
    outputs: Sequence[str] = ("logits",),
    dtype: npt.DTypeLike = np.float32,
) -> None:
    """Write ``network`` (in eval mode) to ``path``, replacing the file in one step.

    The graph takes images channels last; its batch size is 1 and can be resized.  Needs onnx, onnxscript and
    tensorflow.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        graph, part = Path(folder, "graph.onnx"), Path(folder, path.name)
        onnx_export.export(network, sample_shape, graph, outputs=outputs, dtype=dtype)
        part.write_bytes(converted(graph))
        os.replace(part, path)


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
