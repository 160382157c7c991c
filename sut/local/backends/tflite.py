"""TFLite through LiteRT, on the CPU: an interpreter for each batch size, as resizing one between batches costs more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drumfire.loadgen import installation
from drumfire.loadgen.environment import versions
from drumfire.loadgen.system import Batch
from drumfire.sut.local.backends import Backend, BackendError, BackendOptions, buckets, first_line, interface
from drumfire.sut.local.silence import silenced
from drumfire.sut.models.model import Form
from drumfire.sut.models.tensors import Tensors

DISTRIBUTIONS = ("ai-edge-litert",)
IMPORTS = {"ai-edge-litert": "ai_edge_litert"}
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
            takes, gives = _named(Interpreter(str(model)))
            found = []
            for name, details in takes.items():
                sizes: list[int | str] = ["" if size == -1 else int(size) for size in details["shape_signature"]]
                if sizes[:1] == [1]:  # converters write a batch size of 1 also where it can be resized
                    sizes[0] = ""
                found.append(interface.taken(name, sizes, details["dtype"]))
            inputs, _ = interface.as_inputs(found)
            shapes = tuple(interface.shape_of(one["shape_signature"].tolist()) for one in gives.values())
            tensors = Tensors(inputs, tuple(gives), output_shapes=shapes)
            tensors = interface.fixed(options.sized(tensors), model, "tflite")
            only = tensors.batch_size
            batches = (only,) if only else buckets.ladder(options.max_batch_size, fine=True)
            runs = {size: _sized(Interpreter(str(model), num_threads=threads), tensors, size) for size in batches}
    except BackendError:
        raise
    except (ValueError, RuntimeError) as error:
        raise BackendError(f"tflite cannot load {model}: {first_line(error)}") from None
    version = versions(DISTRIBUTIONS)[DISTRIBUTIONS[0]]
    return buckets.PaddedModel(runs, tensors, f"ai-edge-litert {version} XNNPACK")


def _sized(interpreter: Any, tensors: Tensors, size: int) -> buckets.RunSized:
    """Runs batches of one size."""
    takes, gives = _named(interpreter)
    for one in tensors.inputs:
        interpreter.resize_tensor_input(takes[one.name]["index"], one.shape(size))
    interpreter.allocate_tensors()

    def run(batch: Batch) -> Sequence[buckets.Array]:
        for name, details in takes.items():
            interpreter.set_tensor(details["index"], batch[name])
        interpreter.invoke()
        return [interpreter.get_tensor(details["index"]) for details in gives.values()]

    return run


def _named(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The details of the inputs and of the outputs, by their names in the signature, or else in the file.

    The outputs are ordered by name: a file with a signature may hold them in any order.
    """
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        takes, gives = interpreter.get_input_details(), interpreter.get_output_details()
        return {one["name"]: one for one in takes}, {one["name"]: one for one in gives}
    ((key, names),) = signatures.items()
    runner = interpreter.get_signature_runner(key)
    takes, gives = runner.get_input_details(), runner.get_output_details()
    ordered = sorted(names["outputs"], key=lambda name: (len(name), name))
    return {name: takes[name] for name in names["inputs"]}, {name: gives[name] for name in ordered}
