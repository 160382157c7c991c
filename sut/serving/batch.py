"""Joins the inputs of requests into a batch in one piece of memory, and splits its outputs among the requests.

Does not depend on what computes the batch, or when.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.sut.kserve.messages.exchange import Buffer
from drumfire.sut.kserve.messages.tensors import Shape
from drumfire.sut.models.tensors import Input
from drumfire.sut.serving.refusal import Refusal
from drumfire.sut.serving.request import Request
from drumfire.sut.serving.shared_memory import SharedBytes

Array = npt.NDArray[Any]

_SMALL = 1 << 16
"""Bytes up to which outputs are copied: a copy costs less than handling a view."""


class BatchLayout(NamedTuple):
    """The memory layout of a model's batches."""

    takes: Input
    """The backend's.  Batches smaller than its ``batch_size`` are padded, and the padding's outputs dropped."""
    channels_last: bool
    """Samples arrive as (channels, height, width) and the model takes (height, width, channels)."""


class Gatherer:
    """Joins the inputs of requests in memory that is allocated once; one object per thread.

    The next call of ``gather`` overwrites the result of the last.
    """

    def __init__(self, layout: BatchLayout, most_samples: int, sample_shape: Sequence[int]) -> None:
        """``sample_shape``: -1 for any size; memory then grows with the requests."""
        takes, self._channels_last = layout
        self.name = takes.name
        self._dtype, self._fixed = takes.dtype, takes.batch_size
        closed = min(sample_shape, default=0) >= 0
        size = most_samples * math.prod(sample_shape) * takes.dtype.itemsize if closed else 0
        self._reserve(size)

    def gather(self, requests: Sequence[Request]) -> Array:
        """All inputs as one array, shape (n, *sample_shape) in the model's layout.  A single input is a view of its
        request if possible.  A request whose shared memory cannot be read is refused alone."""
        dtype, channels_last, fixed = self._dtype, self._channels_last, self._fixed
        first = requests[0]
        shape = first.sample_shape
        if len(requests) == 1 and not channels_last and fixed in (None, first.samples) and first.place is None:
            array = np.frombuffer(first.data, dtype)
            if array.flags.aligned:
                return array.reshape(first.samples, *shape)
        samples = sum([request.samples for request in requests])
        row_bytes = math.prod(shape) * dtype.itemsize
        rows = max(fixed or 0, samples)
        if rows * row_bytes > len(self._bytes):
            self._reserve(rows * row_bytes)
        flat = self._flat[: rows * row_bytes].view(dtype)
        if channels_last:
            batch = flat.reshape(rows, *shape[1:], shape[0])
            at = 0
            for request in requests:
                samples_first = np.frombuffer(_contents(request), dtype).reshape(request.samples, *shape)
                batch[at : at + request.samples] = np.moveaxis(samples_first, 1, -1)
                at += request.samples
            return batch
        joined, at = self._bytes, 0
        for request in requests:
            if request.place is None:
                data = request.data
                joined[at : at + len(data)] = data
                at += len(data)
            else:
                first_byte, at = at, at + len(request.place)
                _read(request, request.place, joined[first_byte:at])
        return flat.reshape(rows, *shape)

    def shares(self, array: Array) -> bool:
        """Whether the array may share the memory that the next call overwrites."""
        return np.may_share_memory(array, self._flat)

    def _reserve(self, size: int) -> None:
        self._flat: npt.NDArray[np.uint8] = np.zeros(size, np.uint8)
        self._bytes = self._flat.data


def split(outputs: Sequence[Array], requests: Sequence[Request], gatherer: Gatherer, rows: int) -> None:
    """Give each request its rows of every output, and copy the outputs that belong in shared memory.

    ``rows``: the size of the computed batch, with padding.  Raises ``ValueError`` if an output has another number of
    rows; a request whose place in shared memory cannot be written is refused alone.
    """
    tails: list[Shape] = []
    wholes: list[tuple[bytes | memoryview, int]] = []
    for output in outputs:
        if output.ndim == 0 or len(output) != rows:
            raise ValueError(f"the model returned an output of shape {list(output.shape)} for {rows} samples")
        tails.append(output.shape[1:])
        if output.nbytes <= _SMALL or gatherer.shares(output):
            whole: bytes | memoryview = output.tobytes()
        else:
            whole = np.ascontiguousarray(output).data.cast("B")
        wholes.append((whole, len(whole) // rows))
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
    for request in requests:
        if request.wanted and request.refusal is None:
            _write(request)


def _contents(request: Request) -> Buffer | bytearray:
    """A request's input, copied where it is in shared memory."""
    if request.place is None:
        return request.data
    copy = bytearray(len(request.place))
    _read(request, request.place, memoryview(copy))
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
