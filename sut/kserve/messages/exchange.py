"""What a request is made of and what comes of it, whatever protocol carries it.

Knows samples, shared memory and tickets; the protocols implement ``Messages`` (what is said) and ``Channel`` (how it
travels on one connection).  A ticket is a number that the user of a channel chooses to know an answer again by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.messages.tensors import (
    DATATYPES,
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
"""The largest reply that is taken unless the user says otherwise."""


class Region(NamedTuple):
    """A piece of shared memory that the server knows by name."""

    name: str
    offset: int
    size: int


class Part(NamedTuple):
    """One input of a request: its shape with the batch, and its contents or where they lie."""

    shape: Shape
    data: Buffer | Region


class Failure(NamedTuple):
    """What came instead of outputs."""

    reason: str
    unseen: bool = False
    """The server told that it did not begin on the request: it may be sent again."""


Reply: TypeAlias = Outputs | Failure | None
"""None: all is well, and nobody wants the outputs."""


class Messages(Protocol):
    """Requests and replies of one model in the form of one protocol."""

    wanted: bool
    """Whether the outputs themselves are wanted.  Otherwise a reply is checked to the last name, shape and size, and
    its contents are not looked at."""

    def request(self, parts: Sequence[Part], regions: Sequence[Region] = ()) -> Any:
        """A whole request: the inputs in the model's order, and for outputs in shared memory a region each."""


class SharedMessages(Messages, Protocol):
    """Requests whose inputs and outputs all lie in shared memory, made of two sides that are each prepared once.

    A reply's outputs are arrays of the form that it tells; their contents are where the request said.
    """

    def input_side(self, parts: Sequence[Part]) -> bytes:
        """What a request says of its inputs: ``parts`` name regions."""

    def output_side(self, regions: Sequence[Region]) -> bytes:
        """What a request says of where its outputs go: a region each."""

    def joined(self, input_side: bytes, output_side: bytes) -> Any:
        """A whole request of these two."""


class Channel(Protocol):
    """The protocol logic of one connection, without I/O."""

    out: list[Buffer]
    """What must be written, in this order; whoever writes it empties the list."""

    @property
    def draining(self) -> bool:
        """No new request may be sent; those under way are still answered."""

    @property
    def free(self) -> int:
        """How many more requests may be sent now; 0 when draining."""

    @property
    def under_way(self) -> int:
        """Requests sent and not answered."""

    @property
    def oldest(self) -> int | None:
        """The ticket under way that was sent first; None when there is none."""

    def send(self, ticket: int, request: Any) -> None:
        """Send a request that ``Messages`` of the same protocol has made."""

    def cancel(self, ticket: int) -> bool:
        """Nobody waits for this answer any more.  False: the connection is of no use without it, and must be closed."""

    def close(self) -> None:
        """Put out what is to be said at the end of a connection."""

    def receive(self, data: bytes) -> list[tuple[int, Reply]]:
        """Take what was read.  Raises ``ProtocolError``: the connection must be closed, see ``lost``."""

    def eof(self) -> list[tuple[int, Reply]]:
        """The server will send nothing more: what is answered by that.  Raises ``ProtocolError``."""

    def lost(self, reason: str) -> list[tuple[int, Reply]]:
        """The connection has ended: what becomes of the requests under way."""


class Found(NamedTuple):
    """One output as a reply describes it."""

    name: str
    datatype: str
    shape: Shape
    first: int
    """Where its contents start in the message; -1 in shared memory."""
    last: int


def check_outputs(interface: ModelInterface, found: Sequence[Found], batch_size: int | None = None) -> list[Found]:
    """The outputs in the model's order.  Raises ``ProtocolError`` for one that is missing or not as declared.

    ``batch_size``: the most samples that a request holds; None is not known.
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
                f"output {spec} came as {output.datatype}[{','.join(map(str, output.shape))}], batch included"
            )
        ordered.append(output)
    if interface.max_batch_size:
        sizes = {output.shape[0] for output in ordered}
        if len(sizes) > 1 or (batch_size is not None and not 1 <= max(sizes) <= batch_size):
            asked = "" if batch_size is None else f" to a request of at most {batch_size}"
            raise ProtocolError(f"outputs for {' and '.join(map(str, sorted(sizes)))} samples{asked}")
    return ordered


def contents(message: Buffer, output: Found) -> npt.NDArray[Any]:
    """An output's tensor: a view where the contents lie in ``message``.  Raises ``ProtocolError``."""
    try:
        return as_array(output.datatype, output.shape, memoryview(message)[output.first : output.last])
    except TensorError as error:
        raise ProtocolError(f"output {output.name}: {error}") from None


def form(_: Buffer, output: Found) -> npt.NDArray[Any]:
    """An output in shared memory: an array of its datatype and shape, without contents.  Raises ``ProtocolError``."""
    try:
        return np.broadcast_to(np.zeros((), DATATYPES[output.datatype]), output.shape)
    except ValueError as error:  # numpy's, for a shape of more elements than it can count
        raise ProtocolError(f"output {output.name}: {error}") from None


def check_contents(message: Buffer, output: Found) -> None:
    """Raise ``ProtocolError`` unless the contents have the size that the shape tells."""
    if output.first < 0:
        return
    try:
        check_size(output.datatype, output.shape, memoryview(message)[output.first : output.last])
    except TensorError as error:
        raise ProtocolError(f"output {output.name}: {error}") from None
