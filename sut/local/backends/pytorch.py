"""PyTorch, on the CPU or an NVIDIA GPU: an exported program, run operation by operation or compiled.

Images are kept channels last, which the convolutions of both devices are faster on.  On a GPU each batch size that is
made ready for is a CUDA graph, so that a batch costs one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.sut.local.backends import Backend, BackendError, Tuning, buckets, first_line
from drumfire.sut.models.model import Form

if TYPE_CHECKING:
    import torch

DISTRIBUTIONS = ("torch",)
FORM = Form.TORCH
EXTRAS = {"cpu": "pytorch", "gpu": "pytorch"}
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
COMPILE_MODES = ("default", "max-autotune")

_MOST_CHANNELS = 4
"""A sample of three dimensions whose first is no larger is an image, and that dimension its channels."""

_MOST_SIZES = 64
"""Programs that torch may compile of one network before it gives up: more than there are powers of two."""

_Network = Callable[["torch.Tensor"], Any]


def load(model: Path, device: str, threads: int, tuning: Tuning) -> Backend:
    try:
        import torch
    except ImportError:
        raise BackendError(f"torch is not installed: {installation.command('pytorch')}") from None

    if model.suffix == Form.ONNX.value:
        raise BackendError(
            f"pytorch takes an exported program (.pt2), not {model.name}: give one with --weights, or run it on "
            "onnxruntime"
        )
    if device == "gpu" and not torch.cuda.is_available():
        built = "sees no GPU" if torch.version.cuda else "is built for the CPU only"
        raise BackendError(f"this torch {torch.__version__} {built}: install one with CUDA, or run on the cpu")
    try:
        program = torch.export.load(model)
    except Exception as error:  # torch raises many kinds
        raise BackendError(f"torch cannot load {model} as an exported program: {first_line(error)}") from None
    torch.set_num_threads(threads)
    if device == "gpu":
        return _OnGpu(program, tuning)
    return _OnCpu(program, tuning)


class _PyTorch:
    """What both devices share: the network in its precision and layout, and what its input is."""

    fixed_batch_size: int | None

    def __init__(self, program: Any, tuning: Tuning, device: str) -> None:
        import torch

        names = program.graph_signature.user_inputs
        inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
        if len(inputs) != 1:
            raise BackendError(f"the model has {len(inputs)} inputs; models of one input can be run")
        batch, *sample = (size if isinstance(size, int) else None for size in inputs[0].shape)
        self.fixed_batch_size = batch
        self._type: torch.dtype = inputs[0].dtype
        self.sample_dtype: npt.DTypeLike = torch.empty(0, dtype=self._type).numpy().dtype
        self._image = len(sample) == 3 and sample[0] is not None and sample[0] <= _MOST_CHANNELS
        self.sample_shape = tuple(sample[1:] + sample[:1]) if self._image else tuple(sample)
        # Its guards only repeat what is checked before a run.
        network = program.module(check_guards=False).to(device)
        if self._image:
            network = network.to(memory_format=torch.channels_last)
        self._computed = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(tuning.precision)
        if self._computed is not None:
            network = network.to(self._computed)
        self._told = [tuning.precision, "channels last" if self._image else "", "eager"]
        self._network: _Network = network
        if tuning.compile is not None:
            self._compile(tuning.compile)

    @property
    def description(self) -> str:
        import torch

        return f"torch {torch.__version__} {', '.join(filter(None, self._told))}"

    def _compile(self, mode: str) -> None:
        import torch
        from torch._inductor import config

        # Weights as constants: batch norms go into the convolutions, and weights into the layout they are read in.
        config.freezing = True
        chosen = {"default": "default", "max-autotune": "max-autotune-no-cudagraphs"}[mode]
        torch._dynamo.config.recompile_limit = _MOST_SIZES
        # For each batch size by itself: freezing does not go together with sizes that are left open.
        self._network = torch.compile(self._network, mode=chosen, dynamic=False)
        self._told[-1] = f"compiled ({mode})"

    def _sizes_of(self, tuning: Tuning, *, fine: bool) -> tuple[int, ...]:
        """The batch sizes to make ready for."""
        if None in self.sample_shape:
            raise BackendError("the model leaves sizes open besides the batch: export it with fixed ones")
        if self.fixed_batch_size is not None:
            return (self.fixed_batch_size,)
        return buckets.ladder(tuning.max_batch_size, fine=fine)

    def _outputs(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """All outputs in the types that the program itself gives, for a batch in the layout of ``sample_shape``."""
        import torch

        if self._image:
            batch = batch.permute(0, 3, 1, 2)
        if self._computed is not None and batch.is_floating_point():
            batch = batch.to(self._computed)
        # Within the program some operations ask for a type of their own: autocast reconciles them with the weights'.
        kind, wanted = batch.device.type, self._computed is not None
        with torch.autocast(kind, self._computed, enabled=wanted):
            given = self._network(batch)
        if isinstance(given, torch.Tensor):
            given = [given]
        elif isinstance(given, dict):
            given = list(given.values())
        return [one.float() if one.dtype == self._computed else one for one in given]


class _OnCpu(_PyTorch):
    """Takes batches of any size; where compiled, the program is made for each size, and a batch is filled up."""

    def __init__(self, program: Any, tuning: Tuning) -> None:
        super().__init__(program, tuning, "cpu")
        self._run: Callable[[npt.NDArray[Any]], Sequence[npt.NDArray[Any]]] = self._computed_on
        if tuning.compile is None:
            return
        sizes = self._sizes_of(tuning, fine=False)
        self._run = buckets.Buckets(dict.fromkeys(sizes, self._computed_on)).run
        self._told.append(buckets.told(sizes))
        for size in sizes:  # now, rather than in the run
            try:
                self.run(np.zeros((size, *self.sample_shape), self.sample_dtype))  # type: ignore[arg-type]
            except Exception as error:  # a compiler behind a compiler: anything may come
                raise BackendError(f"torch cannot compile the model: {first_line(error)}") from None

    def _computed_on(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        import torch

        with torch.inference_mode():
            return [output.numpy() for output in self._outputs(torch.from_numpy(batch))]

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        return self._run(batch)

    def close(self) -> None:
        pass


class _OnGpu(_PyTorch):
    """A CUDA graph for each batch size; a batch is filled up to the next."""

    def __init__(self, program: Any, tuning: Tuning) -> None:
        import torch

        kind = "tf32" if tuning.precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = kind
        super().__init__(program, tuning, "cuda")
        sizes = self._sizes = self._sizes_of(tuning, fine=tuning.compile is None)
        self._stream = torch.cuda.Stream()
        shape = (sizes[-1], *self.sample_shape)
        self._staged = torch.zeros(shape, dtype=self._type, pin_memory=True)  # type: ignore[arg-type]
        self._given = torch.zeros(shape, dtype=self._type, device="cuda")  # type: ignore[arg-type]
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, list[torch.Tensor]]] = {}
        try:
            # The largest first: the memory that it takes serves the others.
            for size in reversed(sizes):
                self._graphs[size] = self._captured(size)
        except Exception as error:  # torch raises many kinds, CUDA's among them
            raise BackendError(f"torch cannot make a CUDA graph of the model: {first_line(error)}") from None
        self._told += [torch.cuda.get_device_name(), "CUDA graphs", buckets.told(sizes)]

    def _captured(self, size: int) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor]]:
        import torch

        batch = self._given[:size]
        pool = next(iter(self._graphs.values()))[0].pool() if self._graphs else None
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(3):  # libraries choose their kernels and take their workspace outside of the graph
                self._outputs(batch)
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                outputs = self._outputs(batch)
        return graph, outputs

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        import torch

        count = len(batch)
        size = buckets.fitting(self._sizes, count)
        graph, outputs = self._graphs[size]
        # From the pinned copy the GPU fetches by itself.
        self._staged[:count].numpy()[...] = batch
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            self._given[:count].copy_(self._staged[:count], non_blocking=True)
            graph.replay()
            return [output[:count].cpu().numpy() for output in outputs]

    def close(self) -> None:
        self._graphs.clear()
