"""Requests of different sizes in one batch: which may share it, what they are padded to, and what is cut back.

Does not depend on queues, memory or on what computes the batch.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from drumfire.sut.data.ragged import Padding
from drumfire.sut.kserve.messages.tensors import Shape
from drumfire.sut.local.followed import Follows
from drumfire.sut.serving.request import Request, Shapes


class PaddedBatch(NamedTuple):
    """A batch with padding."""

    shapes: Shapes
    """Of its samples, by input, as they arrive."""
    follows: Sequence[Follows]
    """By output."""


class RequestPadding:
    """How one model's requests are padded."""

    def __init__(
        self, rule: Padding, axes: Mapping[int, Sequence[int]], follows: Sequence[Follows], *, changes: bool = False
    ) -> None:
        """``axes``: the open ones of each input that has some, by its position.  ``follows``: by output.

        ``changes``: the user wants it although it changes the model's answers.
        """
        self.rule, self._axes, self._follows = rule, axes, follows
        self._changes = changes
        self._most = rule.sizes[-1] if rule.sizes else None

    def __str__(self) -> str:
        """For descriptions."""
        changes = ", which changes its answers (it has no mask, or none that holds)" if self._changes else ""
        return f"requests padded to {self.rule}{changes}"

    def alike(self, shapes: Shapes) -> tuple[object, ...]:
        """What requests of these shapes have in common with all those that they can share a batch with.

        Empty samples share none with others: a model refuses them, or does not, whatever is beside them.
        """
        found: list[Shape | None] = list(shapes)
        for at, axes in self._axes.items():
            if (shape := shapes[at]) is not None and 0 not in shape:
                found[at] = tuple(-1 if axis in axes else size for axis, size in enumerate(shape))
        return tuple(found)

    def too_large(self, shapes: Shapes) -> int | None:
        """The position of an input that is larger than all that the rule pads to."""
        if self._most is None:
            return None
        for at, axes in self._axes.items():
            shape = shapes[at]
            if shape is not None and any(shape[axis] > self._most for axis in axes):
                return at
        return None

    def size(self, shapes: Shapes) -> int:
        """Of a sample, such as the tokens of a text: the product of its open sizes; the largest input's counts."""
        most = 0
        for at, axes in self._axes.items():
            if (shape := shapes[at]) is not None:
                most = max(most, math.prod([shape[axis] for axis in axes]))
        return most

    def computed_size(self, request: Request) -> int:
        """The same of a request's samples in a batch of their own."""
        size = self.size(request.shapes)
        return self._padded(size) if self._most else size

    def of(self, requests: Sequence[Request]) -> PaddedBatch | None:
        """The batch of these requests, which are alike; None if none of it is padding."""
        found = list(requests[0].shapes)
        is_padded = False
        for at, axes in self._axes.items():
            if found[at] is None:
                continue
            every: list[Shape] = [request.shapes[at] for request in requests]  # type: ignore[misc]
            largest = list(map(max, zip(*every, strict=True))) if len(every) > 1 else list(every[0])
            if self._most:
                for axis in axes:
                    largest[axis] = self._padded(largest[axis])
            found[at] = shape = tuple(largest)
            is_padded = is_padded or any(one != shape for one in every)
        return PaddedBatch(tuple(found), self._follows) if is_padded else None

    def _padded(self, size: int) -> int:
        return self.rule.sizes[bisect_left(self.rule.sizes, size)]
