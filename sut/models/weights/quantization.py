"""Quantizes an ONNX file to int8 for onnxruntime: weights by output channel, activations by their range on samples.

The last layers and all that follows them (boxes, the best scores) keep their type, and so does what precedes the first
layer.  Does not depend on any particular model.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.errors import UserError
from drumfire.sut.local.backends import interface
from drumfire.sut.models.model import missing_extra

_WEIGHTED = {"Conv", "Gemm", "MatMul"}
_BATCH_SIZE = 8
_OPSET_BY_CHANNEL = 13
"""The first operator set whose scales may differ by channel."""


class QuantizeError(UserError, ValueError):
    """A network that cannot be quantized.  The text is one line and names the fix."""


def quantize(source: Path, samples: npt.NDArray[Any], target: Path) -> None:
    """Quantize the network in ``source`` and write it to ``target``, replacing the file in one step.

    ``samples``, of shape (n, *sample_shape) as the network takes them, calibrate it.  Raises ``QuantizeError`` and
    ``MissingExtra``.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise missing_extra("quantizing", error.name, "onnx-cpu,quantize") from None
    logging.getLogger("onnxruntime").setLevel(logging.ERROR)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantize-") as folder:
            ready, part = Path(folder, "ready.onnx"), Path(folder, target.name)
            quantization.quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
            network = onnx.load(ready)
            for number, node in enumerate(network.graph.node):
                node.name = node.name or f"node_{number}"
            inner = _inner_nodes(network.graph)
            if not inner:
                raise QuantizeError(f"{source} has no two layers with weights one after the other: nothing is gained")
            opset = max(imported.version for imported in network.opset_import if imported.domain in ("", "ai.onnx"))
            quantization.quantize_static(
                network,
                str(part),
                _Calibration(network.graph, samples),
                per_channel=opset >= _OPSET_BY_CHANNEL,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_quantize=inner,
            )
            os.replace(part, target)
    except QuantizeError:
        raise
    except OSError as error:
        raise QuantizeError(f"cannot write {target}: {error.strerror or error}; choose another --output") from None
    except Exception as error:  # onnx and onnxruntime raise many kinds
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise QuantizeError(
            f"onnxruntime cannot quantize {source} ({text}): is it an ONNX file of this model?"
        ) from None


class _Calibration:
    """The samples in batches, in the interface of onnxruntime's ``CalibrationDataReader``."""

    def __init__(self, graph: Any, samples: npt.NDArray[Any]) -> None:
        takes = interface.of_graph(graph)
        size = takes.batch_size or _BATCH_SIZE
        whole = len(samples) // size * size or len(samples)
        batches = np.split(samples[:whole], range(size, whole, size))
        self._batches: Iterator[dict[str, npt.NDArray[Any]]] = iter([{takes.name: batch} for batch in batches])

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        return next(self._batches, None)


def _inner_nodes(graph: Any) -> list[str]:
    """The layers with weights and the nodes between them, without the last such layer on each path to an output."""
    constants = {tensor.name for tensor in graph.initializer}

    def weighted(node: Any) -> bool:
        return node.op_type in _WEIGHTED and node.input[1] in constants

    behind: set[str] = set()  # tensors that depend on a layer with weights
    for node in graph.node:
        if weighted(node) or behind.intersection(node.input):
            behind.update(node.output)
    before: set[str] = set()  # tensors that a layer with weights depends on
    inner = []
    for node in reversed(graph.node):
        follows = bool(before.intersection(node.output))
        if weighted(node) or follows:
            before.update(node.input)
        if follows and behind.intersection(node.output):
            inner.append(node.name)
    return inner[::-1]
