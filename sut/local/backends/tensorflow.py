"""TensorFlow, on the CPU or an NVIDIA GPU: an ONNX file, a SavedModel's folder or a frozen graph (.pb)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.sut.local.backends import Backend, BackendError, PrecisionOptions, first_line, interface
from drumfire.sut.local.silence import silenced
from drumfire.sut.models.model import Form

DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu")
FORM = Form.ONNX
EXTRAS = {"cpu": "tf", "gpu": "tf"}
PRECISIONS = ("fp32", "tf32")
OPTIONS = PrecisionOptions

_PLACES = {"cpu": "/CPU:0", "gpu": "/GPU:0"}


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
            function = _function(model)
    except BackendError:
        raise
    except Exception as error:  # TensorFlow raises many kinds
        raise BackendError(f"tensorflow cannot load {model}: {first_line(error)}") from None
    return TensorFlow(function, device, options.precision)


def _function(model: Path) -> Any:
    """A concrete function of one tensor."""
    import tensorflow as tf

    if model.is_dir():
        loaded = tf.saved_model.load(str(model))
        signatures = list(loaded.signatures.values())
        if not signatures:
            raise BackendError(f"{model} has no signature to run: save the model with signatures=")
        signatures[0].kept = loaded  # the variables live as long as this object
        return signatures[0]
    if model.suffix == ".pb":
        return _frozen(model)
    if model.suffix != Form.ONNX.value:
        raise BackendError(f"tf takes an .onnx file, a SavedModel's folder or a frozen .pb, not {model.name}")
    try:
        from drumfire.sut.models.weights.tensorflow_graph import TensorFlowGraph
    except ImportError as error:
        raise BackendError(f"tf needs {error.name} to read .onnx files: {installation.command('tf')}") from None
    return TensorFlowGraph(model).function()


def _frozen(model: Path) -> Any:
    """The graph's function: from its placeholder to the nodes that no other node reads, in the order of the file."""
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(model.read_bytes())
    start = interface.only([node.name for node in definition.node if node.op == "Placeholder"])
    read = {name.lstrip("^").split(":")[0] for node in definition.node for name in node.input}
    ends = [n.name for n in definition.node if n.name not in read and n.op not in ("Const", "NoOp", "Placeholder")]
    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    element = wrapped.graph.as_graph_element
    return wrapped.prune(element(f"{start}:0"), [element(f"{name}:0") for name in ends])


class TensorFlow:
    """Takes batches of any size."""

    def __init__(self, function: Any, device: str, precision: str) -> None:
        import tensorflow as tf

        takes = interface.only([tensor for tensor in function.inputs if tensor.dtype not in (tf.resource, tf.variant)])
        batch, *sample = takes.shape.as_list()
        self.fixed_batch_size: int | None = batch
        self.sample_shape: tuple[int | None, ...] = tuple(sample)
        self.sample_dtype: npt.DTypeLike = takes.dtype.as_numpy_dtype
        self.description = f"tensorflow {tf.__version__} {_PLACES[device][1:]} {precision}"
        self._place = _PLACES[device]
        # The function of a SavedModel takes its input by name; that of a frozen graph has no names.
        signature = function.structured_input_signature
        name = next(iter(signature[1]), None) if signature else None
        self._call: Callable[[Any], Any] = (lambda batch: function(**{name: batch})) if name else function

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        import tensorflow as tf

        with tf.device(self._place):
            outputs = self._call(tf.constant(batch))
        if isinstance(outputs, dict):
            outputs = [outputs[name] for name in sorted(outputs)]
        return [output.numpy() for output in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]

    def close(self) -> None:
        self._call = lambda batch: []
