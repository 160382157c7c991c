"""A stand-in for a GPU, in plain memory: does what its streams hold as late as it may, and in any order that it may.

So a batch that is read too early, or memory that is used again too early, shows in the answers.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from drumfire.sut.local.backends.torch_gpu import Graph


class Moment:
    def __init__(self) -> None:
        self.is_past = False
        self.error: Exception | None = None


class Stream:
    def __init__(self) -> None:
        self.work: deque[Callable[[], None] | Moment] = deque()
        self.error: Exception | None = None
        """Of what it did since the last moment."""
        self.is_taken = False


class PlainDevice:
    """See ``torch_gpu.Device``."""

    kind, name = "cpu", "plain memory"
    seed = 0
    eager = 0.0
    """How often work is done as soon as it may."""

    def fault(self, number: int) -> None:
        """Called with the number of the batch as it is computed."""

    def __init__(self, *, spins: bool) -> None:
        self.spins = spins
        self._streams: list[Stream] = []
        self._graphs: list[list[torch.Tensor]] = []
        self._lock = threading.RLock()
        self._random = random.Random(self.seed)
        self.computed = 0
        """Batches given to it."""

    @property
    def is_idle(self) -> bool:
        return not any(stream.work for stream in self._streams)

    def stream(self) -> Stream:
        self._streams.append(Stream())
        return self._streams[-1]

    def on_host(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(tuple(shape), dtype=dtype)

    def memory(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8)

    def copy(self, stream: Stream, given: Sequence[torch.Tensor], takes: Sequence[torch.Tensor]) -> None:
        def work() -> None:
            with torch.inference_mode():
                for one, other in zip(given, takes, strict=True):
                    other.copy_(one)

        self._add(stream, work)

    def compute(self, stream: Stream, work: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
        assert not stream.is_taken, "two threads give a stream work at a time"
        stream.is_taken = True
        time.sleep(1e-5)  # another thread may come
        with self._lock, torch.inference_mode():
            gives = [_poisoned(one) for one in work()]  # its memory
        stream.is_taken = False
        number, self.computed = self.computed, self.computed + 1

        def again() -> None:
            self.fault(number)
            with torch.inference_mode():
                for one, other in zip(work(), gives, strict=True):
                    other.copy_(one)

        self._add(stream, again)
        return gives

    def mark(self, stream: Stream) -> Moment:
        moment = Moment()

        def work() -> None:
            moment.is_past, moment.error, stream.error = True, stream.error, None

        self._add(stream, work)
        return moment

    def follow(self, stream: Stream, moment: Moment) -> None:
        with self._lock:
            stream.work.append(moment)

    def wait(self, moment: Moment) -> None:
        while True:
            with self._lock:
                if moment.is_past:
                    break
                ready = [one for one in self._streams if self._may(one)]
                assert ready, "each stream waits for another"
                self._step(self._random.choice(ready))
        if moment.error is not None:
            raise moment.error

    def graph(self, stream: Stream, work: Callable[[], list[torch.Tensor]], pool: Any) -> Graph:
        with torch.inference_mode():
            gives = [one.clone() for one in work()]
        self._graphs.append(gives)

        def replay() -> None:
            for others in self._graphs:  # which share memory
                if others is not gives:
                    for one in others:
                        _poisoned(one)
            for one, other in zip(work(), gives, strict=True):
                other.copy_(one)

        return Graph(replay, gives, "a pool")

    def _add(self, stream: Stream, work: Callable[[], None]) -> None:
        with self._lock:
            stream.work.append(work)
            while self._random.random() < self.eager and self._may(stream):
                self._step(stream)

    def _may(self, stream: Stream) -> bool:
        first = stream.work[0] if stream.work else None
        return first is not None and (not isinstance(first, Moment) or first.is_past)

    def _step(self, stream: Stream) -> None:
        first = stream.work.popleft()
        if isinstance(first, Moment):
            stream.error = stream.error or first.error
            return
        try:
            first()
        except Exception as error:
            stream.error = error


def _poisoned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.fill_(float("nan") if tensor.is_floating_point() else 1)
