"""Bare loops: calls one after the other on ready batches, in processes in which nothing else runs.

What is called comes from outside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Protocol

import numpy as np

from drumfire.loadgen.system import Batch
from drumfire.sut.data.library import ArrayLibrary, NamedLibrary
from drumfire.sut.data.ragged import RaggedLibrary


class Loop(Protocol):
    """A loop that is ready, in its own process."""

    facts: Mapping[str, Any]
    """What is known of it beside its rate."""

    def rate(self, seconds: float, *which: Any) -> float:
        """Samples a second, measured for about ``seconds``."""


class Loops:
    """The same loop in each of some processes."""

    def __init__(self, make: Callable[[], Loop], processes: int = 1) -> None:
        """``make`` is called in each process.  Raises what it raises."""
        self._pools = [ProcessPoolExecutor(1, get_context("spawn")) for _ in range(processes)]
        try:
            made = [pool.submit(_make, make) for pool in self._pools]
            self.facts, *_ = [one.result() for one in made]
            self.rate(0.2)  # warm
        except BaseException:
            self.close()
            raise

    def rate(self, seconds: float, *which: Any) -> float:
        """Samples a second of all loops, which run side by side; ``which``: see the loop's ``rate``."""
        begin = time.monotonic() + 0.02
        rates = [pool.submit(_rate, begin, seconds, which) for pool in self._pools]
        return sum(rate.result() for rate in rates)

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)


_loop: Loop
"""Of a loop's process."""


def _make(make: Callable[[], Loop]) -> Mapping[str, Any]:
    global _loop
    _loop = make()
    return _loop.facts


def _rate(begin: float, seconds: float, which: Sequence[Any]) -> float:
    time.sleep(max(begin - time.monotonic(), 0))
    return _loop.rate(seconds, *which)


def full_batches(library: ArrayLibrary | NamedLibrary, batch_size: int) -> list[Batch]:
    """The samples that fit into memory, as copies in full batches.

    Those that differ in size are sorted, so that a batch has the least padding, as in a run.
    """
    every = np.arange(min(library.performance_count, library.total_count) // batch_size * batch_size)
    library.load(every)
    if isinstance(library, RaggedLibrary):
        every = every[np.argsort(library.sizes(every), kind="stable")]
    return [
        {name: np.array(samples) for name, samples in library.batch(rows).items()}
        for rows in np.split(every, len(every) // batch_size)
    ]


def calls_per_s(
    call: Callable[..., object],
    seconds: float,
    *,
    given: Sequence[Sequence[Any]] = ((),),
    wait: Callable[[], object] | None = None,
) -> float:
    """How many calls are done in a second, measured for at least ``seconds``.

    ``given``: the arguments of the calls between two looks at the clock.  ``wait``: waits for what they have begun.
    """
    done, began = 0, time.perf_counter()
    while (lasted := time.perf_counter() - began) < seconds:
        for arguments in given:
            call(*arguments)
        if wait is not None:
            wait()
        done += len(given)
    return done / lasted
