"""Runs one model's requests in batches: from the queue through an instance and back to the event loop.

Handles threads and clocks.  Does not depend on connections or protocols.  Results go back one batch at a time: waking
the event loop for each request would cost more than the request.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from drumfire.loadgen.pacer import precise_timers
from drumfire.loadgen.system import Batch
from drumfire.sut.kserve.grpc.framing import Status
from drumfire.sut.local import backends
from drumfire.sut.local.backends import Backend, BackendError, HasLanes, InputRefused, Run, first_line
from drumfire.sut.local.turns import Turn, Turns
from drumfire.sut.serving.batch import Gathers, gatherers, split
from drumfire.sut.serving.model import ServedModel
from drumfire.sut.serving.padding import RequestPadding
from drumfire.sut.serving.queue import RequestQueue
from drumfire.sut.serving.refusal import Refusal
from drumfire.sut.serving.request import Request, Shapes
from drumfire.sut.serving.statistics import BatchTimes, Statistics

HandBack = Callable[[Sequence[Request]], None]
"""Receives finished requests, each with its contents or its refusal.  Called from any thread."""


Room = Callable[[int], Batch | None]


@dataclass
class _Instance:
    """What the threads of an instance share."""

    backend: Backend
    number: int
    threads: list[threading.Thread] = field(default_factory=list)
    is_lost: bool = False


class Loop(Protocol):
    """The part of the event loop that inline models need."""

    def call_soon(self, callback: Callable[[], object]) -> object: ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> object: ...


class Scheduler:
    """The event loop submits, cancels and sweeps; the threads of each instance compute.

    The loop itself computes an inline model, at its next iteration, so that all requests read in one iteration form
    one batch.
    """

    def __init__(
        self,
        model: ServedModel,
        hand_back: HandBack,
        loop: Loop,
        *,
        most_requests: int,
        most_bytes: int,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.model = model
        self.statistics = Statistics()
        self._hand_back, self._loop, self._clock = hand_back, loop, clock
        self._padding = model.padding
        size = None if self._padding is None else self._padding.computed_size
        self._queue = RequestQueue(model.rule, size, most_requests=most_requests, most_bytes=most_bytes)
        self._most_requests = most_requests
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._idle = 0
        self._computing = 0
        """Requests in the batches under way."""
        self._closed = False
        self._threads: set[threading.Thread] = set()
        self._hurry = False
        """Do not wait for fuller batches."""
        self._due_soon = self._due_later = False
        """A callback that looks at the queue of an inline model is scheduled."""
        self._names = tuple(spec.name for spec in model.interface.outputs)
        self._gatherers = self._new_gatherers()

    @property
    def pending(self) -> int:
        """Requests in the queue."""
        return self._queue.requests

    @property
    def under_way(self) -> int:
        """Requests in the queue or being computed."""
        return self._queue.requests + self._computing

    @property
    def has_deadlines(self) -> bool:
        return self._queue.deadlines > 0

    def start(self) -> None:
        if not self.model.inline:
            for number, backend in enumerate(self.model.instances):
                self._start_instance(backend, number)

    def submit(self, request: Request) -> None:
        """Queue a request.  Raises ``Refusal`` if the queue is full or closed."""
        with self._lock:
            was_empty = not self._queue.requests
            added = not self._closed and self._queue.add(request)
            # A worker that waits for a fuller batch need not wake for every request.
            if (
                self._idle
                and added
                and (was_empty or self._queue.samples >= self.model.rule.least or request.deadline_ns)
            ):
                self._changed.notify()
        if not added:
            self.statistics.failed("REJECTED", 1, self._clock() - request.received_ns)
            raise Refusal(
                Status.UNAVAILABLE,
                f"{self.model.name} is closed"
                if self._closed
                else f"the queue of {self.model.name} is full: {self.pending} of {self._most_requests} requests wait",
            )
        if self.model.inline:
            self._look_soon()

    def cancel(self, request: Request) -> bool:
        """Cancel a request.  False: it is being computed or is finished, and is handed back all the same."""
        with self._lock:
            waited = self._queue.cancel(request)
        if waited:
            self.statistics.failed("CANCELED", 1, self._clock() - request.received_ns)
        return waited

    def sweep(self) -> None:
        """Refuse requests whose deadline has passed, even while all instances are busy."""
        if not self._queue.deadlines:
            return
        with self._lock:
            late = self._queue.late(self._clock())
        self._refuse_late(late)

    def flush(self) -> None:
        """Stop waiting for fuller batches: the server is shutting down."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
        if self.model.inline:
            self._look_soon()

    def close(self) -> None:
        """Start no more batches and refuse the waiting requests.  Does not wait for the batches under way."""
        with self._changed:
            self._closed = True
            left = self._queue.clear()
            self._changed.notify_all()
        self._refuse(left, Refusal(Status.UNAVAILABLE, "the server is shutting down"), "REJECTED")

    def join(self, patience_s: float) -> bool:
        """After ``close``: wait for the threads; returns whether all have ended within ``patience_s``."""
        until = time.monotonic() + patience_s
        while alive := [thread for thread in tuple(self._threads) if thread.is_alive()]:
            if (left_s := until - time.monotonic()) <= 0:
                return False
            alive[0].join(left_s)  # which may have started another in its place
        return True

    # On the workers' threads.

    def _start_instance(self, backend: Backend, number: int, after: Sequence[threading.Thread] = ()) -> None:
        """``after``: threads that still have the backend for a batch."""
        instance, turns, lanes = _Instance(backend, number), Turns(self._clock), backends.lanes(backend)
        for lane in lanes:
            # A daemon, so that a model that never returns cannot keep the program alive.
            thread = threading.Thread(
                target=self._work,
                args=(instance, lane, Turn(turns) if len(lanes) > 1 else None, after),
                name=f"{self.model.name}-{number}",
                daemon=True,
            )
            instance.threads.append(thread)
            self._threads.add(thread)
        for thread in instance.threads:
            thread.start()

    def _work(self, instance: _Instance, lane: Backend, turn: Turn | None, after: Sequence[threading.Thread]) -> None:
        precise_timers()
        for thread in after:
            thread.join()
        own, take = self._new_gatherers(), partial(self._take, instance)
        try:
            if turn is None:
                while (batch := take()) is not None:
                    self._compute(lane.run, own, batch)
                return
            assert isinstance(lane, HasLanes)
            run, room = turn.announced(lane.run), lane.room
            while (batch := turn.next(take, self._waiting, self.model.rule.least)) is not None:
                self._compute(run, own, batch, room)
        except BaseException:  # SystemExit and the like end this thread; its instance is not used again
            self._lose(instance)
        finally:
            if turn is not None:
                turn.leave()
            self._threads.discard(threading.current_thread())

    def _waiting(self) -> float:
        return math.inf if self._closed or self._hurry else self._queue.samples

    def _lose(self, instance: _Instance) -> None:
        """A thread of this instance was lost: use another, as the state of this one is unknown."""
        with self._changed:
            was_lost, instance.is_lost = instance.is_lost, True
            self.statistics.lost_workers += 1
            self._changed.notify_all()
        if not self._closed and not was_lost:
            fresh = self._fresh(instance.backend)
            others = [thread for thread in instance.threads if thread is not threading.current_thread()]
            self._start_instance(fresh, instance.number, others if fresh is instance.backend else ())

    def _fresh(self, lost: Backend) -> Backend:
        """A new instance, or the lost one where there is none."""
        try:
            return self.model.reload()
        except BackendError:
            return lost

    def _take(self, instance: _Instance) -> list[Request] | None:
        """Wait for the next batch.  None when the scheduler is closed or the instance lost."""
        while True:
            with self._lock:
                if self._closed or instance.is_lost:
                    return None
                batch, late, wait_ns = self._queue.take(self._clock(), hurry=self._hurry)
                self._computing += len(batch)
                if batch:
                    if self._idle and self._queue.requests:
                        self._changed.notify()
                elif not late:
                    self._idle += 1
                    self._changed.wait(None if wait_ns is None else wait_ns * 1e-9)
                    self._idle -= 1
            if late:
                self._refuse_late(late)
            if batch:
                return batch

    # On the event loop, for inline models.

    def _look_soon(self) -> None:
        if not self._due_soon:
            self._due_soon = True
            self._loop.call_soon(self._compute_here)

    def _look_later(self) -> None:
        self._due_later = False
        self._compute_here()

    def _compute_here(self) -> None:
        self._due_soon = False
        while True:
            batch, late, wait_ns = self._queue.take(self._clock(), hurry=self._hurry)
            self._computing += len(batch)
            if late:
                self._refuse_late(late)
            if not batch:
                # One callback is enough: by then the oldest request is due, and it looks at later ones too.
                if wait_ns and not self._due_later:
                    self._due_later = True
                    self._loop.call_later(wait_ns * 1e-9, self._look_later)
                return
            try:
                self._compute(self.model.instances[0].run, self._gatherers, batch)
            except (SystemExit, GeneratorExit):  # would end a worker's thread, but must not end the loop
                self.statistics.lost_workers += 1

    # On either.

    def _compute(self, run: Run, own: Sequence[Gathers], requests: list[Request], room: Room | None = None) -> None:
        """``own``: the gatherers of this thread.  ``room``: see ``HasLanes``."""
        clock = self._clock
        taken = clock()
        try:
            shapes, batch, rows = requests[0].shapes, {}, 0
            padded = None if self._padding is None else self._padding.of(requests)
            into = None if room is None else self._into(room, requests)
            for gatherer in own:
                if shapes[gatherer.position] is not None:
                    batch[gatherer.name] = array = gatherer.gather(
                        requests,
                        None if padded is None else padded.shapes[gatherer.position],
                        None if into is None else into.get(gatherer.name),
                    )
                    rows = len(array)
            gathered = clock()
            outputs = run(batch)
            computed = clock()
            split(outputs, requests, own, rows, self._names, padded)
        except BaseException as error:
            if len(requests) > 1 and isinstance(error, Exception):
                self._compute_apart(run, own, requests, room)
                return
            kind = "" if isinstance(error, Exception) else "a worker was lost: "
            text = f"{self.model.name} failed: {kind}{type(error).__name__}: {first_line(_as_exception(error))}"
            self._computed(requests)
            status = Status.INVALID_ARGUMENT if isinstance(error, InputRefused) else Status.INTERNAL
            self._refuse(requests, Refusal(status, text), "BACKEND")
            if not isinstance(error, Exception):
                raise
            return
        ended = clock()
        good = requests
        if any(request.refusal is not None for request in requests):
            good = [request for request in requests if request.refusal is None]
            bad = [request for request in requests if request.refusal is not None]
            self.statistics.failed("OTHER", len(bad), sum(ended - request.received_ns for request in bad))
        self.statistics.batch(
            len(good),
            sum([request.samples for request in good]),
            sum([request.received_ns for request in good]),
            BatchTimes(taken, gathered, computed, ended),
            sum([request.samples for request in requests]),
        )
        if self._padding is not None:
            self._count_sizes(self._padding, requests, requests[0].shapes if padded is None else padded.shapes)
        self._computed(requests)
        self._hand_back(requests)

    def _count_sizes(self, padding: RequestPadding, requests: Sequence[Request], computed: Shapes) -> None:
        own = sum([request.samples * padding.size(request.shapes) for request in requests])
        self.statistics.sizes(own, sum([request.samples for request in requests]) * padding.size(computed))

    def _into(self, room: Room, requests: Sequence[Request]) -> Batch | None:
        samples = sum([request.samples for request in requests])
        return room(max([samples, *(one.batch_size or 0 for one in self.model.takes)]))

    def _compute_apart(self, run: Run, own: Sequence[Gathers], requests: list[Request], room: Room | None) -> None:
        """Compute each request alone: the contents of one made the batch fail, which is no fault of the others."""
        for number, request in enumerate(requests, 1):
            try:
                self._compute(run, own, [request], room)
            except BaseException:  # the worker is lost
                left = requests[number:]
                self._computed(left)
                self._refuse(left, Refusal(Status.INTERNAL, f"{self.model.name} failed: a worker was lost"), "BACKEND")
                raise

    def _computed(self, requests: Sequence[Request]) -> None:
        with self._lock:
            self._computing -= len(requests)

    def _refuse_late(self, late: Sequence[Request]) -> None:
        text = "the request's deadline passed before it was computed"
        self._refuse(late, Refusal(Status.DEADLINE_EXCEEDED, text), "REJECTED")

    def _refuse(self, requests: Sequence[Request], refusal: Refusal, reason: str) -> None:
        if not requests:
            return
        now_ns = self._clock()
        for request in requests:
            request.refusal = request.refusal or refusal
        self.statistics.failed(reason, len(requests), sum([now_ns - request.received_ns for request in requests]))
        self._hand_back(requests)

    def _new_gatherers(self) -> Sequence[Gathers]:
        return gatherers(self.model.takes, self.model.rule.max_size)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else Exception(str(error))
