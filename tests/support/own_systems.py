"""Systems that tests run in processes of their own, and what may happen to them there."""

import asyncio
import mmap
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from drumfire.loadgen.errors import UserError
from drumfire.sut.local import shared_rows
from drumfire.sut.local.batcher import BatchedSystem
from drumfire.sut.local.coroutine import CoroutineSystem

COUNT = 64
made = 0


class Refused(UserError):
    pass


def spare() -> bool:
    """Whether nothing happens to this process."""
    return os.environ.get("SPARED") == "yes"


def befall(what: str) -> None:
    if spare():
        return
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "refuse":
        raise Refused("give it another colour")
    elif what == "raise":
        raise ValueError("of\nno use")
    elif what == "exit":
        os._exit(7)
    elif what == "sleep":
        time.sleep(3600)
    elif what == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
        mmap.mmap(-1, 1 << 33)
    elif what == "big array":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
        np.ones(1 << 33, np.uint8)
    else:
        raise AssertionError(what)


class Numbers:
    """The samples are their own dataset indices."""

    name = "numbers"
    total_count = performance_count = COUNT

    def __init__(self, at: dict[str, str]) -> None:
        self._at = at
        self.loads = 0

    def load(self, indices: np.ndarray) -> None:
        self.loads += 1
        if "load" in self._at:
            befall(self._at["load"])
        if self.loads == 2 and "second load" in self._at:
            befall(self._at["second load"])

    def unload(self, indices: np.ndarray) -> None:
        pass

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return indices


def _cores(thread: int) -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(thread)))


class Made:
    """What ``make`` functions give."""

    def __init__(self, system: Any, library: Numbers) -> None:
        self.system, self.library = system, library

    made = property(lambda self: made)
    loads = property(lambda self: self.library.loads)
    spared = property(lambda self: spare())
    cores = property(lambda self: [list(one) for one in {_cores(int(n)) for n in os.listdir("/proc/self/task")}])
    pid = property(lambda self: os.getpid())
    fds = property(lambda self: len(os.listdir("/proc/self/fd")))
    threads = property(lambda self: threading.active_count())
    links = property(lambda self: [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)])

    def unknown(self) -> Any:
        """What the generator's process cannot read."""
        module = ModuleType("only_there")
        exec("class Thing: pass", module.__dict__)
        sys.modules["only_there"] = module
        return module.Thing()

    def fork(self) -> int:
        """A worker of the model's own, which lives on."""
        if (pid := os.fork()) == 0:
            time.sleep(3600)
        return pid


def batched(
    at: dict[str, str] | None = None,
    *,
    workers: int = 1,
    size: int = 8,
    delay_s: float = 0.0,
    seconds: float = 0.0,
    answer: str = "",
    cells: int = 1,
) -> Made:
    """``at``: what happens where.  ``answer``: what is wrong with the answers.  ``cells`` numbers answer a sample."""
    global made
    made += 1
    at = at or {}
    if "make" in at:
        befall(at["make"])
    if "lock" in at:
        _in_the_lock(lambda: befall(at["lock"]))
    batches = 0

    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
        nonlocal batches
        batches += 1
        (numbers,) = batch.values()
        if batches == 3 and "compute" in at:
            befall(at["compute"])
        if seconds:
            time.sleep(seconds)
        if answer == "fewer":
            return numbers[1:]
        return np.repeat(numbers[:, None].astype(np.int32) * 7, cells, axis=1)

    library = Numbers(at)
    system = Unruly if answer else BatchedSystem
    made_system = system("batched", [run] * workers, library, max_batch_size=size, max_queue_delay_s=delay_s)
    made_system.unruly = answer
    return Made(made_system, library)


def lanes(at: dict[str, str] | None = None) -> Made:
    """Two threads share an instance."""

    class Lane:
        def room(self, size: int) -> None:
            return None

        def __call__(self, batch: dict[str, np.ndarray]) -> np.ndarray:
            (numbers,) = batch.values()
            return numbers[:, None].astype(np.int32) * 7

    library = Numbers(at or {})
    return Made(BatchedSystem("lanes", [Lane(), Lane()], library, max_batch_size=8, lanes=2), library)


