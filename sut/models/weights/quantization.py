"""An ONNX file in int8 for onnxruntime: weights by output channel, activations by what some samples make of them.

The last layers and all that follows them (boxes, the best scores) stay as they are, and so does what comes before the
first.  Knows graphs and onnxruntime's quantizer; must not know any one model.
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

from drumfire.loadgen import installation
from drumfire.sut.models.model import MissingExtra

_WEIGHTED = {"Conv", "Gemm", "MatMul"}
_BATCH_SIZE = 8
_OPSET_BY_CHANNEL = 13
"""The first operator set whose scales may differ by channel."""


class QuantizeError(ValueError):
    """A network that can not be made int8.  The text is one line and names the mend."""


def quantize(source: Path, samples: npt.NDArray[Any], target: Path) -> None:
    """Write the network in ``source`` in int8 to ``target``, replacing the file in one step.

    ``samples``: (n, *sample_shape), as the network takes them.  Raises ``QuantizeError`` and ``MissingExtra``.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingExtra(
            f"quantizing needs {error.name}, which is not installed: {installation.command('onnx-cpu,quantize')}"
        ) from None
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
            opset = max(one.version for one in network.opset_import if one.domain in ("", "ai.onnx"))
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
    """The samples in batches, as onnxruntime's quantizer asks for them."""

    def __init__(self, graph: Any, samples: npt.NDArray[Any]) -> None:
        constants = {one.name for one in graph.initializer}
        (given,) = (one for one in graph.input if one.name not in constants)
        size = given.type.tensor_type.shape.dim[0].dim_value or _BATCH_SIZE
        whole = len(samples) // size * size or len(samples)
        batches = np.split(samples[:whole], range(size, whole, size))
        self._batches: Iterator[dict[str, npt.NDArray[Any]]] = iter([{given.name: batch} for batch in batches])

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        return next(self._batches, None)


def _inner_nodes(graph: Any) -> list[str]:
    """The layers with weights and what lies between them, without the last on each way to an output."""
    constants = {one.name for one in graph.initializer}

    def weighted(node: Any) -> bool:
        return node.op_type in _WEIGHTED and node.input[1] in constants

    behind: set[str] = set()  # tensors that come from a layer with weights
    for node in graph.node:
        if weighted(node) or behind.intersection(node.input):
            behind.update(node.output)
    before: set[str] = set()  # tensors that go to one
    inner = []
    for node in reversed(graph.node):
        follows = bool(before.intersection(node.output))
        if weighted(node) or follows:
            before.update(node.input)
        if follows and behind.intersection(node.output):
            inner.append(node.name)
    return inner[::-1]
