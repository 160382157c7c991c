"""TFLite through LiteRT, on the CPU: an interpreter for each batch size, as resizing one between batches costs more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen import installation
from drumfire.loadgen.environment import versions
from drumfire.sut.local.backends import Backend, BackendError, BackendOptions, buckets, first_line, interface
from drumfire.sut.local.silence import silenced
from drumfire.sut.models.model import Form

DISTRIBUTIONS = ("ai-edge-litert",)
FORM = Form.TFLITE
EXTRAS = {"cpu": "tflite"}
PRECISIONS = ("fp32",)
OPTIONS = BackendOptions


def load(model: Path, device: str, threads: int, options: BackendOptions) -> Backend:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise BackendError(f"ai-edge-litert is not installed: {installation.command('tflite')}") from None

    if model.suffix != Form.TFLITE.value:
        raise BackendError(f"tflite takes a .tflite file, not {model.name}: pass one with --weights")
    try:
        with silenced():
            details = interface.only(Interpreter(str(model)).get_input_details())
            fixed, *sample = map(int, details["shape"])
            # Converters write a batch size of 1 also where it can be resized.
            any_size = fixed == 1 or details["shape_signature"][0] == -1
            sizes = buckets.ladder(options.max_batch_size, fine=True) if any_size else (fixed,)
            runs = {size: _sized(Interpreter(str(model), num_threads=threads), size) for size in sizes}
    except (ValueError, RuntimeError) as error:
        raise BackendError(f"tflite cannot load {model}: {first_line(error)}") from None
    version = versions(DISTRIBUTIONS)[DISTRIBUTIONS[0]]
    takes = interface.Input(details["name"], np.dtype(details["dtype"]), None if any_size else fixed, tuple(sample))
    return buckets.PaddedModel(runs, takes, f"ai-edge-litert {version} XNNPACK")


def _sized(interpreter: Any, size: int) -> buckets.RunSized:
    """Runs batches of one size."""
    (details,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(details["index"], [size, *details["shape"][1:]])
    interpreter.allocate_tensors()
    outputs = _ordered(interpreter)

    def run(batch: buckets.Array) -> Sequence[buckets.Array]:
        interpreter.set_tensor(details["index"], batch)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return run


def _ordered(interpreter: Any) -> list[int]:
    """The indices of the outputs, ordered by their names in the signature: the file may hold them in any order."""
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return [output["index"] for output in interpreter.get_output_details()]
    ((key, names),) = signatures.items()
    details = interpreter.get_signature_runner(key).get_output_details()
    return [details[name]["index"] for name in sorted(names["outputs"], key=lambda name: (len(name), name))]
