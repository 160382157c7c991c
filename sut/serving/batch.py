"""Joins the inputs of requests into a batch, each in one piece of memory, and splits its outputs among the requests.

Does not depend on what computes the batch, or when.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from drumfire.sut.kserve.messages.exchange import Buffer
from drumfire.sut.kserve.messages.tensors import Shape, TensorError, as_array, pack_bytes, unpack_bytes
from drumfire.sut.local.followed import check_followed, own_sizes
from drumfire.sut.local.responses import OutputError, check_outputs
from drumfire.sut.models.tensors import Input
from drumfire.sut.serving.padding import PaddedBatch
from drumfire.sut.serving.refusal import Refusal, invalid
from drumfire.sut.serving.request import Contents, Request
from drumfire.sut.serving.shared_memory import SharedBytes

Array = npt.NDArray[Any]

_SMALL = 1 << 16
"""Bytes up to which outputs are copied: a copy costs less than handling a view."""


class Gathers(Protocol):
    """Joins one input of requests."""

    name: str
    """The backend's."""
    position: int
    """Among the model's inputs."""

    def gather(self, requests: Sequence[Request], padded: Shape | None = None, into: Array | None = None) -> Array:
        """The input of all requests as one array, shape (n, *sample_shape) in the model's layout.

        ``padded``: the shape of a sample as it arrives, where those of requests are padded to it.  ``into``: an array
        for the batch, which is used if it has its shape.  A request whose shared memory cannot be read, or holds no
        such tensor, is refused alone.
        """

    def shares(self, array: Array) -> bool:
        """Whether the array may share memory that the next call of ``gather`` overwrites."""


def gatherers(takes: Sequence[Input], most_samples: int) -> list[Gathers]:
    """One for each input, as the backend takes it.  A thread needs its own."""
    return [
        TextGatherer(one, position) if one.dtype.hasobject else Gatherer(one, most_samples, position)
        for position, one in enumerate(takes)
    ]


class Gatherer:
    """Joins an input in memory that is allocated once; see ``Gathers``.

    The next call of ``gather`` overwrites the result of the last.  A single request's input is a view of it if
    possible.
    """

    def __init__(self, takes: Input, most_samples: int, position: int = 0) -> None:
        """Where a sample's shape is open, memory grows with the requests.

        Batches smaller than the input's ``batch_size`` are padded, and the padding's outputs dropped.
        """
        self._channels_last = takes.channels_moved
        self._padding = takes.opened.padding or 0
        self.name, self.position = takes.name, position
        self._dtype, self._fixed = takes.dtype, takes.batch_size
        elements = math.prod(size or 0 for size in takes.sample_shape)  # none where a size is open
        self._reserve(most_samples * elements * takes.dtype.itemsize)

    def gather(self, requests: Sequence[Request], padded: Shape | None = None, into: Array | None = None) -> Array:
        if padded is not None and any(request.shapes[self.position] != padded for request in requests):
            return self._gather_padded(requests, padded, into)
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
        batch, joined = self._room(requests, shape, into)
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

    def _gather_padded(self, requests: Sequence[Request], padded: Shape, into: Array | None) -> Array:
        batch, joined = self._room(requests, padded, into)
        batch.fill(self._padding)
        arrived = np.moveaxis(batch, -1, 1) if self._channels_last else batch
        width, at = batch[:1].nbytes, 0
        for request in requests:
            shape, data = request.shapes[self.position], request.data[self.position]
            assert shape is not None
            assert data is not None
            if request.samples == 1 and shape[1:] == padded[1:] and not self._channels_last:
                # One sample is in one piece, with the padding behind it.
                place = joined[at * width : at * width + len(data)]
                if isinstance(data, SharedBytes):
                    _read(request, data, place)
                else:
                    place[:] = data
            else:
                samples = np.frombuffer(_contents(request, data), self._dtype).reshape(request.samples, *shape)
                arrived[_corner(at, request.samples, shape)] = samples
            at += request.samples
        return batch

    def shares(self, array: Array) -> bool:
        return np.may_share_memory(array, self._flat)

    def _room(self, requests: Sequence[Request], shape: Shape, into: Array | None) -> tuple[Array, memoryview]:
        """An array for the batch, in the model's layout, and its bytes.  ``shape``: of a sample as it arrives."""
        rows = max(self._fixed or 0, sum([request.samples for request in requests]))
        taken = (rows, *shape[1:], shape[0]) if self._channels_last else (rows, *shape)
        if into is not None and into.shape == taken:
            return into, into.reshape(-1).view(np.uint8).data
        size = math.prod(taken) * self._dtype.itemsize
        if size > len(self._bytes):
            self._reserve(size)
        return self._flat[:size].view(self._dtype).reshape(taken), self._bytes

    def _reserve(self, size: int) -> None:
        self._flat: npt.NDArray[np.uint8] = np.zeros(size, np.uint8)
        self._bytes = self._flat.data


