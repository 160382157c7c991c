"""The queue of a model: first in, first out within a priority, bounded, and taken in batches.

Implements the rule of batching.  Has no lock, clock or thread of its own; the caller passes the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from drumfire.sut.local.rows import BatchRule
from drumfire.sut.serving.request import Request

_FEW = 64
"""Cancelled requests that may always stay in the queue until their turn."""


_LOOK = 8
"""Full batches that are looked at for requests of similar sizes."""
_MOST_COMPUTED = 1.2
"""A batch computes at most so many times the sizes of its samples: more padding costs more than a batch of its own,
and one large request would slow down all others."""


class Taken(NamedTuple):
    """The result of ``RequestQueue.take``."""

    batch: list[Request]
    """To compute together; empty if nothing should start yet."""
    late: list[Request]
    """Their deadline passed while they waited."""
    wait_ns: int | None
    """How long the oldest request may still wait for a fuller batch; None if the queue is empty."""


class RequestQueue:
    """Holds at most ``most_requests`` requests with ``most_bytes`` of inputs."""

    def __init__(
        self, rule: BatchRule, size: Callable[[Request], int] | None = None, *, most_requests: int, most_bytes: int
    ) -> None:
        """``size``: of the samples of a request, where samples of others are padded to share a batch with them: then
        batches are of similar sizes."""
        self.requests = 0
        """Waiting requests, without cancelled ones."""
        self.samples = 0
        self.bytes = 0
        self.deadlines = 0
        """Waiting requests with a deadline."""
        self._rule, self._size = rule, size
        self._most_requests, self._most_bytes = most_requests, most_bytes
        self._levels: dict[int, deque[Request]] = {}
        self._ordered: list[deque[Request]] = []
        """The levels by priority, the most urgent first."""
        self._cancelled = 0
        """An upper bound of the requests in the deques that no longer wait."""

    def add(self, request: Request) -> bool:
        """Queue a request; returns False if there is no room."""
        size = request.size
        if self.requests >= self._most_requests or (self.requests and self.bytes + size > self._most_bytes):
            return False
        level = self._levels.get(request.priority)
        if level is None:
            level = self._levels[request.priority] = deque()
            self._ordered = [self._levels[priority] for priority in sorted(self._levels)]
        level.append(request)
        request.waits = True
        self.requests += 1
        self.samples += request.samples
        self.bytes += size
        if request.deadline_ns:
            self.deadlines += 1
        return True

    def cancel(self, request: Request) -> bool:
        """Remove a request; returns whether it was waiting."""
        if not request.waits:
            return False
        self._leave(request)
        request.data = ()
        self._cancelled += 1
        if self._cancelled > max(self.requests, _FEW):
            for level in self._ordered:
                living = [one for one in level if one.waits]
                level.clear()
                level.extend(living)
            self._cancelled = 0
        return True

    def take(self, now_ns: int, *, hurry: bool = False) -> Taken:
        """The next batch, if it should start now.  ``hurry``: do not wait for a fuller one."""
        late: list[Request] = []
        level = self._front(now_ns, late)
        if level is None:
            return Taken([], late, None)
        waiting, must_go, oldest_ns = self._together(now_ns)
        patience_ns = 0 if hurry or must_go else self._rule.patience_ns(waiting)
        if patience_ns:
            left_ns = oldest_ns + patience_ns - now_ns
            if left_ns > 0:
                return Taken([], late, left_ns)
        if self._size is not None:
            return Taken(self._similar(level, self._size, self._rule.size(waiting), now_ns, late), late, 0)
        first = level.popleft()
        self._leave(first)
        batch, samples, alike = [first], first.samples, first.alike
        most = self._rule.size(waiting)
        while samples < most and level is not None:
            # Usually the next request is in the same level, waits and has no deadline.
            following = level[0] if level else None
            if following is None or not following.waits or following.deadline_ns:
                level = self._front(now_ns, late)
                if level is None:
                    break
                following = level[0]
            if samples + following.samples > most or following.alike != alike:
                break
            level.popleft()
            self._leave(following)
            batch.append(following)
            samples += following.samples
        return Taken(batch, late, 0)

    def _similar(
        self, level: deque[Request], size_of: Callable[[Request], int], most: int, now_ns: int, late: list[Request]
    ) -> list[Request]:
        """A batch of the level's first request, whose turn it is, and those of the nearest sizes, in this order."""
        first, looked, samples = level[0], [], 0
        while level and samples < _LOOK * most and level[0].alike == first.alike:
            request = level.popleft()
            if not request.waits:
                self._cancelled = max(self._cancelled - 1, 0)
            elif 0 < request.deadline_ns <= now_ns:
                self._leave(request)
                late.append(request)
            else:
                looked.append(request)
                samples += request.samples
        waiting = sorted(looked, key=size_of)
        low = high = waiting.index(first)
        samples, longest = first.samples, size_of(first)
        own = samples * longest
        while True:
            best = None
            for at in (low - 1, high + 1):
                if 0 <= at < len(waiting) and samples + waiting[at].samples <= most:
                    more, size = waiting[at].samples, size_of(waiting[at])
                    computed = (samples + more) * max(longest, size)
                    padding = computed - own - more * size
                    if computed <= _MOST_COMPUTED * (own + more * size) and (best is None or padding < best[0]):
                        best = padding, at
            if best is None:
                break
            low, high = min(low, best[1]), max(high, best[1])
            request = waiting[best[1]]
            samples += request.samples
            own += request.samples * size_of(request)
            longest = max(longest, size_of(request))
        batch = waiting[low : high + 1]
        for request in batch:
            self._leave(request)
        level.extendleft(request for request in reversed(looked) if request.waits)
        return batch

    def late(self, now_ns: int) -> list[Request]:
        """Remove and return all requests whose deadline has passed."""
        if not self.deadlines:
            return []
        late = [one for level in self._ordered for one in level if one.waits and 0 < one.deadline_ns <= now_ns]
        for request in late:
            self._leave(request)
        self._cancelled += len(late)
        return late

    def clear(self) -> list[Request]:
        """Remove and return all requests."""
        waited = [one for level in self._ordered for one in level if one.waits]
        for request in waited:
            self._leave(request)
        for level in self._ordered:
            level.clear()
        self._cancelled = 0
        return waited

    def _front(self, now_ns: int, late: list[Request]) -> deque[Request] | None:
        """The level whose first request is next.  Drops cancelled requests before it, and moves late ones to
        ``late``."""
        for level in self._ordered:
            while level:
                request = level[0]
                if not request.waits:
                    level.popleft()
                    self._cancelled = max(self._cancelled - 1, 0)
                elif 0 < request.deadline_ns <= now_ns:
                    level.popleft()
                    self._leave(request)
                    late.append(request)
                else:
                    return level
        return None

    def _together(self, now_ns: int) -> tuple[int, bool, int]:
        """The samples that could form the next batch; whether waiting cannot add more; and the arrival of the oldest.

        The samples are fewer than those waiting only if requests are not alike, or if a batch is full.
        """
        samples, most = 0, self._rule.max_size
        alike, oldest_ns = None, now_ns
        for level in self._ordered:
            for request in level:
                if not request.waits or 0 < request.deadline_ns <= now_ns:
                    continue
                if alike is None:
                    alike = request.alike
                if request.alike != alike or samples + request.samples > most:
                    return samples, True, oldest_ns
                samples += request.samples
                if samples == most:
                    return samples, True, oldest_ns
                if request.received_ns < oldest_ns:
                    oldest_ns = request.received_ns
        return samples, False, oldest_ns

    def _leave(self, request: Request) -> None:
        request.waits = False
        self.requests -= 1
        self.samples -= request.samples
        self.bytes -= request.size
        if request.deadline_ns:
            self.deadlines -= 1
