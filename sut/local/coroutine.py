"""Turns any coroutine over a batch, ``async def infer(batch) -> responses``, into a system under test."""

from __future__ import annotations

import asyncio
import inspect
import numbers
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy.typing as npt

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.settings import SettingsError
from drumfire.loadgen.system import Answer, SampleLibrary
from drumfire.sut.local.responses import check_count

CLOSE_S = 2.0
"""How long ``close`` waits for the tasks that it cancels."""
Infer = Callable[[Any], Awaitable[Responses]]
"""Takes n samples, an array of shape (n, *sample_shape); with several inputs, a mapping of their names to such arrays.
Returns n responses."""


class TaskSystem:
    """Answers rows in tasks: each calls ``respond`` with up to ``max_batch_size`` rows, in issue order.

    At most ``max_in_flight`` tasks run at a time; the other rows wait.  A task that raises fails its rows.
    Both are at least 1, else ``SettingsError``.
    """

    columns: Mapping[str, npt.DTypeLike] = {}
    answer: Answer | None = None

    def __init__(self, name: str, *, max_batch_size: int = 1, max_in_flight: int = 64) -> None:
        for option, value in (("max_batch_size", max_batch_size), ("max_in_flight", max_in_flight)):
            if not isinstance(value, numbers.Integral) or value < 1:
                raise SettingsError(f"{option} must be a whole number of at least 1, not {value!r}")
        self.name = name
        self.answers: Answers
        self._max_batch_size, self._max_in_flight = max_batch_size, max_in_flight
        self._tasks: set[asyncio.Task[None]] = set()

    async def respond(self, first: int, last: int) -> Responses | None:
        """Answer rows [first, last); returns their responses, or None where nobody reads them."""
        raise NotImplementedError

    def last_of(self, first: int, last: int) -> int:
        """The end of the rows from ``first`` that ``respond`` gets together, of rows [first, last)."""
        return last

    async def open(self, answers: Answers) -> None:
        self.answers = answers
        self._next_row = self._end_row = 0
        self._closed = False

    def issue(self, first: int, last: int) -> None:
        if self._next_row == self._end_row:
            self._next_row = first
        self._end_row = last
        self._start()

    def flush(self) -> None:
        pass  # no row is held back

    async def close(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, stubborn = await asyncio.wait(self._tasks, timeout=CLOSE_S)
            for task in stubborn:  # it has caught its cancellation, and must not keep the loop from ending
                asyncio._unregister_task(task)
        if not self._tasks:
            self.__dict__.pop("answers", None)  # and with them, the run's table

    def _start(self) -> None:
        while not self._closed and self._next_row < self._end_row and len(self._tasks) < self._max_in_flight:
            first = self._next_row
            self._next_row = last = self.last_of(first, min(first + self._max_batch_size, self._end_row))
            task = asyncio.ensure_future(self._run(first, last))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start()

    async def _run(self, first: int, last: int) -> None:
        try:
            responses = await self.respond(first, last)
        except asyncio.CancelledError as error:
            if self._closed:
                raise
            self.answers.fail(first, last, error)  # the coroutine was cancelled, but not by close()
        except KeyboardInterrupt:  # which ends the program
            raise
        except BaseException as error:  # coroutines raise anything, or exit: these rows fail, and the run continues
            self.answers.fail(first, last, error)
        else:
            self.answers.complete(first, last, responses)


class CoroutineSystem(TaskSystem):
    """Calls ``infer`` with batches of n samples, n <= ``max_batch_size``, as the library has them.

    That is an array of shape (n, *sample_shape), or a mapping of input names to such arrays if there are several.
    """

    def __init__(
        self, name: str, infer: Infer, library: SampleLibrary, *, max_batch_size: int = 1, max_in_flight: int = 64
    ) -> None:
        super().__init__(name, max_batch_size=max_batch_size, max_in_flight=max_in_flight)
        self._infer, self._library = infer, library

    async def respond(self, first: int, last: int) -> Responses:
        batch = self._library.batch(self.answers.sample_index[first:last])
        if isinstance(batch, dict) and len(batch) == 1:
            (batch,) = batch.values()
        called = self._infer(batch)
        try:
            responses = await called
        except TypeError:
            if not inspect.isawaitable(called):
                kind = type(called).__name__
                raise TypeError(f"infer must be an async def: it returned {kind}, which nobody can await") from None
            raise
        check_count(responses, last - first)
        return responses
