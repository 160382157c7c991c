"""TVM on an ONNX file, compiled for this CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drumfire.loadgen import installation
from drumfire.sut.local.backends import Backend, BackendError, BackendOptions, first_line, interface, tvm_compiled
from drumfire.sut.models.model import Form

DISTRIBUTIONS = tvm_compiled.DISTRIBUTIONS
IMPORTS = {"apache-tvm": "tvm", "onnx": "onnx"}
FORM = Form.ONNX
EXTRAS = {"cpu": "tvm"}
PRECISIONS = ("fp32",)
OPTIONS = BackendOptions


def load(model: Path, device: str, threads: int, options: BackendOptions) -> Backend:
    tvm_compiled.start(threads)
    try:
        import onnx
    except ImportError:
        raise BackendError(f"tvm-onnx needs onnx, which is not installed: {installation.command('tvm')}") from None

    if model.suffix != Form.ONNX.value:
        raise BackendError(f"tvm-onnx takes an .onnx file, not {model.name}: pass one with --weights")
    try:
        network = onnx.load(model)
    except Exception as error:  # protobuf's errors have no common base
        raise BackendError(f"{model} is not an ONNX file: {first_line(error)}") from None
    tensors = interface.fixed(options.sized(interface.of_graph(network.graph)), model, "tvm-onnx")

    def new_module(size: int) -> Any:
        from tvm.relax.frontend.onnx import from_onnx

        shapes = {one.name: one.shape(size) for one in tensors.inputs}
        dtypes = {one.name: one.dtype.name for one in tensors.inputs}
        return from_onnx(network, shape_dict=shapes, dtype_dict=dtypes, keep_params_in_input=False)

    return tvm_compiled.load(model, tensors, new_module, options)