class TextGatherer:
    """Joins an input of texts, as arrays of ``bytes``; see ``Gathers``."""

    def __init__(self, takes: Input, position: int = 0) -> None:
        self.name, self.position = takes.name, position
        self._fixed = takes.batch_size
        self._padding = takes.padding or b""

    def gather(self, requests: Sequence[Request], padded: Shape | None = None, into: Array | None = None) -> Array:
        shape = requests[0].shapes[self.position] if padded is None else padded
        assert shape is not None
        samples = sum([request.samples for request in requests])
        batch, at = np.full((max(self._fixed or 0, samples), *shape), self._padding, np.object_), 0
        for request in requests:
            own, data = request.shapes[self.position], request.data[self.position]
            assert own is not None
            texts = np.empty((request.samples, *own), np.object_)
            if isinstance(data, SharedBytes):
                try:
                    texts[...] = as_array("BYTES", texts.shape, data.read())
                except Refusal as refusal:
                    request.refusal = refusal
                except TensorError as error:
                    request.refusal = invalid(f"input {self.name!r} in shared memory: {error}")
            else:
                texts.reshape(-1)[:] = unpack_bytes(data)  # type: ignore[arg-type]
            if request.refusal is None:
                batch[_corner(at, request.samples, own)] = texts
            at += request.samples
        return batch

    def shares(self, array: Array) -> bool:
        return False


def split(
    outputs: Sequence[Array],
    requests: Sequence[Request],
    joined: Sequence[Gathers],
    rows: int,
    names: Sequence[str],
    padded: PaddedBatch | None = None,
) -> None:
    """Give each request its rows of every output, and copy the outputs that belong in shared memory.

    ``joined``: what gathered the inputs.  ``rows``: the size of the computed batch, filled up.  ``names``: the
    outputs'.  ``padded``: outputs are cut back to the sizes of each request.  Raises ``OutputError`` if an output has
    another number of rows or does not follow the padded sizes, or the model gave another number of outputs; a request
    whose place in shared memory cannot be written is refused alone.
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
    if padded is not None:
        _cut(outputs, requests, joined, names, padded)
    for request in requests:
        if request.wanted and request.refusal is None:
            _write(request)


def _cut(
    outputs: Sequence[Array],
    requests: Sequence[Request],
    joined: Sequence[Gathers],
    names: Sequence[str],
    padded: PaddedBatch,
) -> None:
    """Cut what follows padded sizes back to each request's own.  Raises ``OutputError``."""
    check_followed(outputs, padded.follows, padded.shapes, names)
    for position, follows in enumerate(padded.follows):
        if not follows:
            continue
        output = outputs[position]
        copied = output.nbytes <= _SMALL or any(one.shares(output) for one in joined)
        first = 0
        for request in requests:
            tail = own_sizes(output, follows, request.shapes)
            part = output[_corner(first, request.samples, tail)]
            if output.dtype.hasobject:
                request.contents[position] = pack_bytes(part.reshape(-1).tolist())
            elif copied or not part.size:
                request.contents[position] = part.tobytes()
            else:
                request.contents[position] = np.ascontiguousarray(part).data.cast("B")
            request.tails = [*request.tails[:position], tail, *request.tails[position + 1 :]]
            first += request.samples


def _corner(first: int, samples: int, shape: Sequence[int]) -> tuple[slice, ...]:
    """Where a request's samples lie in a batch of larger ones."""
    return slice(first, first + samples), *map(slice, shape)


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
