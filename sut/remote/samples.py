"""A sample library for a remote model: it keeps loaded samples as requests that are ready to send.

Handles samples and the form of requests.  Does not depend on connections or on when requests are sent.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.system import Batch, IndexArray
from drumfire.sut.data.inputs import InputError, Inputs, Sample, shape_text
from drumfire.sut.data.library import NotLoadedError
from drumfire.sut.kserve.messages.exchange import NOT_SENT, Messages, Outputs, Part, ValueMessages
from drumfire.sut.kserve.messages.tensors import (
    LEFT_OUT,
    ModelInterface,
    Shape,
    Tensor,
    TensorError,
    TensorSpec,
    as_array,
)

_BURST_BYTES = 1 << 20
_MOST_TOLD = 5
"""Samples of which an answer that is not the expected one is told with its values."""


Int64Array: TypeAlias = npt.NDArray[np.int64]


class UnexpectedOutput(UserError, ValueError):
    """A reply's outputs differ from the expected ones."""


def sizes(inputs: Inputs, count: int) -> Int64Array | None:
    """The size of each of the first ``count`` samples, shape (count,); None where all have one shape.

    It is the product of the sizes in which samples differ, such as the tokens of a text; the largest input's counts.
    Raises ``InputError`` for a sample that cannot be read.
    """
    shapes = [inputs.shapes(index) for index in range(count)]
    if all(one == shapes[0] for one in shapes):
        return None
    found = np.ones(count, np.int64)
    for tensors in zip(*shapes, strict=True):
        rank = max(map(len, tensors))  # a sample that leaves an input out has no sizes of it
        array = np.array([shape if len(shape) == rank else (0,) * rank for shape in tensors], np.int64)
        found = np.maximum(found, array[:, (array != array[0]).any(axis=0)].prod(axis=1))
    return found


def differing(inputs: Inputs, count: int, most: int) -> list[int]:
    """The first sample, and for each input one of the first ``count`` that has other values of it and the same shapes.

    At most ``most`` indices, rising.  Raises ``InputError`` for a sample that cannot be read.
    """
    first = inputs.sample(0)
    kind, alike, found = _kind(first), set(range(len(first))), [0]
    for index in range(1, count):
        if not alike or len(found) == most:
            break
        sample = inputs.sample(index)
        others = {at for at in alike if sample[at].data != first[at].data}
        if others and _kind(sample) == kind:
            alike -= others
            found.append(index)
    return found


