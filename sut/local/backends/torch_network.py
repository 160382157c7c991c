"""A network of PyTorch in its precision and layout, on any device: what the CPU and the GPU share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from drumfire.loadgen.options import option
from drumfire.sut.local.backends import PrecisionOptions, buckets, interface
from drumfire.sut.models.tensors import Input, Tensors

if TYPE_CHECKING:
    import torch

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


class TorchNetwork:
    """What both devices share: the network in its precision and layout, and its tensors."""

    def __init__(self, program: Any, tensors: Tensors, options: PyTorchOptions, device: str) -> None:
        import torch

        # Samples are only read.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        # Elsewhere than first, the batch makes a tensor of four dimensions that is none of images.
        self._device, self._are_images = device, [one.is_image and one.batch_axis == 0 for one in tensors.inputs]
        inputs = (
            one.as_channels_last if is_image else one
            for one, is_image in zip(tensors.inputs, self._are_images, strict=True)
        )
        self.tensors = replace(tensors, inputs=tuple(inputs))
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


def as_tensor(samples: npt.NDArray[Any], one: Input) -> torch.Tensor:
    """A view."""
    import torch

    tensor = torch.from_numpy(samples)
    return tensor.view(torch.bfloat16) if one.is_bfloat16 else tensor


def as_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A view of a tensor on the CPU; the bits of bfloat16."""
    import torch

    array: npt.NDArray[Any] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array
