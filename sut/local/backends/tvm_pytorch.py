"""TVM on a program exported by PyTorch, compiled for this CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen import installation
from drumfire.sut.local.backends import Backend, BackendError, BackendOptions, interface, tvm_compiled
from drumfire.sut.models.model import Form

DISTRIBUTIONS = (*tvm_compiled.DISTRIBUTIONS, "torch")
IMPORTS = {"apache-tvm": "tvm", "torch": "torch"}
FORM = Form.TORCH
EXTRAS = {"cpu": "tvm-pytorch"}
PRECISIONS = ("fp32",)
OPTIONS = BackendOptions


def load(model: Path, device: str, threads: int, options: BackendOptions) -> Backend:
    tvm_compiled.start(threads)
    try:
        import torch
    except ImportError:
        raise BackendError(f"torch is not installed: {installation.command('tvm-pytorch')}") from None

    if model.suffix != Form.TORCH.value:
        raise BackendError(f"tvm-pytorch takes an exported program (.pt2), not {model.name}: run it on tvm-onnx")
    program, tensors = interface.of_program(model)
    tensors = interface.fixed(options.sized(tensors), model, "tvm-pytorch")

    def new_module(size: int) -> Any:
        from tvm.relax.frontend.torch import from_exported_program

        # With the batch size fixed, loops have known bounds.
        network = program.module(check_guards=False)
        zeros = [torch.from_numpy(np.zeros(one.shape(size), one.dtype)) for one in tensors.inputs]
        words = interface.keywords(program)
        first = len(zeros) - len(words)
        fixed = torch.export.export(network, tuple(zeros[:first]), dict(zip(words, zeros[first:], strict=True)))
        own = {"div.Tensor_mode": _division}
        return from_exported_program(fixed, unwrap_unit_return_tuple=True, custom_convert_map=own)

    return tvm_compiled.load(model, tensors, new_module, options)


def _division(node: Any, importer: Any) -> Any:
    """Convert a floor division by a constant, which TVM's own converter refuses for a dividend of another type."""
    from tvm import relax

    dividend, divisor = importer.retrieve_args(node)[:2]
    if node.kwargs.get("rounding_mode") == "floor" and isinstance(divisor, int):
        return importer.block_builder.emit(relax.op.floor_divide(dividend, relax.const(divisor, dividend.ty.dtype)))
    return importer._div(node)
