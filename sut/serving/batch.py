"""Joins the inputs of requests into a batch, each in one piece of memory, and splits its outputs among the requests.

Does not depend on what computes the batch, or when.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from drumfire.sut.kserve.messages.exchange import Buffer
from drumfire.sut.kserve.messages.tensors import Shape, TensorError, as_array, pack_bytes, unpack_bytes
from drumfire.sut.local.responses import OutputError, check_outputs
from drumfire.sut.models.tensors import Input
from drumfire.sut.serving.refusal import Refusal, invalid
from drumfire.sut.serving.request import Contents, Request
from drumfire.sut.serving.shared_memory import SharedBytes

Array = npt.NDArray[Any]

_SMALL = 1 << 16
"""Bytes up to which outputs are copied: a copy costs less than handling a view."""


class BatchLayout(NamedTuple):
    """The memory layout of an input in a model's batches."""

    takes: Input
    """The backend's.  Batches smaller than its ``batch_size`` are padded, and the padding's outputs dropped."""
    channels_last: bool
    """Samples arrive as (channels, height, width) and the model takes (height, width, channels)."""

    @property
    def sample_shape(self) -> Shape:
        """As samples arrive; -1 for any size."""
        sizes = self.takes.sample_shape
        arrived = (sizes[-1], *sizes[:-1]) if self.channels_last else sizes
        return tuple(-1 if size is None else size for size in arrived)

    @property
    def dims(self) -> tuple[str, ...]:
        """The names of the sizes of ``sample_shape``, or ()."""
        dims = self.takes.dims
        return (*dims[-1:], *dims[:-1]) if self.channels_last else dims


class Gathers(Protocol):
    """Joins one input of requests."""

    name: str
    """The backend's."""
    position: int
    """Among the model's inputs."""

    def gather(self, requests: Sequence[Request], into: Array | None = None) -> Array:
        """The input of all requests as one array, shape (n, *sample_shape) in the model's layout.

        ``into``: an array for it, which is used if it has this shape.  A request whose shared memory cannot be read, or
        holds no such tensor, is refused alone.
        """

    def shares(self, array: Array) -> bool:
        """Whether the array may share memory that the next call of ``gather`` overwrites."""


def gatherers(layouts: Sequence[BatchLayout], most_samples: int) -> list[Gathers]:
    """One for each input of a model.  A thread needs its own."""
    return [
        TextGatherer(layout.takes, position)
        if layout.takes.dtype.hasobject
        else Gatherer(layout, most_samples, position)
        for position, layout in enumerate(layouts)
    ]


class Gatherer:
    """Joins an input in memory that is allocated once; see ``Gathers``.

    The next call of ``gather`` overwrites the result of the last.  A single request's input is a view of it if
    possible.
    """

    def __init__(self, layout: BatchLayout, most_samples: int, position: int = 0) -> None:
        """Where a sample's shape is open, memory grows with the requests."""
        takes, self._channels_last = layout
        self.name, self.position = takes.name, position
        self._dtype, self._fixed = takes.dtype, takes.batch_size
        shape = layout.sample_shape
        closed = min(shape, default=0) >= 0
        self._reserve(most_samples * math.prod(shape) * takes.dtype.itemsize if closed else 0)

    def gather(self, requests: Sequence[Request], into: Array | None = None) -> Array:
        dtype, channels_last, fixed, position = self._dtype, self._channels_last, self._fixed, self.position
        first = requests[0]
        shape = first.shapes[position]
        assert shape is not None
        if (
            len(requests) == 1
            and into is None
            and not channels_last
            and fixed in (None, first.samples)
            and not first.is_shared
        ):
            array = np.frombuffer(first.data[position], dtype)  # type: ignore[arg-type]
            if array.flags.aligned:
                return array.reshape(first.samples, *shape)
        samples = sum([request.samples for request in requests])
        row_bytes = math.prod(shape) * dtype.itemsize
        rows = max(fixed or 0, samples)
        taken = (rows, *shape[1:], shape[0]) if channels_last else (rows, *shape)
        if into is not None and into.shape == taken:
            batch, joined = into, into.reshape(-1).view(np.uint8).data
        else:
            if rows * row_bytes > len(self._bytes):
                self._reserve(rows * row_bytes)
            batch, joined = self._flat[: rows * row_bytes].view(dtype).reshape(taken), self._bytes
        if channels_last:
            at = 0
            for request in requests:
                contents = _contents(request, request.data[position])
                samples_first = np.frombuffer(contents, dtype).reshape(request.samples, *shape)
                batch[at : at + request.samples] = np.moveaxis(samples_first, 1, -1)
                at += request.samples
            return batch
        at = 0
        for request in requests:
            data = request.data[position]
            last = at + len(data)  # type: ignore[arg-type]
            if request.is_shared and isinstance(data, SharedBytes):
                _read(request, data, joined[at:last])
            else:
                joined[at:last] = data  # type: ignore[assignment]
            at = last
        return batch

    def shares(self, array: Array) -> bool:
        return np.may_share_memory(array, self._flat)

    def _reserve(self, size: int) -> None:
        self._flat: npt.NDArray[np.uint8] = np.zeros(size, np.uint8)
        self._bytes = self._flat.data


