"""Inference requests and replies as a client sees them, independent of the protocol.

Defines two protocols, each implemented once over gRPC and once over HTTP: ``Messages`` (the contents) and ``Channel``
(one connection).  A ticket is a number that the user of a channel chooses to recognise the reply by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.messages.tensors import (
    DATATYPES,
    LEFT_OUT,
    ModelInterface,
    Shape,
    TensorError,
    as_array,
    check_size,
)

Buffer = bytes | memoryview

Outputs: TypeAlias = list[npt.NDArray[Any]]
"""A reply's tensors in the order of the model's outputs, each with the batch as its first dimension."""

MAX_MESSAGE_BYTES = 64 << 20
"""The default limit of one message, in bytes."""

REGION_NAME, REGION_OFFSET, REGION_SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"
"""The parameters of a tensor in shared memory.  Source: Triton's shared memory extension."""


class Region(NamedTuple):
    """A piece of a shared memory region that is registered with the server; offset and size are bytes."""

    name: str
    offset: int
    size: int

    def parameters(self) -> dict[str, str | int]:
        """The parameters of a tensor that lies here."""
        return {REGION_NAME: self.name, REGION_OFFSET: self.offset, REGION_SIZE: self.size}


class Part(NamedTuple):
    """One input of a request: its shape with the batch, and its contents or their place in shared memory."""

    shape: Shape
    data: Buffer | Region


NOT_SENT = Part(*LEFT_OUT)
"""In place of an optional input that is left out."""


class Failure(NamedTuple):
    """Why there are no outputs."""

    reason: str
    unseen: bool = False
    """The server said that it has not started on the request: it may be sent again."""


Reply: TypeAlias = Outputs | Failure | None
"""None: the reply is good and the outputs are not wanted."""


class Messages(Protocol):
    """Requests and replies of one model in one protocol."""

    wanted: bool
    """Whether the outputs are wanted.  If not, a reply's names, shapes and sizes are checked but its contents are not
    read."""

    def request(self, parts: Sequence[Part], regions: Sequence[Region] = ()) -> Any:
        """A whole request: the inputs in the model's order; for outputs in shared memory, one region each."""


class ValueMessages(Messages, Protocol):
    """Requests that may hold tensors as values: ``request`` takes what ``encoded`` gives, joined by ``joint``."""

    joint: bytes
    """What comes between the contents of samples."""

    def encoded(self, datatype: str, shape: Shape, data: Buffer) -> Buffer:
        """A sample's tensor, from its raw contents.  Raises ``TensorError`` for one that has no such form."""


class SharedMessages(Messages, Protocol):
    """Requests whose inputs and outputs all lie in shared memory, built from two sides that are prepared once.

    A reply's outputs are arrays of the shapes in the reply; their contents are in the regions of the request.
    """

    def input_side(self, parts: Sequence[Part]) -> bytes:
        """The bytes that describe the inputs; ``parts`` name regions."""

    def output_side(self, regions: Sequence[Region]) -> bytes:
        """The bytes that describe the outputs, one region each."""

    def joined(self, input_side: bytes, output_side: bytes) -> Any:
        """A whole request from the two sides."""


class Channel(Protocol):
    """The protocol logic of one connection, without I/O."""

    out: list[Buffer]
    """Bytes to write, in order; the writer empties the list."""

    @property
    def draining(self) -> bool:
        """No new request may be sent; requests under way are still answered."""

    @property
    def free(self) -> int:
        """How many more requests may be sent now; 0 when draining."""

    @property
    def under_way(self) -> int:
        """Requests sent and not answered."""

    @property
    def oldest(self) -> int | None:
        """The ticket of the oldest request under way; None without one."""

    @property
    def buffered(self) -> int:
        """Bytes held of replies that have arrived in part."""

    def shed(self, most: int) -> list[tuple[int, Reply]]:
        """Stop waiting for the latest replies that have arrived in part, until at most ``most`` bytes are held of such,
        or only the oldest is left; returns a ``Failure`` for each."""

    def send(self, ticket: int, request: Any) -> None:
        """Send a request built by the ``Messages`` of the same protocol."""

    def cancel(self, ticket: int) -> bool:
        """Stop waiting for this reply.  False: the connection is useless without it and must be closed."""

    def close(self) -> None:
        """Put the connection's last bytes into ``out``."""

    def receive(self, data: bytes) -> list[tuple[int, Reply]]:
        """Process what was read.  Raises ``ProtocolError``: close the connection and call ``lost``."""

    def eof(self) -> list[tuple[int, Reply]]:
        """The server will send nothing more; returns the replies that this completes.  Raises ``ProtocolError``."""

    def lost(self, reason: str) -> list[tuple[int, Reply]]:
        """The connection has ended; returns a ``Failure`` for each request under way."""


class Found(NamedTuple):
    """One output as described by a reply."""

    name: str
    datatype: str
    shape: Shape
    first: int
    """Start of the contents in the message; -1 in shared memory."""
    last: int
    """End of the contents in the message; -1 in shared memory."""


def check_outputs(interface: ModelInterface, found: Sequence[Found], batch_size: int | None = None) -> list[Found]:
    """The outputs in the model's order.  Raises ``ProtocolError`` if one is missing or not as declared.

    ``batch_size``: the most samples that a request holds; None if unknown.
    """
    by_name = {output.name: output for output in found}
    ordered = []
    for spec in interface.outputs:
        output = by_name.get(spec.name)
        if output is None:
            raise ProtocolError(f"the reply lacks the output {spec}")
        batched = bool(interface.max_batch_size)
        if (
            output.datatype != spec.datatype
            or len(output.shape) < batched
            or not spec.fits(output.shape[batched:])
            or min(output.shape, default=1) < 0
        ):
            raise ProtocolError(
                f"output {spec} came as {output.datatype}[{','.join(map(str, output.shape))}], with the batch"
            )
        ordered.append(output)
    if interface.max_batch_size:
        sizes = {output.shape[0] for output in ordered}
        if len(sizes) > 1 or (batch_size is not None and not 1 <= max(sizes) <= batch_size):
            asked = "" if batch_size is None else f" to a request of at most {batch_size}"
            raise ProtocolError(f"outputs for {' and '.join(map(str, sorted(sizes)))} samples{asked}")
    return ordered


def contents(message: Buffer, output: Found) -> npt.NDArray[Any]:
    """An output's tensor; a view of ``message`` if the datatype has a fixed size.  Raises ``ProtocolError``."""
    try:
        return as_array(output.datatype, output.shape, memoryview(message)[output.first : output.last])
    except TensorError as error:
        raise ProtocolError(f"output {output.name}: {error}") from None


def placeholder(_: Buffer, output: Found) -> npt.NDArray[Any]:
    """For an output in shared memory, zeros of its datatype and shape.  Raises ``ProtocolError``."""
    try:
        return np.broadcast_to(np.zeros((), DATATYPES[output.datatype]), output.shape)
    except ValueError as error:  # numpy raises it for a shape of too many elements
        raise ProtocolError(f"output {output.name}: {error}") from None


def check_contents(message: Buffer, output: Found) -> None:
    """Raise ``ProtocolError`` unless the contents have the size of the shape."""
    if output.first < 0:
        return
    try:
        check_size(output.datatype, output.shape, memoryview(message)[output.first : output.last])
    except TensorError as error:
        raise ProtocolError(f"output {output.name}: {error}") from None
