"""One inference request on its way through a model's queue: its input and its result.

Does not depend on connections: the service knows whose request it is.
"""

from __future__ import annotations

from typing import NamedTuple

from drumfire.sut.kserve.messages.exchange import Buffer
from drumfire.sut.kserve.messages.tensors import Shape
from drumfire.sut.serving.refusal import Refusal
from drumfire.sut.serving.shared_memory import SharedBytes

PRIORITIES = 16
"""1 is served first."""
DEFAULT_PRIORITY = 8
"""For requests without a priority (0) or with one out of range, as in Triton."""


class Wanted(NamedTuple):
    """A requested output."""

    position: int
    """Among the model's outputs."""
    place: SharedBytes | None
    """None: put it in the answer."""


class Request:
    """The event loop owns it before it is submitted and after it is handed back; the scheduler owns it in between."""

    __slots__ = (
        "contents",
        "data",
        "deadline_ns",
        "place",
        "priority",
        "received_ns",
        "refusal",
        "sample_shape",
        "samples",
        "tails",
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
        place: SharedBytes | None = None,
    ) -> None:
        self.data = data
        """The input's raw contents, row-major; empty where they are in shared memory."""
        self.place = place
        """Of the input in shared memory."""
        self.samples = samples
        self.sample_shape = sample_shape
        """As received, without the batch.  All requests of a batch have the same sample shape."""
        self.received_ns = received_ns
        self.deadline_ns = deadline_ns
        """0: no deadline.  Times are ns of ``service.now_ns``."""
        self.priority = priority
        self.wanted = wanted
        """Empty: all outputs, in the answer."""
        self.waits = False
        """It is in the queue.  A request that is cancelled there is never computed."""
        self.contents: list[Buffer] = []
        """This request's rows of each of the model's outputs."""
        self.tails: list[Shape] = []
        """The outputs' shapes without the batch."""
        self.refusal: Refusal | None = None
