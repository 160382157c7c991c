"""Inference requests and answers as a server sees them, independent of the protocol.

Handles model names, tensors and shared memory regions.  Does not depend on a protocol or on what a model does;
``grpc_server`` and ``http_server`` convert between these types and messages.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from drumfire.sut.kserve.errors import one_line
from drumfire.sut.kserve.messages.exchange import REGION_NAME, REGION_OFFSET, REGION_SIZE, Buffer, Region
from drumfire.sut.kserve.messages.tensors import Shape, TensorError

Parameters: TypeAlias = Mapping[str, Any]
"""Values are bool, int, float or str.  The parameters of shared memory are taken out already (see ``take_region``)."""

MOST_JSON = 1 << 20
"""Limit of a request's JSON in bytes, and of numbers that take as long to read: nothing else is done meanwhile."""


class RequestInput(NamedTuple):
    """One input as the client describes it, with its contents or their place in shared memory.

    The contents have the size that datatype and shape require (for BYTES, the number of elements).  The model's own
    declaration and the region's contents are not checked here.
    """

    name: str
    datatype: str
    shape: Shape
    data: Buffer | Region


class RequestedOutput(NamedTuple):
    """One output that the request names."""

    name: str
    region: Region | None = None
    """Where to put it; None: in the answer."""
    binary: bool = True
    """HTTP only: send it as bytes after the JSON, not in the JSON."""


class InferRequest(NamedTuple):
    """A request.  Requests that are alike share their parts: do not modify them."""

    model: str
    version: str
    """Empty: the server chooses."""
    id: str
    parameters: Parameters
    inputs: Sequence[RequestInput]
    outputs: Sequence[RequestedOutput]
    """Empty: all of the model's outputs, in the form that ``binary`` selects."""
    binary: bool = True
    """HTTP only: send outputs that are not named as bytes after the JSON, not in the JSON."""

    def without_contents(self) -> InferRequest:
        """The same with empty inputs, except those in shared memory: an example for later requests like it."""
        inputs = [tensor if isinstance(tensor.data, Region) else tensor._replace(data=b"") for tensor in self.inputs]
        return self._replace(inputs=inputs)


class AnswerOutput(NamedTuple):
    """One output: its contents, or the region that holds them."""

    name: str
    datatype: str
    shape: Shape
    data: Buffer | None
    region: Region | None = None


class InferAnswer(NamedTuple):
    """An answer.  ``version`` is the version used, ``id`` the request's."""

    model: str
    version: str
    id: str
    outputs: Sequence[AnswerOutput]
    parameters: Parameters = MappingProxyType({})


def form_of(output: AnswerOutput) -> tuple[object, ...]:
    """What must be equal for two outputs to have the same description: all but the contents."""
    name, datatype, shape, data, region = output
    return name, datatype, shape, region if data is None else len(data)


@functools.lru_cache(maxsize=64)
def label(what: str, name: str) -> str:
    """A tensor in an error's text; cached, because every tensor in JSON needs it."""
    return f"{what} {one_line(name, 60)!r}"


def take_region(parameters: dict[str, Any], name: str) -> Region | None:
    """Remove the shared memory parameters of a tensor; returns its region, if any.  Raises ``TensorError``."""
    region = parameters.pop(REGION_NAME, None)
    offset, size = parameters.pop(REGION_OFFSET, None), parameters.pop(REGION_SIZE, None)
    if region is None:
        if offset is not None or size is not None:
            raise TensorError(f"{label('tensor', name)} has a place in shared memory without {REGION_NAME}")
        return None
    if not isinstance(region, str) or not region:
        raise TensorError(f"{label('tensor', name)}: {REGION_NAME} is not a name")
    if type(size) is not int or size < 0:
        raise TensorError(f"{label('tensor', name)}: {REGION_SIZE} is not a size in bytes")
    if offset is not None and (type(offset) is not int or offset < 0):
        raise TensorError(f"{label('tensor', name)}: {REGION_OFFSET} is not an offset in bytes")
    return Region(region, offset or 0, size)


def refuse_classification(parameters: Mapping[str, Any], name: str) -> None:
    """Raise ``TensorError`` if the request wants classes instead of the output itself."""
    if parameters.get("classification"):
        raise TensorError(f"{label('output', name)}: classification is not served: request the output itself")
