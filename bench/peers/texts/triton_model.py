"""A text model in the real Triton: a session run computes all requests of a call as one batch, padded to the longest.

Runs in the server's environment, whose Python backend loads it.  The weights are beside it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

triton: Any = importlib.import_module("triton_python_backend_utils")


class TritonPythonModel:
    """Inputs are (n, length) of int64, padded with 0; an output may have the length as its second size."""

    def initialize(self, _: object) -> None:
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        weights = str(Path(__file__).with_name("model.onnx"))
        self._session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
        self._inputs = [one.name for one in self._session.get_inputs()]
        outputs = self._session.get_outputs()
        self._outputs = [one.name for one in outputs]
        self._of_length = [len(one.shape) > 2 for one in outputs]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        given = {
            name: [triton.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self._inputs
        }
        shapes = [one.shape for one in given[self._inputs[0]]]
        ends = np.cumsum([rows for rows, _ in shapes]).tolist()
        parts = [(end - rows, end, length) for end, (rows, length) in zip(ends, shapes, strict=True)]
        batch = {name: np.zeros((ends[-1], max(length for _, length in shapes)), np.int64) for name in self._inputs}
        for name, arrays in given.items():
            for array, (first, end, length) in zip(arrays, parts, strict=True):
                batch[name][first:end, :length] = array
        computed = list(zip(self._outputs, self._session.run(self._outputs, batch), self._of_length, strict=True))
        return [
            triton.InferenceResponse(
                [
                    triton.Tensor(name, output[first:end, :length] if of_length else output[first:end])
                    for name, output, of_length in computed
                ]
            )
            for first, end, length in parts
        ]
