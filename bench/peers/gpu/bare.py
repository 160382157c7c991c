"""The bare loop on torch: ready batches, the same precision, and on a GPU what a careful person would write by hand.

That is pinned memory and a CUDA graph for each shape.  Does not depend on Drumfire's backends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from drumfire.bench.peers.bare_loop import calls_per_s, full_batches

if TYPE_CHECKING:
    import torch

_Shapes = tuple[tuple[int, ...], ...]


def dtype(precision: str) -> torch.dtype:
    """The type of weights and inputs; tf32 is a way to multiply float32."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def set_products(precision: str) -> None:
    """Let a GPU's matrix products and convolutions of float32 be exact, or tf32."""
    import torch

    kind = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = kind


def waiting(device: str) -> Callable[[], object] | None:
    """What waits for all that torch has begun on its device of this name; None where nothing is left to wait for."""
    if device != "cuda":
        return None
    import torch

    wait: Callable[[], object] = torch.cuda.synchronize
    return wait


class Loop:
    """The network and its ready batches."""

    def __init__(
        self, model: str, file: Path, device: str, precision: str, batch_size: int, in_memory: int, threads: int
    ) -> None:
        import torch

        from drumfire.sut import models
        from drumfire.sut.data.library import with_names
        from drumfire.sut.data.ragged import RaggedLibrary

        torch.set_num_threads(threads)
        set_products(precision)
        self._device = "cuda" if device == "gpu" else "cpu"
        self._dtype, self._size = dtype(precision), batch_size
        network = torch.export.load(file).module(check_guards=False).to(self._device, self._dtype)
        self._network = network.to(memory_format=torch.channels_last)
        data = models.get(model).library(performance_count=in_memory)
        self._one_size = not isinstance(data, RaggedLibrary)
        if isinstance(data, RaggedLibrary):
            data.pad(models.get(model).tensors.open_inputs)
        batches = full_batches(with_names(data), batch_size)
        self._batches = [[self._ready(samples) for samples in batch.values()] for batch in batches]
        self.facts = self._count()
        self._graphs: dict[_Shapes, tuple[Any, list[torch.Tensor], list[torch.Tensor]]] = {}
        if self._device == "cuda":
            for batch in self._batches:
                self._captured(batch)

    def _ready(self, samples: npt.NDArray[Any]) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(samples)
        if tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor.pin_memory() if self._device == "cuda" else tensor

    def _compute(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        import torch

        inputs = [one.to(self._dtype) if one.is_floating_point() else one for one in inputs]
        is_short = self._dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self._device, self._dtype, enabled=is_short):
            outputs = self._network(*inputs)
        if isinstance(outputs, dict):
            outputs = outputs.values()
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        return [output.float() if output.dtype == self._dtype else output for output in outputs]

    def _count(self) -> Mapping[str, Any]:
        """``flops_per_sample``: floating-point operations, the mean; a multiplication and an addition are two.

        They are those of the padding too, unless all samples are of ``one_size``.
        """
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            for batch in self._batches:
                self._compute([one.to(self._device) for one in batch])
        flops = float(counter.get_total_flops()) / (self._size * len(self._batches))
        return {"flops_per_sample": flops, "one_size": self._one_size}

    def _captured(self, batch: Sequence[torch.Tensor]) -> tuple[Any, list[torch.Tensor], list[torch.Tensor]]:
        import torch

        shapes = tuple(tuple(one.shape) for one in batch)
        if shapes not in self._graphs:
            inputs = [one.to("cuda") for one in batch]
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self._compute(inputs)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                outputs = self._compute(inputs)
            self._graphs[shapes] = graph, inputs, outputs
        return self._graphs[shapes]

    def _with_copies(self, batch: Sequence[torch.Tensor]) -> None:
        """From memory of the host into memory of the host."""
        if self._device == "cpu":
            self._compute(batch)
            return
        graph, inputs, outputs = self._captured(batch)
        for to, samples in zip(inputs, batch, strict=True):
            to.copy_(samples, non_blocking=True)
        graph.replay()
        for output in outputs:
            output.cpu()

    def _alone(self, batch: Sequence[torch.Tensor]) -> None:
        """The computation; it may still be under way."""
        if self._device == "cpu":
            self._compute(batch)
        else:
            self._captured(batch)[0].replay()

    def rate(self, seconds: float, *which: Any) -> float:
        """Samples a second, from the host's memory and back.

        ``which``: with the word ``alone``, those of the computation alone, with all data on the device.
        """
        call = self._alone if which == ("alone",) else self._with_copies
        given = [(batch,) for batch in self._batches]
        return calls_per_s(call, seconds, given=given, wait=waiting(self._device)) * self._size
