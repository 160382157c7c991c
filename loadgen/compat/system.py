"""A script's callbacks as the engine's system under test and sample library.

As in the reference, all callbacks run in the thread that called StartTest.  The engine's event loop is hidden from
them, so a callback may run its own.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.compat import completion, handles
from drumfire.loadgen.compat.completion import Exchange
from drumfire.loadgen.compat.samples import IssuedSample, QuerySample
from drumfire.loadgen.settings import Scenario, TestSettings
from drumfire.loadgen.system import Answer, IndexArray

_Ask = Callable[[int, int], object]

_COLLECT_EVERY = 50_000
"""New objects before a collection of the youngest: a run makes many short-lived lists of samples."""


class CallbackError(BaseException):
    """Carries a callback's ``error`` to the script."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Interpreter:
    """The script's interpreter settings, which suit its callbacks better than the engine's: a script may leave garbage
    behind, and its threads switch far more slowly at short intervals.
    """

    def __init__(self) -> None:
        self._turn_s, self._collects, self._thresholds = sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()

    def reset(self) -> None:
        """Return to the script's settings during a run, but collect less often."""
        sys.setswitchinterval(self._turn_s)
        gc.set_threshold(max(_COLLECT_EVERY, self._thresholds[0]), *self._thresholds[1:])
        if self._collects:
            gc.enable()

    def restore(self) -> None:
        """Restore the settings that the engine does not restore itself."""
        gc.set_threshold(*self._thresholds)


class CallbackLibrary:
    name = "PyQSL"

    def __init__(self, library: handles.Library, interpreter: Interpreter) -> None:
        self._library, self._interpreter = library, interpreter
        self.total_count, self.performance_count = library.total_count, library.performance_count

    def load(self, indices: IndexArray) -> None:
        self._interpreter.reset()  # here, as this is a run's first callback
        _out_of_loop(self._library.load, indices.tolist())

    def unload(self, indices: IndexArray) -> None:
        _out_of_loop(self._library.unload, indices.tolist())

    def batch(self, indices: IndexArray) -> npt.NDArray[Any]:
        raise TypeError("only the script can read its library's samples")


class CallbackSystem:
    """Issues queries one by one in Server without coalescing; otherwise, all queries due together in one call."""

    _next_id = 1
    """Ids continue from test to test, so that late answers to earlier tests are recognised.  No id is 0."""

    def __init__(self, system: handles.System, requested: TestSettings, tokens: bool, patience_s: float) -> None:
        self._system, self._tokens, self._patience_s = system, tokens, patience_s
        self._one_by_one = requested.scenario == Scenario.SingleStream and not self._tokens
        self.columns: Mapping[str, npt.DTypeLike] = (
            {"first_token": np.int64, "n_tokens": np.int64} if self._tokens else {}
        )
        self._singly = requested.scenario == Scenario.Server and not requested.server_coalesce_queries
        self.broken: Exception | None = None
        self.issue: _Ask = _not_open

    @property
    def name(self) -> str:
        return self._system.name

    async def open(self, answers: Answers) -> None:
        if self.broken is not None:  # in an earlier trial of a search
            raise CallbackError(self.broken)
        loop = asyncio.get_running_loop()
        base = CallbackSystem._next_id
        CallbackSystem._next_id += answers.record.rows
        self._exchange = exchange = Exchange(answers, base, tokens=self._tokens)
        exchange.on_broken = lambda reason: loop.call_soon_threadsafe(answers.abort, reason)
        ask = (_fast if self._system.fast else _plain)(self._system.issue, answers, base)
        answering = _answering_fast if self._system.fast else _answering
        self._answer = answering(self._system.issue, exchange, loop, self._patience_s)
        if self._singly:
            self.issue = _singly(ask, answers, loop)
        elif answers.in_turn:
            self.issue = _blocking(ask, exchange, loop)
        else:
            self.issue = _together(ask, loop)
        completion.connect(exchange)

    @property
    def answer(self) -> Answer | None:
        """For SingleStream, which only needs the time of each answer, unless there are logged answers or tokens."""
        return self._answer if self._one_by_one and not self._exchange.answers.keeping else None

    def flush(self) -> None:
        _out_of_loop(self._system.flush)

    async def close(self) -> None:
        completion.connect(None)
        self.broken = self.broken or self._exchange.broken


def _not_open(first: int, last: int) -> None:
    raise RuntimeError("the system is not open")


