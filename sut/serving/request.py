"""One inference request on its way through a model's queue: its inputs and its result.

Does not depend on connections: the service knows whose request it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from drumfire.sut.kserve.messages.exchange import Buffer
from drumfire.sut.kserve.messages.tensors import Shape
from drumfire.sut.serving.refusal import Refusal
from drumfire.sut.serving.shared_memory import SharedBytes

PRIORITIES = 16
"""1 is served first."""
DEFAULT_PRIORITY = 8
"""For requests without a priority (0) or with one out of range, as in Triton."""

Contents: TypeAlias = Buffer | SharedBytes | None
"""An input's raw contents, row-major, or their place in shared memory; None for one that is left out."""
Shapes: TypeAlias = tuple[Shape | None, ...]
"""The shapes of a model's inputs, without the batch; None for one that is left out."""


class Wanted(NamedTuple):
    """A requested output."""

    position: int
    """Among the model's outputs."""
    place: SharedBytes | None
    """None: put it in the answer."""


class Request:
    """The event loop owns it before it is submitted and after it is handed back; the scheduler owns it in between."""

    __slots__ = (
        "alike",
        "contents",
        "data",
        "deadline_ns",
        "is_shared",
        "priority",
        "received_ns",
        "refusal",
        "samples",
        "shapes",
        "size",
        "tails",
        "waits",
        "wanted",
    )

    def __init__(
        self,
        data: Sequence[Contents],
        samples: int,
        shapes: Shapes,
        received_ns: int,
        *,
        size: int = 0,
        alike: tuple[object, ...] | None = None,
        is_shared: bool = False,
        deadline_ns: int = 0,
        priority: int = DEFAULT_PRIORITY,
        wanted: tuple[Wanted, ...] = (),
    ) -> None:
        self.data = data
        """By the model's inputs."""
        self.is_shared = is_shared
        """Some of the inputs are in shared memory."""
        self.size = size
        """Bytes of the inputs, without those in shared memory."""
        self.samples = samples
        self.shapes = shapes
        """As received."""
        self.alike = shapes if alike is None else alike
        """What all requests of a batch have in common: the shapes of all inputs, but for sizes that are padded, and the
        contents of inputs that a batch has once."""
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
