"""A script's callbacks as a system under test and a sample library of the engine.

All callbacks are called in the thread that called StartTest, as the reference does, with no event loop to be seen
there: a callback may run one of its own.
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
"""Objects made until young ones are looked through: lists of samples are many, and die at once."""


class CallbackError(BaseException):
    """What a callback raised: ``error``, on its way to the script."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Interpreter:
    """How the script has its interpreter.  The engine changes it for a run, which suits systems of its own only:
    a script may leave garbage behind, and its threads hand over to each other far slower at short turns.
    """

    def __init__(self) -> None:
        self._turn_s, self._collects, self._thresholds = sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()

    def give_back(self) -> None:
        sys.setswitchinterval(self._turn_s)
        gc.set_threshold(max(_COLLECT_EVERY, self._thresholds[0]), *self._thresholds[1:])
        if self._collects:
            gc.enable()

    def restore(self) -> None:
        """What the engine does not put back itself."""
        gc.set_threshold(*self._thresholds)


class CallbackLibrary:
    name = "PyQSL"

    def __init__(self, library: handles.Library, interpreter: Interpreter) -> None:
        self._library, self._interpreter = library, interpreter
        self.total_count, self.performance_count = library.total_count, library.performance_count

    def load(self, indices: IndexArray) -> None:
        self._interpreter.give_back()  # the first that is called in a run
        _out_of_loop(self._library.load, indices.tolist())

    def unload(self, indices: IndexArray) -> None:
        _out_of_loop(self._library.unload, indices.tolist())

    def batch(self, indices: IndexArray) -> npt.NDArray[Any]:
        raise TypeError("the samples of a script's library are its own")


class CallbackSystem:
    """Hands out queries: all that are due together in one call where they are coalesced or one query, else singly."""

    _next_id = 1
    """Ids go on from test to test, so that a late answer to an earlier test is known as such.  None is 0."""

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
        elif answers.closed_loop:
            self.issue = _blocking(ask, exchange, loop)
        else:
            self.issue = _together(ask, loop)
        completion.connect(exchange)

    @property
    def answer(self) -> Answer | None:
        """SingleStream needs nothing but the moment of each answer, unless answers are logged or tokens count."""
        return self._answer if self._one_by_one and not self._exchange.answers.keeping else None

    def flush(self) -> None:
        _out_of_loop(self._system.flush)

    async def close(self) -> None:
        completion.connect(None)
        self.broken = self.broken or self._exchange.broken


def _not_open(first: int, last: int) -> None:
    raise RuntimeError("the system is not open")


# One call for each query of a run: so these are closures, whose names cost less than attributes.


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
    """A closed loop has nothing to do until the answer is there, and blocking for it is the fastest way to wait."""
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
    """The loop out of sight for a burst of queries: for each of them, it would be a quarter of what a query costs."""

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
    """As ``_blocking``, for queries of one sample, telling when it was answered."""
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
        except Exception as error:  # must not be taken for a query that failed
            raise CallbackError(error) from error
        return exchange.done_at

    return answer


def _answering_fast(
    callback: Callable[[list[int], list[int]], object],
    exchange: Exchange,
    loop: asyncio.AbstractEventLoop,
    patience_s: float,
) -> Answer:
    """The same for a fast system: one call more, to share the two, would be a tenth of what a query costs."""
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
    """Queries that are due together go out one by one, each with a moment of issue of its own."""
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