# Called once per query, so these are closures: their variables cost less than attributes.


def _plain(callback: Callable[[list[QuerySample]], object], answers: Answers, base: int) -> _Ask:
    indices, index_at = answers.sample_index, answers.record.view("sample_index")

    def ask(first: int, last: int) -> None:
        if last - first == 1:
            callback([IssuedSample(base + first, index_at[first])])
        else:
            callback(list(map(IssuedSample, range(base + first, base + last), indices[first:last].tolist())))

    return ask


def _fast(callback: Callable[[list[int], list[int]], object], answers: Answers, base: int) -> _Ask:
    indices, index_at = answers.sample_index, answers.record.view("sample_index")

    def ask(first: int, last: int) -> None:
        if last - first == 1:
            callback([base + first], [index_at[first]])
        else:
            callback(list(range(base + first, base + last)), indices[first:last].tolist())

    return ask


def _together(ask: _Ask, loop: asyncio.AbstractEventLoop) -> _Ask:
    hide = asyncio._set_running_loop

    def issue(first: int, last: int) -> None:
        hide(None)
        try:
            ask(first, last)
        finally:
            hide(loop)

    return issue


def _blocking(ask: _Ask, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> _Ask:
    """A closed loop has nothing to do until the answer arrives, and blocking is the fastest way to wait for it."""
    hide, answers, block = asyncio._set_running_loop, exchange.answers, exchange.block

    def issue(first: int, last: int) -> None:
        hide(None)
        try:
            ask(first, last)
            if answers.answered < last:
                block(last)
        finally:
            hide(loop)

    return issue


class _Hidden:
    """Hides the loop once per burst of queries: hiding it per query would be a quarter of a query's cost."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.hidden = loop, False

    def begin(self) -> None:
        asyncio._set_running_loop(None)
        self.hidden = True

    def end(self) -> None:
        asyncio._set_running_loop(self._loop)
        self.hidden = False


def _answering(
    callback: Callable[[list[QuerySample]], object],
    exchange: Exchange,
    loop: asyncio.AbstractEventLoop,
    patience_s: float,
) -> Answer:
    """As ``_blocking``, for queries of one sample, returning the time of the answer."""
    base, pending, block = exchange.base, exchange.pending, exchange.block_for_one
    out_of_loop = _Hidden(loop)
    exchange.answers.on_booked = out_of_loop.end
    index_at = exchange.answers.record.view("sample_index")

    def answer(first: int, last: int) -> int:
        exchange.newest = number = base + first
        pending.add(number)
        if not out_of_loop.hidden:
            out_of_loop.begin()
        try:
            callback([IssuedSample(number, index_at[first])])
            if pending:
                block(patience_s)
        except Exception as error:  # must not count as a failed query
            raise CallbackError(error) from error
        return exchange.done_at

    return answer


def _answering_fast(
    callback: Callable[[list[int], list[int]], object],
    exchange: Exchange,
    loop: asyncio.AbstractEventLoop,
    patience_s: float,
) -> Answer:
    """The same for a fast system.  A call to share code with ``_answering`` would be a tenth of a query's cost."""
    base, pending, block = exchange.base, exchange.pending, exchange.block_for_one
    out_of_loop = _Hidden(loop)
    exchange.answers.on_booked = out_of_loop.end
    index_at = exchange.answers.record.view("sample_index")

    def answer(first: int, last: int) -> int:
        exchange.newest = number = base + first
        pending.add(number)
        if not out_of_loop.hidden:
            out_of_loop.begin()
        try:
            callback([number], [index_at[first]])
            if pending:
                block(patience_s)
        except Exception as error:
            raise CallbackError(error) from error
        return exchange.done_at

    return answer


def _singly(ask: _Ask, answers: Answers, loop: asyncio.AbstractEventLoop) -> _Ask:
    """Issue queries that are due together one by one, each with its own issue time."""
    hide, clock = asyncio._set_running_loop, time.monotonic_ns
    issued_at = answers.record.view("issued")

    def issue(first: int, last: int) -> None:
        hide(None)
        try:
            ask(first, first + 1)
            origin = answers.origin_ns
            for row in range(first + 1, last):
                issued_at[row] = clock() - origin
                ask(row, row + 1)
        finally:
            hide(loop)

    return issue


def _out_of_loop(callback: Callable[..., object], *arguments: object) -> None:
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        callback(*arguments)
    finally:
        asyncio._set_running_loop(loop)
