"""ONNX Runtime, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.loadgen.environment import versions
from drumfire.loadgen.system import Batch
from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.messages.protobuf import decode
from drumfire.sut.local.backends import Backend, BackendError, BackendOptions, InputRefused, first_line, interface
from drumfire.sut.models.model import Form
from drumfire.sut.models.tensors import Input, Tensors

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
FORM = Form.ONNX
EXTRAS = {"cpu": "onnx-cpu", "gpu": "onnx-gpu"}
PRECISIONS = ("fp32",)
OPTIONS = BackendOptions
_PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
_MOST_OPTIONAL = 8
"""Constants that are inputs too; where there are more, the file's exporter has listed all of its weights."""
_BFLOAT16, _TEXT = "tensor(bfloat16)", "tensor(string)"
_DTYPES: dict[str, npt.DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    _BFLOAT16: np.uint16,
    "tensor(bool)": np.bool_,
    _TEXT: np.object_,
    **{f"tensor({sign}int{bits})": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


_BOUND_BATCHES, _MOST_BOUND_BYTES, _MOST_COPIED_BYTES = 16, 1 << 20, 1 << 15
"""How many batches are bound at once, at least; the most memory of a batch's samples there; and of samples that lie
elsewhere and are copied there.  Measured: a bound run saves 3 us, and a copy of 32 KiB costs 2; gathering into bound
arrays rather than into new ones gains at any size."""
_INPUT = {1: ("name", str), 2: ("type", {1: ("tensor", {2: ("shape", {})})})}
_GRAPH = {7: ("graph", {11: ("inputs", [_INPUT])})}
"""The numbers of fields are those of onnx.proto."""
_Layout = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""By name: the shape of a sample, and the type."""


def check_installation() -> None:
    """Raise ``BackendError`` unless exactly one of the two wheels is installed: they overwrite each other's files."""
    found = versions(DISTRIBUTIONS)
    if all(found.values()):
        raise BackendError(
            "onnxruntime and onnxruntime-gpu are both installed and break each other: "
            f"{installation.pip()} uninstall both, then install the one you want"
        )
    if not any(found.values()):
        raise BackendError(f"onnxruntime is not installed: {installation.command('onnx-cpu')} (or [onnx-gpu])")


def load(model: Path, device: str, threads: int, options: BackendOptions) -> Backend:
    check_installation()
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

    InputRefused.register(InvalidArgument)
    InputRefused.register(UnicodeDecodeError)  # its texts are UTF-8
    provider = _PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise BackendError(
            f"this onnxruntime has no CUDA: {installation.pip()} uninstall onnxruntime, then "
            f"{installation.command('onnx-gpu')}, or run on the cpu"
        )
    if device == "gpu" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    try:
        session, whole = _session(model, provider, threads)
    except Exception as error:  # onnxruntime raises many kinds, which share no base class
        raise BackendError(f"onnxruntime cannot load {model} on the {device}: {first_line(error)}") from None
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"asked for {provider}, but onnxruntime fell back to {session.get_providers()[0]}: "
            "check the GPU driver and the CUDA libraries ('drumfire doctor'), or run on the cpu"
        )
    if any(not one.shape for one in session.get_inputs()):
        _check_ranks(model)
    place = provider if whole else f"{provider}, some operators on the CPU"
    if device == "gpu":
        from drumfire.sut.local.backends.onnx_gpu import OnGpu

        return OnGpu(session, place, onnxruntime.__version__, options.max_batch_size)
    return OnnxRuntime(session, place, onnxruntime.__version__)


def _check_ranks(model: Path) -> None:
    """Raise ``BackendError`` for an input of any number of sizes: to the session it looks like one that has none."""
    try:
        with model.open("rb") as file:
            graph = decode(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), _GRAPH)["graph"]
    except (OSError, ValueError, ProtocolError):
        return
    for one in () if graph is None else graph["inputs"]:
        tensor = (one["type"] or {}).get("tensor")
        if tensor is not None and tensor["shape"] is None:
            raise BackendError(
                f"the model's input {one['name']!r} may have any number of sizes: export it with a fixed number"
            )


