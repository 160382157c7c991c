"""Returns its input, of any datatype.  All identity models of this repository run this file.

Runs in the server's environment, not this project's.
"""

import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        return [
            triton.InferenceResponse([triton.Tensor("OUTPUT0", tensor.as_numpy())])
            for request in requests
            for tensor in request.inputs()
        ]
