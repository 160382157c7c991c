"""Inference as a server sees it, whatever protocol carries it: what is asked for, and what is answered.

Knows models' names, tensors and regions of shared memory; must not know protocols, nor what a model does.
``inference_grpc`` and ``inference_http`` make these of messages and back.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from drumfire.sut.kserve.errors import one_line
from drumfire.sut.kserve.messages.exchange import Buffer, Region
from drumfire.sut.kserve.messages.tensors import Shape, TensorError

Parameters: TypeAlias = Mapping[str, Any]
"""Values are bool, int, float or str.  Those that say where a tensor lies are read already, and not among them."""


class RequestInput(NamedTuple):
    """One input: what the client says of it, and its contents or where they lie.

    The contents have the size that datatype and shape tell (of BYTES, as many elements).  Whether the model has such
    an input is not known here, and what a region holds is not either.
    """

    name: str
    datatype: str
    shape: Shape
    data: Buffer | Region


class RequestedOutput(NamedTuple):
    """One output that the client names."""

    name: str
    region: Region | None = None
    """Where it shall be put; None: into the answer."""
    binary: bool = True
    """Over HTTP: as bytes behind the JSON, not in it."""


class InferRequest(NamedTuple):
    """A request.  It is shared with others like it: nothing of it may be changed."""

    model: str
    version: str
    """Empty: whichever the server serves."""
    id: str
    parameters: Parameters
    inputs: Sequence[RequestInput]
    outputs: Sequence[RequestedOutput]
    """Empty: all that the model has, of the form that ``binary`` tells."""
    binary: bool = True
    """Over HTTP: outputs that are not named come as bytes behind the JSON, not in it."""


class AnswerOutput(NamedTuple):
    """One output: contents, or the region that they were put in."""

    name: str
    datatype: str
    shape: Shape
    data: Buffer | None
    region: Region | None = None


class InferAnswer(NamedTuple):
    """An answer.  ``version`` is the one that was used, ``id`` the request's."""

    model: str
    version: str
    id: str
    outputs: Sequence[AnswerOutput]
    parameters: Parameters = MappingProxyType({})


REGION = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")
"""The parameters of a tensor that lies in shared memory."""


@functools.lru_cache(maxsize=64)
def called(what: str, name: str) -> str:
    """A tensor, in an error's text; kept, as it is made ready with every tensor in JSON."""
    return f"{what} {one_line(name, 60)!r}"


def take_region(parameters: dict[str, Any], name: str) -> Region | None:
    """The region that a tensor's parameters name, if any; these parameters are taken out.  Raises ``TensorError``."""
    region = parameters.pop(REGION[0], None)
    offset, size = parameters.pop(REGION[1], None), parameters.pop(REGION[2], None)
    if region is None:
        if offset is not None or size is not None:
            raise TensorError(f"{called('tensor', name)} has a place in shared memory without {REGION[0]}")
        return None
    if not isinstance(region, str) or not region:
        raise TensorError(f"{called('tensor', name)}: {REGION[0]} is no name")
    if type(size) is not int or size < 0:
        raise TensorError(f"{called('tensor', name)}: {REGION[2]} is no size in bytes")
    if offset is not None and (type(offset) is not int or offset < 0):
        raise TensorError(f"{called('tensor', name)}: {REGION[1]} is no offset in bytes")
    return Region(region, offset or 0, size)


def refuse_classification(parameters: Mapping[str, Any], name: str) -> None:
    """Raise ``TensorError`` where classes are asked for in an output's place."""
    if parameters.get("classification"):
        raise TensorError(f"{called('output', name)}: classification is not served: ask for the output itself")
