"""TVM on an ONNX file, compiled for this CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen import installation
from drumfire.sut.local.backends import Backend, BackendError, Tuning, first_line, tvm_compiled
from drumfire.sut.models.model import Form

DISTRIBUTIONS = tvm_compiled.DISTRIBUTIONS
FORM = Form.ONNX
EXTRAS = {"cpu": "tvm"}
PRECISIONS = ("fp32",)
COMPILE_MODES: tuple[str, ...] = ()


def load(model: Path, device: str, threads: int, tuning: Tuning) -> Backend:
    tvm_compiled.start(threads)
    try:
        import onnx
    except ImportError:
        raise BackendError(f"tvm-onnx needs onnx, which is not installed: {installation.command('tvm')}") from None

    if model.suffix != Form.ONNX.value:
        raise BackendError(f"tvm-onnx takes an .onnx file, not {model.name}: give one with --weights")
    try:
        graph = onnx.load(model)
    except Exception as error:  # protobuf's errors have no common base
        raise BackendError(f"{model} is not an ONNX file: {first_line(error)}") from None
    constants = {one.name for one in graph.graph.initializer}
    inputs = [one for one in graph.graph.input if one.name not in constants]
    if len(inputs) != 1:
        raise BackendError(f"the model has {len(inputs)} inputs; models of one input can be run")
    name, kind = inputs[0].name, inputs[0].type.tensor_type
    batch, *sample = (size.dim_value or None for size in kind.shape.dim)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))

    def module(size: int) -> Any:
        from tvm.relax.frontend.onnx import from_onnx

        shape = {name: [size, *sample]}
        return from_onnx(graph, shape_dict=shape, dtype_dict={name: dtype.name}, keep_params_in_input=False)

    return tvm_compiled.load(model, tvm_compiled.Source(tuple(sample), dtype, batch, module), tuning)
