"""One inference request on its way through the server: what is to be computed, and what came of it.

Knows contents and times; must not know the protocol that brought it, whose connection stands here as a mere object.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from drumfire.sut.kserve.messages.exchange import Buffer, Region
from drumfire.sut.kserve.messages.tensors import Shape
from drumfire.sut.serving.refusal import Refusal

PRIORITIES = 16
"""1 is served first."""
DEFAULT_PRIORITY = 8
"""Of requests that name none (0), or one that there is not, as in Triton."""


class SharedPlace(NamedTuple):
    """Shared memory that an output goes to."""

    region: Region
    memory: memoryview


class Wanted(NamedTuple):
    """An output that is asked for."""

    position: int
    """Among the model's outputs."""
    place: SharedPlace | None
    """None: it goes in the answer."""


class Request:
    """Owned by the event loop until it is submitted and after it is handed back; by the scheduler in between."""

    __slots__ = (
        "connection",
        "contents",
        "data",
        "deadline_ns",
        "head",
        "priority",
        "received_ns",
        "refusal",
        "sample_shape",
        "samples",
        "scheduler",
        "tails",
        "ticket",
        "waits",
        "wanted",
    )

    def __init__(
        self,
        data: Buffer,
        samples: int,
        sample_shape: Shape,
        received_ns: int,
        *,
        deadline_ns: int = 0,
        priority: int = DEFAULT_PRIORITY,
        wanted: tuple[Wanted, ...] = (),
        connection: Any = None,
        ticket: Any = None,
        head: Any = None,
        scheduler: Any = None,
    ) -> None:
        self.data = data
        """The input's raw contents, row-major."""
        self.samples = samples
        self.sample_shape = sample_shape
        """As it came, without the batch.  Only requests of one shape go into one batch."""
        self.received_ns = received_ns
        self.deadline_ns = deadline_ns
        """When it is no longer worth computing; 0 is never."""
        self.priority = priority
        self.wanted = wanted
        """Empty: all outputs, in the answer."""
        self.waits = False
        """In the queue.  A request that is cancelled there is never computed."""
        self.contents: list[Buffer] = []
        """Of each of the model's outputs, this request's rows."""
        self.tails: list[Shape] = []
        """The outputs' shapes without the batch."""
        self.refusal: Refusal | None = None
        self.connection, self.ticket, self.head = connection, ticket, head
        """Whom to answer, for the port that made the request."""
        self.scheduler = scheduler
        """Whose queue it is in."""
