"""TFLite by LiteRT, on the CPU: an interpreter for each batch size, as a resize between batches would cost more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.loadgen.environment import versions
from drumfire.sut.local.backends import Backend, BackendError, Tuning, buckets, first_line
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
        raise BackendError(f"tflite takes a .tflite file, not {model.name}: give one with --weights")
    try:
        with silenced():
            inputs = Interpreter(str(model)).get_input_details()
            if len(inputs) != 1:
                raise ValueError(f"the model has {len(inputs)} inputs; models of one input can be run")
            any_size = _takes_any_size(inputs[0])
            sizes = buckets.ladder(tuning.max_batch_size, fine=True) if any_size else (int(inputs[0]["shape"][0]),)
            runs = {size: _Sized(Interpreter(str(model), num_threads=threads), size) for size in sizes}
    except (ValueError, RuntimeError) as error:
        raise BackendError(f"tflite cannot load {model}: {first_line(error)}") from None
    return TfLite(runs, inputs[0], None if any_size else sizes[0])


def _takes_any_size(details: dict[str, Any]) -> bool:
    """A batch size of one says nothing: converters write it for any."""
    shape, signature = details["shape"], details["shape_signature"]
    return len(shape) > 0 and (shape[0] == 1 or signature[0] == -1)


class TfLite:
    """Fills a batch up to the next size that there is an interpreter for."""

    def __init__(self, runs: dict[int, _Sized], details: dict[str, Any], fixed_batch_size: int | None) -> None:
        self.sample_shape = tuple(map(int, details["shape"][1:]))
        self.sample_dtype: npt.DTypeLike = np.dtype(details["dtype"])
        self._buckets = buckets.Buckets({size: one.run for size, one in runs.items()})
        self.fixed_batch_size = fixed_batch_size
        version = versions(DISTRIBUTIONS)[DISTRIBUTIONS[0]]
        self.description = f"ai-edge-litert {version} XNNPACK, {buckets.told(self._buckets.sizes)}"

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        return self._buckets.run(batch)

    def close(self) -> None:
        self._buckets = buckets.Buckets({})


class _Sized:
    """An interpreter for one batch size."""

    def __init__(self, interpreter: Any, size: int) -> None:
        self._interpreter = interpreter
        (given,) = interpreter.get_input_details()
        self._input = given["index"]
        interpreter.resize_tensor_input(self._input, [size, *given["shape"][1:]])
        interpreter.allocate_tensors()
        self._outputs = _ordered(interpreter)

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        self._interpreter.set_tensor(self._input, batch)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _ordered(interpreter: Any) -> list[int]:
    """Where the outputs are, in the order of the signature's names: the file has them in any."""
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return [one["index"] for one in interpreter.get_output_details()]
    ((key, names),) = signatures.items()
    details = interpreter.get_signature_runner(key).get_output_details()
    return [details[name]["index"] for name in sorted(names["outputs"], key=lambda name: (len(name), name))]
