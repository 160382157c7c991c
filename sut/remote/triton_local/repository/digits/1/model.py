"""The digits network: one session run computes all requests of one call as one batch.

Runs in the server's environment, not this project's.  The start of the server puts the weights beside this file.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the model is small: threads that wait for each other would cost more
        options.inter_op_num_threads = 1
        weights = str(Path(__file__).with_name("model.onnx"))
        self._session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def execute(self, requests):
        inputs = [triton.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        batch = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        (logits,) = self._session.run([self._output], {self._input: batch})
        ends = np.cumsum([len(each) for each in inputs])
        return [
            triton.InferenceResponse([triton.Tensor(self._output, logits[end - len(each) : end])])
            for each, end in zip(inputs, ends, strict=True)
        ]
