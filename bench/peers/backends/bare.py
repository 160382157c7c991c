"""The bare loops: each framework called directly, on ready batches of the same size.

Does not depend on Drumfire's backends.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt

Batch = npt.NDArray[Any]
Call = Callable[[Batch], object]
"""Computes a batch, of the fixed size and in the file's layout, and leaves the outputs in memory."""


def onnx_session(model: Path, threads: int) -> Any:
    """A session of ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def torch_program(model: Path, threads: int) -> Any:
    """An exported program, on the CPU.  Sets the threads of the process."""
    import torch

    torch.set_num_threads(threads)
    return torch.export.load(model).module(check_guards=False)


def _onnxruntime(model: Path, batch: Batch, threads: int) -> Call:
    session = onnx_session(model, threads)
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})


def _tflite(model: Path, batch: Batch, threads: int) -> Call:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model), num_threads=threads)
    given = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(given, batch.shape)
    interpreter.allocate_tensors()
    outputs = [one["index"] for one in interpreter.get_output_details()]

    def call(batch: Batch) -> object:
        interpreter.set_tensor(given, batch)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return call


def _pytorch(model: Path, batch: Batch, threads: int) -> Call:
    import torch

    network = torch_program(model, threads).to(memory_format=torch.channels_last)

    def call(batch: Batch) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(batch).permute(0, 3, 1, 2)).numpy()

    return call


LOOPS: dict[str, Callable[[Path, Batch, int], Call]] = {
    "onnxruntime": _onnxruntime,
    "tflite": _tflite,
    "pytorch": _pytorch,
}
"""By the backend's name: made from a file, an example batch, and a number of threads."""
