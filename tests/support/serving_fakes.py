"""Stand-ins for the server's parts: a model that does what a test says, a loop and a clock that only tests move."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from drumfire.loadgen.system import Batch
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec
from drumfire.sut.local.rows import BatchRule
from drumfire.sut.models.tensors import Input, Tensors
from drumfire.sut.serving.model import ServedModel


class Doubler:
    """A backend that gives twice its input, and its negative; calls ``before`` first."""

    description = "doubles"

    def __init__(
        self, shape: tuple[int | None, ...] = (2,), before: Callable[[np.ndarray], object] | None = None
    ) -> None:
        self.tensors = Tensors((Input("x", shape, np.dtype(np.float32)),), ("twice", "minus"))
        self.before = before
        self.batches: list[np.ndarray] = []
        self.closed = False

    def run(self, batch: Batch) -> Sequence[np.ndarray]:
        (samples,) = (batch[one.name] for one in self.tensors.inputs)
        self.batches.append(samples.copy())
        if self.before is not None:
            self.before(samples)
        return [samples * 2, -samples]

    def close(self) -> None:
        self.closed = True


def served(
    *backends: Any,
    name: str = "double",
    version: str = "1",
    shape: tuple[int, ...] = (2,),
    rule: BatchRule | None = None,
    inline: bool = False,
    takes: Input | None = None,
    reload: Callable[[], Any] | None = None,
) -> ServedModel:
    rule = rule or BatchRule(4)
    specs = [TensorSpec(one, "FP32", shape) for one in ("x", "twice", "minus")]
    sizes = tuple(None if size < 0 else size for size in shape)
    return ServedModel(
        ModelInterface(name, version, "test", (specs[0],), tuple(specs[1:]), rule.max_size),
        rule,
        [takes or Input("x", sizes, np.dtype(np.float32))],
        "cpu",
        "doubles",
        backends,
        reload or (lambda: backends[0]),
        inline,
    )


class Gate:
    """Holds a model until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, _: object) -> None:
        self.entered.release()
        assert self.opened.acquire(timeout=20)

    def wait_entered(self) -> None:
        assert self.entered.acquire(timeout=20)


class Clock:
    def __init__(self) -> None:
        self.ns = 1_000

    def __call__(self) -> int:
        return self.ns


class Loop:
    """Calls what is due, on ``turn``."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []
        self.later: list[tuple[float, Callable[[], object]]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.later.append((delay, callback))

    def turn(self) -> None:
        due, self.soon = self.soon, []
        for one in due:
            one()


class Handed:
    """Collects what is handed back; ``wait`` waits for a number of requests."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.groups: list[list[Any]] = []
        self._changed = threading.Condition()

    def __call__(self, requests: Sequence[Any]) -> None:
        with self._changed:
            self.requests += requests
            self.groups.append(list(requests))
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, 20)
