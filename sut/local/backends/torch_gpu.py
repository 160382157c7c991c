"""PyTorch on an NVIDIA GPU: a batch is copied in while the one before is computed, and copied out while the next is.

Samples are gathered straight into pinned memory, which the GPU reads and writes without the CPU.  Each prepared batch
size is a CUDA graph, so that a batch costs one launch; where the sizes of samples are not known, the network runs
operation by operation.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from drumfire.loadgen.limits import usable_cores
from drumfire.loadgen.system import Batch
from drumfire.sut.local.backends import MOST_LANES, Backend, BackendError, buckets, first_line
from drumfire.sut.local.backends.torch_network import PyTorchOptions, TorchNetwork, as_array, as_tensor
from drumfire.sut.models.tensors import Input, Tensors

_AHEAD = 3
"""Batches that a thread which has several gives to the GPU before it waits for the first."""
_MOST_ROOM_BYTES = 1 << 28
"""Of the samples of several batches that are gathered together."""
_MOST_ROOMS = 256

Array = npt.NDArray[Any]
Shapes = tuple[tuple[int, ...], ...]
"""Of the inputs of a batch, or of their samples, in the order of the inputs."""
Compute = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
"""Takes the inputs on the device; gives outputs that no other batch overwrites."""


class Device:
    """A GPU, as far as batches need it: memory, and streams of work that is done in order."""

    kind = "cuda"
    """Torch's name."""

    def __init__(self, *, spins: bool) -> None:
        """``spins``: a thread that waits for the GPU keeps its core, and so wakes sooner."""
        self._blocking = not spins

    @property
    def name(self) -> str:
        return str(torch.cuda.get_device_name())

    def stream(self) -> Any:
        return torch.cuda.Stream()

    def on_host(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Memory of the host that work reads and writes without the CPU."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def memory(self, size: int) -> torch.Tensor:
        """So many bytes on the device."""
        return torch.empty(size, dtype=torch.uint8, device=self.kind)

    def copy(self, stream: Any, given: Sequence[torch.Tensor], takes: Sequence[torch.Tensor]) -> None:
        """Add to the stream that one list of tensors is copied to another."""
        with torch.inference_mode(), torch.cuda.stream(stream):
            for one, other in zip(given, takes, strict=True):
                other.copy_(one, non_blocking=True)

    def compute(self, stream: Any, work: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
        """Add work to the stream; returns what it gives, whose contents are there once it is done."""
        with torch.inference_mode(), torch.cuda.stream(stream):
            return work()

    def mark(self, stream: Any) -> Any:
        """The moment when all is done that the stream has now."""
        moment = torch.cuda.Event(blocking=self._blocking)
        moment.record(stream)
        return moment

    def follow(self, stream: Any, moment: Any) -> None:
        """What is added to the stream from now on waits for the moment."""
        stream.wait_event(moment)

    def wait(self, moment: Any) -> None:
        moment.synchronize()

    def graph(self, stream: Any, work: Callable[[], list[torch.Tensor]], pool: Any) -> Graph:
        """Record work that always uses the same memory.  ``pool``: of a graph that this one shares memory with."""
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their kernels and allocate their workspace outside the graph
                work()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                gives = work()
        return Graph(graph.replay, gives, graph.pool())


class Graph(NamedTuple):
    """Recorded work."""

    replay: Callable[[], object]
    gives: list[torch.Tensor]
    """Written anew each time, and by other graphs that share memory."""
    pool: Any


class _Sized(NamedTuple):
    """The graph of a batch size."""

    size: int
    graph: Graph
    inputs: list[torch.Tensor]
    """Where it reads."""


class _Room(NamedTuple):
    """Where the samples of one or several batches are put."""

    batch: Batch
    """All of them, on the host."""
    parts: list[tuple[list[torch.Tensor], list[torch.Tensor]]]
    """Of each batch: the inputs on the host, and their place on the device."""
    compute: Compute


class _Flight(NamedTuple):
    """A batch under way."""

    done: Any
    outputs: list[torch.Tensor]
    """On the host; filled once it is done."""
    held: list[torch.Tensor]
    """Memory that is in use until then."""


class OnGpu(TorchNetwork):
    """A loaded network.  It is a ``Backend`` for one thread, and has another beside it."""

    def __init__(self, program: Any, tensors: Tensors, options: PyTorchOptions) -> None:
        """Raises ``BackendError``."""
        # Not ``fp32_precision`` of each kind of operation: torch.export fails where these differ from what is set here.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
        self.device = Device(spins=MOST_LANES * options.instances < usable_cores())
        super().__init__(program, tensors, options, self.device.kind)
        self.turn = threading.Lock()
        """Held while a batch is given to ``stream``: graphs share memory, so what they need must follow each other."""
        self.stream = self.device.stream()
        self._graphs: dict[Shapes, list[_Sized]] = {}
        """By the shapes of samples: the graph of each batch size, ascending."""
        self._ways.append(self.device.name)
        self._capture(options)
        lane = _Lane(self)
        self.run, self.room, self.several = lane.run, lane.room, lane.several
        self.beside: Sequence[Backend] = [_Lane(self) for _ in range(MOST_LANES - 1)]

    def close(self) -> None:
        self._graphs.clear()

    def _capture(self, options: PyTorchOptions) -> None:
        is_open = self.tensors.has_open_sizes
        kinds = [self.tensors.with_open_sizes(size) for size in options.padded_sizes] if is_open else [self.tensors]
        if not kinds:
            self._ways.append("without CUDA graphs, as samples may have any size (--pad N has them)")
            return
        sizes = self._sizes_of(options, fine=options.compile is None and len(kinds) == 1)
        pool = None
        try:
            for tensors in reversed(kinds):
                largest = [_zeros(one, sizes[-1]).to(self.device.kind) for one in tensors.inputs]
                graphs = self._graphs[self.samples_of(tuple(tuple(one.shape) for one in largest))] = []
                # The largest first: the others reuse its memory.
                for size in reversed(sizes):
                    inputs = self.rows(largest, 0, size)
                    graph = self.device.graph(self.stream, partial(self._outputs, inputs), pool)
                    pool = graph.pool
                    graphs.insert(0, _Sized(size, graph, inputs))
        except Exception as error:  # torch raises many kinds, CUDA's among them
            raise BackendError(f"torch cannot make a CUDA graph of the model: {first_line(error)}") from None
        self._ways += ["CUDA graphs", buckets.description(sizes)]
        if is_open:
            self._ways.append(f"samples filled up to {', '.join(map(str, options.padded_sizes))}")

    def count_of(self, shapes: Shapes) -> int:
        """The size of a batch of these shapes."""
        sizes = (
            shape[one.batch_axis]
            for one, shape in zip(self.tensors.inputs, shapes, strict=True)
            if one.batch_axis is not None
        )
        return next(sizes, 1)

    def samples_of(self, shapes: Shapes) -> Shapes:
        """The shapes of the samples of a batch."""
        return tuple(
            tuple(size for axis, size in enumerate(shape) if axis != one.batch_axis)
            for one, shape in zip(self.tensors.inputs, shapes, strict=True)
        )

    def computes(self, shapes: Shapes) -> Compute:
        """What computes batches of these shapes.  Raises ``ValueError`` for shapes that the network does not take."""
        samples, count = self.samples_of(shapes), self.count_of(shapes)
        for one, sample, shape in zip(self.tensors.inputs, samples, shapes, strict=True):
            if not one.fits(sample) or (one.batch_axis is not None and shape[one.batch_axis] != count):
                raise ValueError(f"{one.name} has the shape {shape}, and the model takes {self.tensors}")
        graphs = self._graphs.get(samples)
        if graphs is None:  # their sizes are open, and others than those that were prepared
            return self._outputs
        size = buckets.fitting([one.size for one in graphs], count)
        chosen = next(one for one in graphs if one.size == size)
        inputs = self.rows(chosen.inputs, 0, count)
        gives = [
            one if axis is None else one.narrow(axis, 0, count)
            for one, axis in zip(chosen.graph.gives, _batch_axes(graphs), strict=True)
        ]

        def compute(given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            for one, own in zip(given, inputs, strict=True):
                own.copy_(one)
            chosen.graph.replay()
            return [one.clone(memory_format=torch.contiguous_format) for one in gives]

        return compute

    def rows(self, batch: Sequence[torch.Tensor], first: int, count: int) -> list[torch.Tensor]:
        """These rows of each input that has a batch."""
        return [
            samples if one.batch_axis is None else samples.narrow(one.batch_axis, first, count)
            for one, samples in zip(self.tensors.inputs, batch, strict=True)
        ]


class _Lane:
    """What a thread needs to run batches: memory of its own, on the host and on the device.  A ``Backend``."""

    beside: Sequence[Backend] = ()

    def __init__(self, of: OnGpu) -> None:
        self._of, self._device = of, of.device
        self.tensors = of.tensors
        # One each way: a batch that comes does not wait for one that leaves.
        self._into, self._out = self._device.stream(), self._device.stream()
        self._host: list[torch.Tensor] = []
        self._memory: list[torch.Tensor] = []
        self._capacity = 0
        self._rooms: dict[tuple[Shapes, int], _Room] = {}

    @property
    def description(self) -> str:
        return self._of.description

    def close(self) -> None:
        """With the network."""

    def run(self, batch: Batch) -> list[Array]:
        room = self._room(tuple([batch[one.name].shape for one in self.tensors.inputs]), 1)
        _put(batch, room)
        return self._landed(self._begin(room, 0))

    def room(self, size: int, number: int = 1) -> Batch | None:
        """See ``HasLanes``."""
        inputs = self.tensors.inputs
        if self.tensors.has_open_sizes or any(one.batch_axis != 0 for one in inputs):
            return None
        each = sum(math.prod(one.shape(size)) * one.dtype.itemsize for one in inputs)
        if number > 1 and each * number > _MOST_ROOM_BYTES:
            return None
        return self._room(tuple([one.shape(size) for one in inputs]), number).batch

    def several(self, samples: Batch, size: int, number: int) -> Iterator[list[Array]] | None:
        """See ``RunsSeveral``."""
        if self.room(size, number) is None:
            return None
        room = self._room(tuple([one.shape(size) for one in self.tensors.inputs]), number)
        _put(samples, room)
        return self._in_turn(room)

    def _in_turn(self, room: _Room) -> Iterator[list[Array]]:
        flights: deque[_Flight] = deque()
        try:
            for part in range(len(room.parts)):
                flights.append(self._begin(room, part))
                if len(flights) == _AHEAD:
                    yield self._landed(flights.popleft())
            while flights:
                yield self._landed(flights.popleft())
        finally:
            for flight in flights:  # which may still read the room
                self._device.wait(flight.done)

    def _begin(self, room: _Room, part: int) -> _Flight:
        device, of, (host, given) = self._device, self._of, room.parts[part]
        device.copy(self._into, host, given)
        copied = device.mark(self._into)
        with of.turn:
            device.follow(of.stream, copied)
            outputs = device.compute(of.stream, partial(room.compute, given))
            computed = device.mark(of.stream)
        device.follow(self._out, computed)
        results = [device.on_host(output.shape, output.dtype) for output in outputs]
        device.copy(self._out, outputs, results)
        return _Flight(device.mark(self._out), results, outputs)

    def _landed(self, flight: _Flight) -> list[Array]:
        self._device.wait(flight.done)
        return [as_array(output) for output in flight.outputs]

    def _room(self, shapes: Shapes, number: int) -> _Room:
        """For ``number`` batches of these shapes.  Raises ``ValueError`` for shapes that the network does not take."""
        room = self._rooms.get((shapes, number))
        if room is None:
            compute = self._of.computes(shapes)
            if len(self._rooms) >= _MOST_ROOMS:
                self._rooms.clear()
            room = self._rooms[shapes, number] = self._made(shapes, number, compute)
        return room

    def _made(self, shapes: Shapes, number: int, compute: Compute) -> _Room:
        inputs = self.tensors.inputs
        whole = [
            shape if one.batch_axis is None else _times(shape, one.batch_axis, number)
            for one, shape in zip(inputs, shapes, strict=True)
        ]
        kinds = [_torch_type(one) for one in inputs]
        needed = [math.prod(shape) * kind.itemsize for shape, kind in zip(whole, kinds, strict=True)]
        if not self._host or any(size > len(flat) for size, flat in zip(needed, self._host, strict=True)):
            self._reserve(needed)
        sides = [
            [flat[:size].view(kind).view(shape) for flat, size, kind, shape in zip(
                side, needed, kinds, whole, strict=True)]
            for side in (self._host, self._memory)
        ]  # fmt: skip
        count = self._of.count_of(shapes)
        parts = [
            (self._of.rows(sides[0], count * at, count), self._of.rows(sides[1], count * at, count))
            for at in range(number)
        ]
        batch = {one.name: as_array(tensor) for one, tensor in zip(inputs, sides[0], strict=True)}
        return _Room(batch, parts, compute)

    def _reserve(self, sizes: Sequence[int]) -> None:
        """Have memory for at least so many bytes of each input; rooms made before are no longer valid."""
        self._rooms.clear()
        had = [len(flat) for flat in self._host] or [0] * len(sizes)
        largest = [max(pair) for pair in zip(had, sizes, strict=True)]
        self._host = [self._device.on_host((size,), torch.uint8) for size in largest]
        self._memory = [self._device.memory(size) for size in largest]


def _put(batch: Batch, room: _Room) -> None:
    """Copy what is not there yet.  Raises ``TypeError`` for another type."""
    for name, own in room.batch.items():
        given = batch[name]
        if given is not own:
            np.copyto(own, given, casting="no")


def _zeros(one: Input, rows: int) -> torch.Tensor:
    return as_tensor(np.zeros(one.shape(rows), one.dtype), one)


def _torch_type(one: Input) -> torch.dtype:
    return as_tensor(np.empty(0, one.dtype), one).dtype


def _times(shape: tuple[int, ...], axis: int, number: int) -> tuple[int, ...]:
    return (*shape[:axis], shape[axis] * number, *shape[axis + 1 :])


def _batch_axes(graphs: Sequence[_Sized]) -> list[int | None]:
    """Where each output has the batch, from its shapes in two sizes; None where it is the same in both."""
    return [
        next((axis for axis, (one, other) in enumerate(zip(few.shape, many.shape, strict=True)) if one != other), None)
        for few, many in zip(graphs[0].graph.gives, graphs[-1].graph.gives, strict=True)
    ]
