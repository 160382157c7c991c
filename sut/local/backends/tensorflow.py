"""TensorFlow, on the CPU or an NVIDIA GPU: an ONNX file, a SavedModel's folder or a frozen graph (.pb)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.loadgen.system import Batch
from drumfire.sut.local.backends import Backend, BackendError, PrecisionOptions, first_line, interface
from drumfire.sut.local.silence import silenced
from drumfire.sut.models.model import Form
from drumfire.sut.models.tensors import Tensors

DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu")
IMPORTS = {"tensorflow": "tensorflow"}
FORM = Form.ONNX
EXTRAS = {"cpu": "tf", "gpu": "tf"}
PRECISIONS = ("fp32", "tf32")
OPTIONS = PrecisionOptions

_PLACES = {"cpu": "/CPU:0", "gpu": "/GPU:0"}

_Function = Callable[[Mapping[str, Any]], Sequence[Any]]
"""From TensorFlow's tensors by input, in the inputs' order, to the outputs."""


def load(model: Path, device: str, threads: int, options: PrecisionOptions) -> Backend:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with silenced():
            import tensorflow as tf
    except ImportError:
        raise BackendError(f"tensorflow is not installed: {installation.command('tf')}") from None

    if device == "gpu" and not tf.config.list_physical_devices("GPU"):
        built = "sees no GPU" if tf.test.is_built_with_cuda() else "is built for the CPU only"
        raise BackendError(
            f"this tensorflow {tf.__version__} {built}: "
            f"{installation.pip()} install 'tensorflow[and-cuda]', or run on the cpu"
        )
    try:
        if device == "cpu":
            tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # TensorFlow has started already, for another instance
        if tf.config.threading.get_intra_op_parallelism_threads() != threads:
            raise BackendError("tensorflow cannot change its number of threads in a running process") from None
    tf.config.experimental.enable_tensor_float_32_execution(options.precision == "tf32")
    try:
        with silenced(), tf.device(_PLACES[device]):
            function, tensors = _function(model)
    except BackendError:
        raise
    except Exception as error:  # TensorFlow raises many kinds
        raise BackendError(f"tensorflow cannot load {model}: {first_line(error)}") from None
    return TensorFlow(function, tensors, device, options.precision)


def _function(model: Path) -> tuple[_Function, Tensors]:
    if model.is_dir():
        return _saved(model)
    if model.suffix == ".pb":
        return _frozen(model)
    if model.suffix != Form.ONNX.value:
        raise BackendError(f"tf takes an .onnx file, a SavedModel's folder or a frozen .pb, not {model.name}")
    try:
        from drumfire.sut.models.weights.tensorflow_graph import TensorFlowGraph
    except ImportError as error:
        raise BackendError(f"tf needs {error.name} to read .onnx files: {installation.command('tf')}") from None
    graph = TensorFlowGraph(model)
    function = graph.function()
    tensors = replace(graph.tensors, inputs=tuple(one.as_channels_last for one in graph.tensors.inputs))
    return lambda given: function(*given.values()), tensors


def _saved(model: Path) -> tuple[_Function, Tensors]:
    """The first signature of a SavedModel, with its outputs ordered by name."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(model))
    signatures = list(loaded.signatures.values())
    if not signatures:
        raise BackendError(f"{model} has no signature to run: save the model with signatures=")
    function = signatures[0]
    function.kept = loaded  # the variables live as long as this object
    takes, gives = function.structured_input_signature[1], dict(sorted(function.structured_outputs.items()))
    tensors = _tensors(takes, gives)

    def call(given: Mapping[str, Any]) -> Sequence[Any]:
        outputs = function(**given)
        return [outputs[name] for name in gives]

    return call, tensors


def _frozen(model: Path) -> tuple[_Function, Tensors]:
    """A graph from its placeholders to the nodes that no other node reads, in the order of the file."""
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(model.read_bytes())
    starts = [node.name for node in definition.node if node.op == "Placeholder"]
    read = {name.lstrip("^").split(":")[0] for node in definition.node for name in node.input}
    ends = [n.name for n in definition.node if n.name not in read and n.op not in ("Const", "NoOp", "Placeholder")]
    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    element = wrapped.graph.as_graph_element
    takes = {name: element(f"{name}:0") for name in starts}
    gives = {name: element(f"{name}:0") for name in ends}
    tensors = _tensors(takes, gives)
    function = wrapped.prune(list(takes.values()), list(gives.values()))
    return lambda given: function(*given.values()), tensors


def _tensors(takes: Mapping[str, Any], gives: Mapping[str, Any]) -> Tensors:
    """From TensorFlow's tensors or their specifications, by name."""
    inputs, batch = interface.as_inputs([_taken(name, one) for name, one in takes.items()])
    shapes = (None if one.shape.rank is None else one.shape.as_list() for one in gives.values())
    return Tensors(inputs, tuple(gives), batch, output_shapes=tuple(map(interface.shape_of, shapes)))


def _taken(name: str, one: Any) -> interface.Taken:
    if one.shape.rank is None:
        raise BackendError(f"the model's input {name!r} may have any number of sizes: export it with a fixed number")
    is_bfloat16 = one.dtype.name == "bfloat16"
    dtype = np.uint16 if is_bfloat16 else one.dtype.as_numpy_dtype
    return interface.taken(name, one.shape.as_list(), dtype, is_bfloat16=is_bfloat16)


class TensorFlow:
    """Takes batches of any size."""

    def __init__(self, function: _Function, tensors: Tensors, device: str, precision: str) -> None:
        import tensorflow as tf

        self.tensors = tensors
        self.description = f"tensorflow {tf.__version__} {_PLACES[device][1:]} {precision}"
        self._place, self._function = _PLACES[device], function

    def run(self, batch: Batch) -> Sequence[npt.NDArray[Any]]:
        import tensorflow as tf

        with tf.device(self._place):
            outputs = self._function({one.name: tf.constant(batch[one.name]) for one in self.tensors.inputs})
        return [output.numpy() for output in outputs]

    def close(self) -> None:
        self._function = lambda given: []
