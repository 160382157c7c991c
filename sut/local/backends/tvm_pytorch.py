"""TVM on a program that PyTorch exported, compiled for this CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drumfire.loadgen import installation
from drumfire.sut.local.backends import Backend, BackendError, Tuning, first_line, tvm_compiled
from drumfire.sut.models.model import Form

DISTRIBUTIONS = (*tvm_compiled.DISTRIBUTIONS, "torch")
FORM = Form.TORCH
EXTRAS = {"cpu": "tvm-pytorch"}
PRECISIONS = ("fp32",)
COMPILE_MODES: tuple[str, ...] = ()


def load(model: Path, device: str, threads: int, tuning: Tuning) -> Backend:
    tvm_compiled.start(threads)
    try:
        import torch
    except ImportError:
        raise BackendError(f"torch is not installed: {installation.command('tvm-pytorch')}") from None

    if model.suffix != Form.TORCH.value:
        raise BackendError(f"tvm-pytorch takes an exported program (.pt2), not {model.name}: run it on tvm-onnx")
    try:
        program = torch.export.load(model)
    except Exception as error:  # torch raises many kinds
        raise BackendError(f"torch cannot load {model} as an exported program: {first_line(error)}") from None
    names = program.graph_signature.user_inputs
    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(inputs) != 1:
        raise BackendError(f"the model has {len(inputs)} inputs; models of one input can be run")
    batch, *sample = (size if isinstance(size, int) else None for size in inputs[0].shape)
    kind = inputs[0].dtype

    def module(size: int) -> Any:
        from tvm.relax.frontend.torch import from_exported_program

        # With the batch size fixed, loops have known bounds.
        network = program.module(check_guards=False)
        fixed = torch.export.export(network, (torch.zeros((size, *sample), dtype=kind),))
        own = {"div.Tensor_mode": _division}
        return from_exported_program(fixed, unwrap_unit_return_tuple=True, custom_convert_map=own)

    dtype = torch.empty(0, dtype=kind).numpy().dtype
    return tvm_compiled.load(model, tvm_compiled.Source(tuple(sample), dtype, batch, module), tuning)


def _division(node: Any, importer: Any) -> Any:
    """TVM's own gives a constant divisor its own type, and refuses to divide by it what has another."""
    from tvm import relax

    dividend, divisor = importer.retrieve_args(node)[:2]
    if node.kwargs.get("rounding_mode") == "floor" and isinstance(divisor, int):
        return importer.block_builder.emit(relax.op.floor_divide(dividend, relax.const(divisor, dividend.ty.dtype)))
    return importer._div(node)
