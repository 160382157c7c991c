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

import numpy.typing as npt

from drumfire.loadgen.errors import UserError, one_line
from drumfire.loadgen.system import Batch
from drumfire.sut.data.library import named, paired
from drumfire.sut.local.backends import interface
from drumfire.sut.models.model import missing_extra
from drumfire.sut.models.tensors import Tensors

_WEIGHTED = {"Conv", "Gemm", "MatMul"}
_BATCH_SIZE = 8
_OPSET_BY_CHANNEL = 13
"""The first operator set whose scales may differ by channel."""


class QuantizeError(UserError, ValueError):
    """A network that cannot be quantized.  The text is one line and names the fix."""


def quantize(source: Path, samples: Batch | npt.NDArray[Any], target: Path) -> None:
    """Quantize the network in ``source`` and write it to ``target``, replacing the file in one step.

    ``samples`` calibrate it: arrays of shape (n, *sample_shape), as the network takes them.  Raises ``QuantizeError``,
    ``BackendError`` for a network that could not be loaded, and ``MissingExtra``.
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
            tensors = interface.of_graph(network.graph)
            for number, node in enumerate(network.graph.node):
                node.name = node.name or f"node_{number}"
            inner = _inner_nodes(network.graph)
            if not inner:
                raise QuantizeError(f"{source} has no two layers with weights one after the other: nothing is gained")
            opset = max(imported.version for imported in network.opset_import if imported.domain in ("", "ai.onnx"))
            quantization.quantize_static(
                network,
                str(part),
                _Calibration(source, tensors, named(samples)),
                per_channel=opset >= _OPSET_BY_CHANNEL,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_quantize=inner,
            )
            os.replace(part, target)
    except UserError:
        raise
    except OSError as error:
        raise QuantizeError(f"cannot write {target}: {error.strerror or error}; choose another --output") from None
    except Exception as error:  # onnx and onnxruntime raise many kinds
        raise QuantizeError(
            f"onnxruntime cannot quantize {source} ({one_line(error, 200)}): is it an ONNX file of this model?"
        ) from None


class _Calibration:
    """The samples in batches, in the interface of onnxruntime's ``CalibrationDataReader``."""

    def __init__(self, source: Path, tensors: Tensors, samples: Batch) -> None:
        names = paired([one.name for one in tensors.inputs], samples)
        if names is None:
            raise QuantizeError(f"{source} takes {tensors}, and the samples are {', '.join(samples)}")
        size, count = tensors.batch_size or _BATCH_SIZE, len(next(iter(samples.values())))
        whole = count // size * size or count
        self._batches: Iterator[Batch] = iter(
            [
                {name: samples[data][at : min(at + size, whole)] for name, data in names.items()}
                for at in range(0, whole, size)
            ]
        )

    def get_next(self) -> Batch | None:
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