class Unruly(BatchedSystem):
    """Answers wrongly."""

    unruly = ""

    def _run(self, run: Any, first: int, last: int) -> None:
        if self.unruly == "never":
            return
        if self.unruly == "late":
            time.sleep(0.4)
        super()._run(run, first, last)
        if self.unruly == "twice":
            self._answers.complete(first, last)
        elif self.unruly == "unissued":
            self._answers.complete(last + 1_000_000, last + 1_000_001)


def _in_the_lock(happens: Callable[[], None]) -> None:
    """Have this happen to the process in the lock around the queue, as it takes its third batch."""
    entered, times = shared_rows._Lock.__enter__, 0

    def enter(lock: Any) -> None:
        nonlocal times
        entered(lock)
        times += 1
        if times >= 3:
            happens()

    shared_rows._Lock.__enter__ = enter  # type: ignore[method-assign]


def coroutine(what: str = "", size: int = 4, in_flight: int = 64) -> tuple[CoroutineSystem, Numbers]:
    """A user's own coroutine."""
    library = Numbers({})

    async def infer(batch: np.ndarray) -> np.ndarray:
        await asyncio.sleep(0.001)
        if what == "raise" and (batch == 5).any():
            raise ValueError("of no use")
        if what == "kill" and (batch == 5).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return batch[:, None].astype(np.int32) * 7

    return CoroutineSystem("coroutine", infer, library, max_batch_size=size, max_in_flight=in_flight), library


class Aborting(CoroutineSystem):
    def issue(self, first: int, last: int) -> None:
        if first >= 20:
            self.answers.abort("it went home")
        super().issue(first, last)


class Raising(CoroutineSystem):
    def issue(self, first: int, last: int) -> None:
        raise RuntimeError("it cannot issue")


class SlowToClose(CoroutineSystem):
    async def close(self) -> None:
        await asyncio.sleep(3600)


class Answering(CoroutineSystem):
    """Answers in the caller's thread, as closed loops allow, and has no other way."""

    what = ""

    def answer(self, first: int, last: int) -> Any:  # type: ignore[override]
        if self.what == "raise" and first >= 20:
            raise ValueError("of no use")
        return self.answers.sample_index[first:last, None].astype(np.int32) * 7

    issue = None  # type: ignore[assignment]


class Tokens(CoroutineSystem):
    """Two tokens a sample."""

    columns: ClassVar = {"first_token": np.int64, "n_tokens": np.int64}

    async def respond(self, first: int, last: int) -> Any:
        rows = np.arange(first, last)
        numbers = self.answers.sample_index[first:last].astype(np.int32)
        await asyncio.sleep(0)
        self.answers.first_token(rows, numbers[:, None])
        self.answers.columns["n_tokens"][first:last] = 2
        await asyncio.sleep(0.001)
        return numbers[:, None] * 3


def special(kind: str) -> tuple[CoroutineSystem, Numbers]:
    system, library = coroutine()
    kinds = {"aborting": Aborting, "raising": Raising, "tokens": Tokens, "slow to close": SlowToClose}
    cls = kinds.get(kind, Answering)
    made_system = cls(kind, system._infer, library, max_batch_size=4)
    if isinstance(made_system, Answering):
        made_system.what = kind
    return made_system, library


def nothing() -> None:
    """Gives no system."""


def unreadable() -> Any:
    """What another process cannot read."""
    return lambda: None


def big_batches() -> Made:
    return batched(cells=100_000, size=4)


def batched_small() -> Made:
    return batched(workers=2, size=1)


def batched_two() -> Made:
    return batched(workers=2)


def batched_patient() -> Made:
    return batched(delay_s=3600.0)


def batched_slow() -> Made:
    return batched(seconds=0.05, size=1)


def unruly(answer: str) -> Made:
    return batched(answer=answer)
