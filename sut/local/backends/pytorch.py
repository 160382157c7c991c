"""PyTorch, on the CPU or an NVIDIA GPU: an exported program, run operation by operation or compiled.

Images are kept channels last, which makes convolutions faster on both devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.loadgen.system import Batch
from drumfire.sut.local.backends import Backend, BackendError, buckets, first_line, interface
from drumfire.sut.local.backends.torch_network import PyTorchOptions, TorchNetwork, as_array, as_tensor
from drumfire.sut.models.model import Form
from drumfire.sut.models.tensors import Tensors

DISTRIBUTIONS = ("torch",)
IMPORTS = {"torch": "torch"}
FORM = Form.TORCH
EXTRAS = {"cpu": "pytorch", "gpu": "pytorch"}
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
OPTIONS = PyTorchOptions


def load(model: Path, device: str, threads: int, options: PyTorchOptions) -> Backend:
    try:
        import torch
    except ImportError:
        raise BackendError(f"torch is not installed: {installation.command('pytorch')}") from None

    if model.suffix == Form.ONNX.value:
        raise BackendError(
            f"pytorch takes an exported program (.pt2), not {model.name}: pass one with --weights, or run it on "
            "onnxruntime"
        )
    if device == "gpu" and not torch.cuda.is_available():
        built = "sees no GPU" if torch.version.cuda else "is built for the CPU only"
        raise BackendError(f"this torch {torch.__version__} {built}: install one with CUDA, or run on the cpu")
    program, tensors = interface.of_program(model)
    if device == "gpu" or options.compile is not None:
        tensors = options.sized(tensors)
    if options.compile is not None:
        tensors = interface.fixed(tensors, model, "compiled pytorch")
    torch.set_num_threads(threads)
    if device == "gpu":
        from drumfire.sut.local.backends.torch_gpu import OnGpu  # which imports torch

        return OnGpu(program, tensors, options)
    return _OnCpu(program, tensors, options)


class _OnCpu(TorchNetwork):
    """Takes batches of any size; a compiled network has one program for each size, and batches are padded."""

    def __init__(self, program: Any, tensors: Tensors, options: PyTorchOptions) -> None:
        super().__init__(program, tensors, options, "cpu")
        self._run: Callable[[Batch], Sequence[npt.NDArray[Any]]] = self._computed_on
        if options.compile is None:
            return
        sizes = self._sizes_of(options, fine=False)
        self._run = buckets.Buckets(dict.fromkeys(sizes, self._computed_on)).run
        self._ways.append(buckets.description(sizes))
        for size in sizes:  # now, rather than in the run
            try:
                self.run(self.tensors.zeros(size))
            except Exception as error:  # torch calls other compilers, which raise anything
                raise BackendError(f"torch cannot compile the model: {first_line(error)}") from None

    def _computed_on(self, batch: Batch) -> Sequence[npt.NDArray[Any]]:
        import torch

        with torch.inference_mode():
            inputs = [as_tensor(batch[one.name], one) for one in self.tensors.inputs]
            return [as_array(output) for output in self._outputs(inputs)]

    def run(self, batch: Batch) -> Sequence[npt.NDArray[Any]]:
        return self._run(batch)

    def close(self) -> None:
        pass
