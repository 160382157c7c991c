"""TFLite through LiteRT, on the CPU: an interpreter for each batch size, as resizing one between batches costs more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.loadgen.environment import versions
from drumfire.sut.local.backends import Backend, BackendError, Tuning, buckets, first_line, interface
from drumfire.sut.local.silence import silenced
from drumfire.sut.models.model import Form

DISTRIBUTIONS = ("ai-edge-litert",)
FORM = Form.TFLITE
EXTRAS = {"cpu": "tflite"}
PRECISIONS = ("fp32",)
COMPILE_MODES: tuple[str, ...] = ()


def load(model: Path, device: str, threads: int, tuning: Tuning) -> Backend:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise BackendError(f"ai-edge-litert is not installed: {installation.command('tflite')}") from None

    if model.suffix != Form.TFLITE.value:
        raise BackendError(f"tflite takes a .tflite file, not {model.name}: pass one with --weights")
    try:
        with silenced():
            takes = interface.only(Interpreter(str(model)).get_input_details())
            any_size = _takes_any_size(takes)
            sizes = buckets.ladder(tuning.max_batch_size, fine=True) if any_size else (int(takes["shape"][0]),)
            runs = {size: _Sized(Interpreter(str(model), num_threads=threads), size).run for size in sizes}
    except (ValueError, RuntimeError) as error:
        raise BackendError(f"tflite cannot load {model}: {first_line(error)}") from None
    return TfLite(runs, takes, None if any_size else sizes[0])


def _takes_any_size(details: dict[str, Any]) -> bool:
    """Whether the batch can be resized: converters write a batch size of 1 also where it can."""
    shape, signature = details["shape"], details["shape_signature"]
    return len(shape) > 0 and (shape[0] == 1 or signature[0] == -1)


class TfLite:
    """Pads a batch to the next size that has an interpreter."""

    def __init__(
        self, runs: Mapping[int, buckets.RunSized], details: dict[str, Any], fixed_batch_size: int | None
    ) -> None:
        self.sample_shape = tuple(map(int, details["shape"][1:]))
        self.sample_dtype: npt.DTypeLike = np.dtype(details["dtype"])
        self._buckets = buckets.Buckets(runs)
        self.fixed_batch_size = fixed_batch_size
        version = versions(DISTRIBUTIONS)[DISTRIBUTIONS[0]]
        self.description = f"ai-edge-litert {version} XNNPACK, {buckets.description(self._buckets.sizes)}"

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        return self._buckets.run(batch)

    def close(self) -> None:
        self._buckets = buckets.Buckets({})


class _Sized:
    """An interpreter for one batch size."""

    def __init__(self, interpreter: Any, size: int) -> None:
        self._interpreter = interpreter
        (details,) = interpreter.get_input_details()
        self._input = details["index"]
        interpreter.resize_tensor_input(self._input, [size, *details["shape"][1:]])
        interpreter.allocate_tensors()
        self._outputs = _ordered(interpreter)

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        self._interpreter.set_tensor(self._input, batch)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _ordered(interpreter: Any) -> list[int]:
    """The indices of the outputs, ordered by their names in the signature: the file may hold them in any order."""
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return [output["index"] for output in interpreter.get_output_details()]
    ((key, names),) = signatures.items()
    details = interpreter.get_signature_runner(key).get_output_details()
    return [details[name]["index"] for name in sorted(names["outputs"], key=lambda name: (len(name), name))]