class TextGatherer:
    """Joins an input of texts, as arrays of ``bytes``; see ``Gathers``."""

    def __init__(self, takes: Input, position: int = 0) -> None:
        self.name, self.position = takes.name, position
        self._fixed = takes.batch_size

    def gather(self, requests: Sequence[Request], into: Array | None = None) -> Array:
        shape = requests[0].shapes[self.position]
        assert shape is not None
        samples = sum([request.samples for request in requests])
        batch = np.full((max(self._fixed or 0, samples), *shape), b"", np.object_)
        flat, elements, at = batch.reshape(-1), math.prod(shape), 0
        for request in requests:
            last = at + request.samples * elements
            data = request.data[self.position]
            if isinstance(data, SharedBytes):
                try:
                    flat[at:last] = as_array("BYTES", (last - at,), data.read())
                except Refusal as refusal:
                    request.refusal = refusal
                except TensorError as error:
                    request.refusal = invalid(f"input {self.name!r} in shared memory: {error}")
            else:
                flat[at:last] = unpack_bytes(data)  # type: ignore[arg-type]
            at = last
        return batch

    def shares(self, array: Array) -> bool:
        return False


def split(
    outputs: Sequence[Array], requests: Sequence[Request], joined: Sequence[Gathers], rows: int, names: Sequence[str]
) -> None:
    """Give each request its rows of every output, and copy the outputs that belong in shared memory.

    ``joined``: what gathered the inputs.  ``rows``: the size of the computed batch, with padding.  ``names``: the
    outputs'.  Raises ``OutputError`` if an output has another number of rows, or the model gave another number of
    outputs; a request whose place in shared memory cannot be written is refused alone.
    """
    tails: list[Shape] = []
    wholes: list[tuple[bytes | memoryview, int]] = []
    texts: list[int] = []
    for output in outputs:
        if output.ndim == 0 or len(output) != rows:
            check_outputs(outputs, names, rows)
        tails.append(output.shape[1:])
        if output.dtype.hasobject:
            texts.append(len(wholes))
            whole: bytes | memoryview = b""
        elif output.nbytes <= _SMALL or any(one.shares(output) for one in joined):
            whole = output.tobytes()
        else:
            whole = np.ascontiguousarray(output).data.cast("B")
        wholes.append((whole, len(whole) // rows))
    if len(wholes) != len(names):
        raise OutputError(f"the model gave {len(wholes)} outputs in place of {', '.join(names)}")
    if len(requests) == 1 and requests[0].samples == rows:
        requests[0].contents = [whole for whole, _ in wholes]
        requests[0].tails = tails
    else:
        first = 0
        for request in requests:
            last = first + request.samples
            request.contents = [whole[first * size : last * size] for whole, size in wholes]
            request.tails = tails
            first = last
    for position in texts:
        first, output = 0, outputs[position]
        for request in requests:
            last = first + request.samples
            request.contents[position] = pack_bytes(output[first:last].reshape(-1).tolist())
            first = last
    for request in requests:
        if request.wanted and request.refusal is None:
            _write(request)


def _contents(request: Request, data: Contents) -> Buffer | bytearray:
    """A request's input, copied where it is in shared memory."""
    assert data is not None
    if not isinstance(data, SharedBytes):
        return data
    copy = bytearray(len(data))
    _read(request, data, memoryview(copy))
    return copy


def _read(request: Request, source: SharedBytes, target: memoryview) -> None:
    """Read an input in shared memory; if that fails, refuse its request, whose rows hold anything then."""
    try:
        source.read_into(target)
    except Refusal as refusal:
        request.refusal = refusal


def _write(request: Request) -> None:
    """Write the outputs that belong in shared memory."""
    try:
        for position, place in request.wanted:
            if place is not None:
                place.write(request.contents[position])
    except Refusal as refusal:
        request.refusal = refusal