def _session(model: Path, provider: str, threads: int) -> tuple[Any, bool]:
    """The model's session, and whether all of its operators run on the provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait would take the cores that the load generator needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what fails is raised, and reported once
    if provider != _PROVIDERS["cpu"]:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            return onnxruntime.InferenceSession(str(model), options, providers=[provider]), True
        except Exception:  # of many kinds; any other cause raises again below
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
            return onnxruntime.InferenceSession(str(model), options, providers=[provider]), False
    return onnxruntime.InferenceSession(str(model), options, providers=[provider]), True


class OnnxRuntime:
    """A session."""

    texts = "UTF-8"

    def __init__(self, session: Any, place: str, version: str) -> None:
        self._session = session
        self._several: _Bound | None = None
        self._binds = True
        self.description = f"onnxruntime {version} {place}"
        takes, gives, optional = session.get_inputs(), session.get_outputs(), session.get_overridable_initializers()
        self._outputs = [output.name for output in gives]
        if len(optional) > _MOST_OPTIONAL:
            optional = []
        inputs, batch = interface.as_inputs(
            [*(_taken(one) for one in takes), *(_taken(one, optional=True) for one in optional)]
        )
        bfloat16 = frozenset(output.name for output in gives if output.type == _BFLOAT16)
        shapes = tuple(interface.shape_of(output.shape) for output in gives)
        self.tensors = Tensors(inputs, tuple(self._outputs), batch, bfloat16_outputs=bfloat16, output_shapes=shapes)
        self._texts = [one.name for one in inputs if one.dtype.hasobject]
        self._bfloat16 = {one.name for one in inputs if one.is_bfloat16}
        if self._bfloat16 or bfloat16:
            self._compute: Callable[[Batch], Sequence[npt.NDArray[Any]]] = self._bound
        else:
            self._compute = partial(session.run, self._outputs)
        if self._texts or any(output.type == _TEXT for output in gives):
            self.run = self._with_texts  # type: ignore[method-assign]

    def run(self, batch: Batch) -> Sequence[npt.NDArray[Any]]:
        return self._compute(batch)

    def _with_texts(self, batch: Batch) -> Sequence[npt.NDArray[Any]]:
        """Onnxruntime's texts are ``str``, and would be "b'...'" of what is ``bytes``."""
        given = dict(batch)
        for name in self._texts:
            if name in batch:
                given[name] = _DECODED(batch[name])
        outputs = self._compute(given)
        return [_ENCODED(output) if output.dtype.hasobject else output for output in outputs]

    def _bound(self, batch: Batch) -> Sequence[npt.NDArray[Any]]:
        """For bfloat16, which the session takes and gives only as values of its own."""
        from onnxruntime import OrtValue

        binding, kind = self._session.io_binding(), 16  # TensorProto.BFLOAT16
        for name, samples in batch.items():
            of = OrtValue.ortvalue_from_numpy_with_onnx_type
            contiguous = np.ascontiguousarray(samples)
            value = of(contiguous, kind) if name in self._bfloat16 else OrtValue.ortvalue_from_numpy(contiguous)
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        return [
            _bits(value) if name in self.tensors.bfloat16_outputs else value.numpy()
            for name, value in zip(self._outputs, binding.get_outputs(), strict=True)
        ]

    def room(self, size: int, number: int) -> Batch | None:
        """See ``RunsSeveral``."""
        if self._binds and (self._several is None or not self._several.holds(size, number)):
            self._several = _Bound.tried(self._session, self.tensors.inputs, size, max(number, _BOUND_BATCHES))
            self._binds = self._several is not None
        return None if self._several is None else self._several.room(size * number)

    def several(self, samples: Batch, size: int, number: int) -> Iterator[list[npt.NDArray[Any]]] | None:
        """See ``RunsSeveral``."""
        room = self.room(size, number)
        return self._several.run(number) if self._several and room and _put(samples, room, number) else None

    def close(self) -> None:
        self._session = self._several = None
        self._compute = lambda batch: []


