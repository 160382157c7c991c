"""A sample library for a remote model: it keeps loaded samples as requests that are ready to send.

Handles samples and the form of requests.  Does not depend on connections or on when requests are sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from drumfire.loadgen.system import Batch, IndexArray
from drumfire.sut.data.inputs import InputError, Inputs, Sample
from drumfire.sut.data.library import NotLoadedError
from drumfire.sut.kserve.messages.exchange import Messages, Outputs, Part
from drumfire.sut.kserve.messages.tensors import ModelInterface, as_array

_BURST_BYTES = 1 << 20


class UnexpectedOutput(ValueError):
    """A reply's outputs differ from the expected ones."""


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
    ) -> None:
        self.name = inputs.name
        self.total_count, self.performance_count = total_count, performance_count
        self.inputs = inputs
        self.requests: list[Any] = [None] * total_count
        self.burst = 1
        """Number of requests that are about 1 MiB together: send no more before checking that the socket has room."""
        self._interface, self._messages = interface, messages
        self._batch_size = batch_size
        self._samples: dict[int, Sample] = {}

    def load(self, indices: IndexArray) -> None:
        """Read these samples and make their requests.  Raises ``InputError`` for a sample that cannot be read."""
        largest = 1
        for index in np.unique(indices).tolist():
            sample = self.inputs.sample(index)
            largest = max(largest, sum(len(tensor.data) for tensor in sample))
            if self._batch_size == 1:
                self.requests[index] = self._messages.request(self._parts([sample]))
            else:
                self._samples[index] = sample
        self.burst = max(1, _BURST_BYTES // (largest * self._batch_size))

    def unload(self, indices: IndexArray) -> None:
        for index in np.unique(indices).tolist():
            self.requests[index] = None
            self._samples.pop(index, None)

    def batched(self, indices: Sequence[int]) -> Any:
        """Make one request of loaded samples.  Raises ``NotLoadedError``, or ``InputError`` if their shapes differ."""
        try:
            return self._messages.request(self._parts([self._samples[index] for index in indices]))
        except KeyError as error:
            raise NotLoadedError(f"{self.name}: sample {error} is not loaded") from None

    def check_expected(self, indices: Sequence[int], outputs: Outputs) -> None:
        """Raise ``UnexpectedOutput`` unless each sample's outputs equal the expected ones bit for bit."""
        for position, index in enumerate(indices):
            expected = self.inputs.expected(index) or {}
            for spec, output in zip(self._interface.outputs, outputs, strict=True):
                wanted = expected.get(spec.name)
                if wanted is None:
                    continue
                found = output[position] if self._interface.max_batch_size else output
                right = as_array(spec.datatype, wanted.shape, wanted.data)
                if found.shape != right.shape:
                    raise UnexpectedOutput(f"output {spec.name} has the shape {found.shape}, expected {right.shape}")
                if found.tobytes() != right.tobytes() if spec.datatype != "BYTES" else (found != right).any():
                    where = int(np.flatnonzero((found != right).reshape(-1))[:1].sum())
                    raise UnexpectedOutput(
                        f"output {spec.name} of a sample differs from what is expected, first at element {where}"
                    )

    def batch(self, indices: IndexArray) -> Batch:
        """The inputs of these samples by name, for ``SampleLibrary``; reads them again, as only requests are kept."""
        samples = [self.inputs.sample(index) for index in indices.tolist()]
        return {
            spec.name: np.stack([as_array(spec.datatype, tensor.shape, tensor.data) for tensor in tensors])
            for spec, tensors in zip(self._interface.inputs, zip(*samples, strict=True), strict=True)
        }

    def _parts(self, samples: Sequence[Sample]) -> list[Part]:
        parts = []
        for position, spec in enumerate(self._interface.inputs):
            shape = samples[0][position].shape
            data = [sample[position].data for sample in samples]
            if any(sample[position].shape != shape for sample in samples):
                raise InputError(f"samples have different shapes for input {spec}: send them one by one")
            batch = (len(samples),) if self._interface.max_batch_size else ()
            parts.append(Part((*batch, *shape), data[0] if len(data) == 1 else b"".join(data)))
        return parts