class RemoteLibrary:
    """A ``SampleLibrary`` over ``Inputs``.

    With one sample a request, each loaded sample is a whole request (``requests``, by dataset index; None if it is not
    loaded).  With more, the library keeps the samples' tensors, and ``batched`` joins them.
    """

    def __init__(
        self,
        inputs: Inputs,
        interface: ModelInterface,
        messages: Messages,
        *,
        total_count: int,
        performance_count: int,
        batch_size: int = 1,
        values: bool = False,
    ) -> None:
        """``values``: ``messages`` are ``ValueMessages`` and take values, not raw contents."""
        self.name = inputs.name
        self.total_count, self.performance_count = total_count, performance_count
        self.inputs = inputs
        self.requests: list[Any] = [None] * total_count
        self.burst = 1
        """Number of requests that are about 1 MiB together: send no more before checking that the socket has room."""
        self._interface, self._messages = interface, messages
        self._batch_size = batch_size
        self._values = cast(ValueMessages, messages) if values else None
        self._samples: dict[int, Sample] = {}
        self._kinds: dict[tuple[Shape | None, ...], int] = {}
        """A number for each set of shapes that samples have; None for an input that is left out."""
        self._kind: dict[int, int] = {}
        self._unexpected_told: set[int] = set()

    def load(self, indices: IndexArray) -> None:
        """Read these samples and make their requests.  Raises ``InputError`` for a sample that cannot be read."""
        largest = 1
        for index in np.unique(indices).tolist():
            sample = self._as_sent(self.inputs.sample(index))
            largest = max(largest, sum(len(tensor.data) for tensor in sample))
            if self._batch_size == 1:
                self.requests[index] = self._messages.request(self._parts([sample]))
            else:
                self._samples[index] = sample
                self._kind[index] = self._kinds.setdefault(_kind(sample), len(self._kinds))
        self.burst = max(1, _BURST_BYTES // (largest * self._batch_size))

    def unload(self, indices: IndexArray) -> None:
        for index in np.unique(indices).tolist():
            self.requests[index] = None
            self._samples.pop(index, None)

    def together(self, indices: Sequence[int] | memoryview) -> int:
        """How many of these samples, from the first on, can share a request: they have the same shapes."""
        if len(self._kinds) < 2:
            return len(indices)
        kinds = [self._kind.get(index) for index in indices]
        return next((count for count, kind in enumerate(kinds) if kind != kinds[0]), len(kinds))

    def batched(self, indices: Sequence[int]) -> Any:
        """Make one request of loaded samples.  Raises ``NotLoadedError``, or ``InputError`` if their shapes differ."""
        try:
            return self._messages.request(self._parts([self._samples[index] for index in indices]))
        except KeyError as error:
            raise NotLoadedError(f"{self.name}: sample {error} is not loaded") from None

    def check_expected(self, indices: Sequence[int], outputs: Outputs) -> None:
        """Raise ``UnexpectedOutput`` unless each sample's outputs equal the expected ones bit for bit.

        NaN equals NaN, which has many forms.
        """
        for position, index in enumerate(indices):
            expected = self.inputs.expected(index) or {}
            for spec, output in zip(self._interface.outputs, outputs, strict=True):
                wanted = expected.get(spec.name)
                if wanted is None:
                    continue
                found = output[position] if self._interface.max_batch_size else output
                right = as_array(spec.datatype, wanted.shape, wanted.data)
                if found.shape != right.shape:
                    raise self._unexpected(index, spec, f"the shape {shape_text(found.shape)}", shape_text(right.shape))
                different = (found != right) if spec.datatype == "BYTES" else _bits(found) != _bits(right)
                if right.dtype.kind == "f":
                    different &= ~(np.isnan(found) & np.isnan(right))
                if different.any():
                    at = int(np.flatnonzero(different)[0])
                    values = [_value(spec, array.reshape(-1)[at]) for array in (found, right)]
                    raise self._unexpected(index, spec, f"{values[0]} at element {at}", values[1])

    def _unexpected(self, index: int, spec: TensorSpec, found: str, right: str) -> UnexpectedOutput:
        """Says of the first samples what was found; what it says of others is the same for all, so that it is counted
        in one."""
        if index in self._unexpected_told or len(self._unexpected_told) == _MOST_TOLD:
            return UnexpectedOutput(f"output {spec.name} of further answers differs from what is expected")
        self._unexpected_told.add(index)
        return UnexpectedOutput(f"{self.inputs.place(index)}: output {spec.name} has {found}, expected {right}")

    def batch(self, indices: IndexArray) -> Batch:
        """The inputs of these samples by name, for ``SampleLibrary``; reads them again, as only requests are kept.

        An input that the samples leave out is missing.  Raises ``InputError`` where samples differ in shape or in what
        they leave out.
        """
        samples = [self.inputs.sample(index) for index in indices.tolist()]
        batch = {}
        for spec, tensors in zip(self._interface.inputs, zip(*samples, strict=True), strict=True):
            _check_alike(spec, tensors)
            if tensors[0] != LEFT_OUT:
                batch[spec.name] = np.stack([as_array(spec.datatype, *tensor) for tensor in tensors])
        return batch

    def _as_sent(self, sample: Sample) -> Sample:
        if self._values is None:
            return sample
        tensors = []
        for spec, tensor in zip(self._interface.inputs, sample, strict=True):
            if tensor != LEFT_OUT:
                try:
                    tensor = Tensor(tensor.shape, self._values.encoded(spec.datatype, tensor.shape, tensor.data))
                except TensorError as error:
                    raise InputError(f"input {spec}: {error}") from None
            tensors.append(tensor)
        return tuple(tensors)

    def _parts(self, samples: Sequence[Sample]) -> list[Part]:
        parts = []
        joint = b"" if self._values is None else self._values.joint
        for position, spec in enumerate(self._interface.inputs):
            tensors = [sample[position] for sample in samples]
            _check_alike(spec, tensors)
            first = tensors[0]
            if first == LEFT_OUT:
                parts.append(NOT_SENT)
                continue
            data = [tensor.data for tensor in tensors]
            batch = (len(samples),) if self._interface.max_batch_size else ()
            parts.append(Part((*batch, *first.shape), data[0] if len(data) == 1 else joint.join(data)))
        return parts


def _kind(sample: Sample) -> tuple[Shape | None, ...]:
    """What samples of one request have in common: shapes; None for an input that is left out."""
    return tuple(None if tensor == LEFT_OUT else tensor.shape for tensor in sample)


def _check_alike(spec: TensorSpec, tensors: Sequence[Tensor]) -> None:
    """Raise ``InputError`` unless the samples' tensors of one input can be one batch."""
    first, *others = tensors
    if any((tensor == LEFT_OUT) != (first == LEFT_OUT) for tensor in others):
        raise InputError(f"some samples leave out the input {spec}: send them one by one")
    if any(tensor.shape != first.shape for tensor in others):
        raise InputError(f"samples have different shapes for the input {spec}: send them one by one")


def _value(spec: TensorSpec, element: Any) -> str:
    """Short, and with all digits of a number, so that two that differ look so."""
    if spec.datatype == "BF16":
        element = (np.asarray(element, np.uint32) << 16).view(np.float32)[()]
    return reprlib.repr(element) if isinstance(element, bytes) else str(element)


def _bits(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(array).reshape(array.shape).view(f"u{array.itemsize}")
