"""PyTorch, on the CPU or an NVIDIA GPU: an exported program, run operation by operation or compiled.

Images are kept channels last, which makes convolutions faster on both devices.  On a GPU each prepared batch size is a
CUDA graph, so that a batch costs one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.loadgen.options import option
from drumfire.loadgen.system import Batch
from drumfire.sut.local.backends import Backend, BackendError, PrecisionOptions, buckets, first_line, interface
from drumfire.sut.models.model import Form
from drumfire.sut.models.tensors import Input, Tensors

if TYPE_CHECKING:
    import torch

DISTRIBUTIONS = ("torch",)
IMPORTS = {"torch": "torch"}
FORM = Form.TORCH
EXTRAS = {"cpu": "pytorch", "gpu": "pytorch"}
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

_MOST_SIZES = 64
"""Programs that torch may compile from one network before it stops: more than there are powers of two."""

_Network = Callable[..., Any]
"""Takes the inputs in the program's order."""


@dataclass(frozen=True)
class PyTorchOptions(PrecisionOptions):
    """The options of this backend."""

    compile: str | None = option(
        None,
        metavar="MODE",
        choices=("default", "max-autotune"),
        help="compile the network before the run: default or max-autotune (default: no compilation)",
    )


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
        tensors = interface.fixed(
            options.sized(tensors), model, "pytorch on the GPU" if device == "gpu" else "compiled pytorch"
        )
    torch.set_num_threads(threads)
    if device == "gpu":
        return _OnGpu(program, tensors, options)
    return _OnCpu(program, tensors, options)


class _PyTorch:
    """What both devices share: the network in its precision and layout, and its tensors."""

    def __init__(self, program: Any, tensors: Tensors, options: PyTorchOptions, device: str) -> None:
        import torch

        self._device, self._are_images = device, [one.is_image for one in tensors.inputs]
        self.tensors = replace(tensors, inputs=tuple(one.as_channels_last for one in tensors.inputs))
        # The guards would only repeat what is checked before a run.
        network = program.module(check_guards=False).to(device)
        has_images = any(self._are_images)
        if has_images:
            network = network.to(memory_format=torch.channels_last)
        self._computed = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.precision)
        if self._computed is not None:
            network = network.to(self._computed)
        self._ways = [options.precision, "channels last" if has_images else "", "eager"]
        self._network: _Network = network
        if options.compile is not None:
            self._compile(options.compile)
        self._keywords = interface.keywords(program)

    @property
    def description(self) -> str:
        import torch

        return f"torch {torch.__version__} {', '.join(filter(None, self._ways))}"

    def _compile(self, mode: str) -> None:
        import torch
        from torch._inductor import config

        # Weights become constants: batch norms are folded into the convolutions, and weights stored as they are read.
        config.freezing = True
        chosen = {"default": "default", "max-autotune": "max-autotune-no-cudagraphs"}[mode]
        torch._dynamo.config.recompile_limit = _MOST_SIZES
        # One program for each batch size: freezing does not support open sizes.
        self._network = torch.compile(self._network, mode=chosen, dynamic=False)
        self._ways[-1] = f"compiled ({mode})"

    def _sizes_of(self, options: PyTorchOptions, *, fine: bool) -> tuple[int, ...]:
        """The batch sizes to prepare."""
        if self.tensors.batch_size is not None:
            return (self.tensors.batch_size,)
        return buckets.ladder(options.max_batch_size, fine=fine)

    def _outputs(self, batch: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """All outputs in the program's own types, for inputs in the order and the layouts of ``tensors``."""
        import torch

        inputs = []
        for samples, is_image in zip(batch, self._are_images, strict=True):
            if is_image:
                samples = samples.permute(0, 3, 1, 2)
            if self._computed is not None and samples.is_floating_point():
                samples = samples.to(self._computed)
            inputs.append(samples)
        # Some operations in the program fix their own type: autocast reconciles it with the type of the weights.
        with torch.autocast(self._device, self._computed, enabled=self._computed is not None):
            first = len(inputs) - len(self._keywords)
            named = dict(zip(self._keywords, inputs[first:], strict=True))
            outputs = self._network(*inputs[:first], **named)
        if isinstance(outputs, torch.Tensor):
            outputs = [outputs]
        elif isinstance(outputs, dict):
            outputs = list(outputs.values())
        return [output.float() if output.dtype == self._computed else output for output in outputs]


def _as_tensor(samples: npt.NDArray[Any], one: Input) -> torch.Tensor:
    """A view."""
    import torch

    tensor = torch.from_numpy(samples)
    return tensor.view(torch.bfloat16) if one.is_bfloat16 else tensor


def _as_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A view of a tensor on the CPU; the bits of bfloat16."""
    import torch

    array: npt.NDArray[Any] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


class _OnCpu(_PyTorch):
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
            inputs = [_as_tensor(batch[one.name], one) for one in self.tensors.inputs]
            return [_as_array(output) for output in self._outputs(inputs)]

    def run(self, batch: Batch) -> Sequence[npt.NDArray[Any]]:
        return self._run(batch)

    def close(self) -> None:
        pass


class _OnGpu(_PyTorch):
    """Has a CUDA graph for each batch size; batches are padded to the next size."""

    def __init__(self, program: Any, tensors: Tensors, options: PyTorchOptions) -> None:
        import torch

        kind = "tf32" if options.precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = kind
        super().__init__(program, tensors, options, "cuda")
        sizes = self._sizes = self._sizes_of(options, fine=options.compile is None)
        self._stream = torch.cuda.Stream()
        zeros = self.tensors.zeros(sizes[-1])
        largest = {one.name: _as_tensor(zeros[one.name], one) for one in self.tensors.inputs}
        self._staged = {name: zeros.pin_memory() for name, zeros in largest.items()}
        self._inputs = {name: zeros.to("cuda") for name, zeros in largest.items()}
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, list[torch.Tensor]]] = {}
        try:
            # The largest first: the others reuse its memory.
            for size in reversed(sizes):
                self._graphs[size] = self._captured(size)
        except Exception as error:  # torch raises many kinds, CUDA's among them
            raise BackendError(f"torch cannot make a CUDA graph of the model: {first_line(error)}") from None
        self._ways += [torch.cuda.get_device_name(), "CUDA graphs", buckets.description(sizes)]

    def _captured(self, size: int) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor]]:
        import torch

        batch = [samples[:size] for samples in self._inputs.values()]
        pool = next(iter(self._graphs.values()))[0].pool() if self._graphs else None
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(3):  # libraries choose their kernels and allocate their workspace outside the graph
                self._outputs(batch)
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                outputs = self._outputs(batch)
        return graph, outputs

    def run(self, batch: Batch) -> Sequence[npt.NDArray[Any]]:
        import torch

        count = buckets.count_of(batch)
        size = buckets.fitting(self._sizes, count)
        graph, outputs = self._graphs[size]
        # The GPU copies from pinned memory without the CPU.
        for name, staged in self._staged.items():
            _as_array(staged[:count])[...] = batch[name]
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for name, staged in self._staged.items():
                self._inputs[name][:count].copy_(staged[:count], non_blocking=True)
            graph.replay()
            return [_as_array(output[:count].cpu()) for output in outputs]

    def close(self) -> None:
        self._graphs.clear()