class _Bound:
    """Arrays of several batches, which a session reads and writes in their place: a run makes none."""

    def __init__(self, session: Any, inputs: _Layout, outputs: _Layout, size: int, number: int) -> None:
        self._session, self._size, self._number = session, size, number
        self._inputs, given = (
            {name: np.zeros((size * number, *shape), dtype) for name, (shape, dtype) in layout.items()}
            for layout in (inputs, outputs)
        )
        self._rooms: dict[int, Batch] = {}
        self._batches = []
        for first in range(0, size * number, size):
            rows, binding = slice(first, first + size), session.io_binding()
            for bind, arrays in ((binding.bind_input, self._inputs), (binding.bind_output, given)):
                for name, array in arrays.items():
                    part = array[rows]
                    bind(name, "cpu", 0, part.dtype, part.shape, part.ctypes.data)
            self._batches.append((binding, [array[rows] for array in given.values()]))

    @classmethod
    def tried(cls, session: Any, inputs: Sequence[Input], size: int, number: int) -> _Bound | None:
        """None unless all sizes are fixed, but for the batch, which is the first, and the samples are small.

        Tried on zeros: the sizes in a file may be wrong, and one that is open in an output need not be the batch.
        """
        takes, gives = _taken_in_place(inputs), _given_in_place(session.get_outputs())
        if takes is None or gives is None:
            return None
        if size * sum(math.prod(shape) * dtype.itemsize for shape, dtype in takes.values()) > _MOST_BOUND_BYTES:
            return None
        bound = cls(session, takes, gives, size, number)
        try:
            next(bound.run(1))
        except Exception:  # of many kinds
            return None
        return bound

    def holds(self, size: int, number: int) -> bool:
        return size == self._size and number <= self._number

    def room(self, rows: int) -> Batch:
        if (room := self._rooms.get(rows)) is None:
            room = self._rooms[rows] = {name: array[:rows] for name, array in self._inputs.items()}
        return room

    def run(self, number: int) -> Iterator[list[npt.NDArray[Any]]]:
        """The outputs of each of the first batches, which stay as they are until the batch is run again."""
        run = self._session.run_with_iobinding
        for binding, outputs in islice(self._batches, number):
            run(binding)
            yield outputs


def _taken_in_place(inputs: Sequence[Input]) -> _Layout | None:
    layout = {}
    for one in inputs:
        if one.optional:  # the network's own value holds; a batch that has it will not fit
            continue
        shape = tuple(size for size in one.sample_shape if size is not None)
        if one.batch_axis != 0 or len(shape) < len(one.sample_shape) or one.is_bfloat16 or one.dtype.hasobject:
            return None
        layout[one.name] = shape, one.dtype
    return layout


def _given_in_place(outputs: Any) -> _Layout | None:
    layout = {}
    for one in outputs:
        dtype = np.dtype(_DTYPES.get(one.type, np.object_))
        fixed = all(isinstance(size, int) for size in one.shape[1:])
        if dtype.hasobject or one.type == _BFLOAT16 or not one.shape or not fixed:
            return None
        layout[one.name] = tuple(one.shape[1:]), dtype
    return layout


def _put(samples: Batch, room: Batch, number: int) -> bool:
    """Copy what is not there yet; False if it does not fit, or is too large."""
    for name, own in room.items():
        given = samples.get(name)
        if given is own:
            continue
        if given is None or given.shape != own.shape or given.dtype != own.dtype:
            return False
        if own.nbytes > _MOST_COPIED_BYTES * number:
            return False
        own[...] = given
    return len(samples) == len(room)


def _taken(takes: Any, *, optional: bool = False) -> interface.Taken:
    dtype = _DTYPES.get(takes.type)
    if dtype is None:
        raise BackendError(
            f"the model's input {takes.name!r} is a {takes.type}, which onnxruntime takes no arrays of: export it with "
            "another type"
        )
    return interface.taken(takes.name, takes.shape, dtype, is_bfloat16=takes.type == _BFLOAT16, optional=optional)


def _bits(value: Any) -> npt.NDArray[np.uint16]:
    """A copy of a bfloat16 tensor's bits."""
    shape = tuple(value.shape())
    if 0 in shape:
        return np.empty(shape, np.uint16)
    address = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint16))
    return np.ctypeslib.as_array(address, shape or (1,)).reshape(shape).copy()


def _decoded(element: Any) -> str:
    return element.decode() if isinstance(element, bytes) else element


_DECODED = np.frompyfunc(_decoded, 1, 1)
_ENCODED = np.frompyfunc(str.encode, 1, 1)
