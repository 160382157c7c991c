"""Where a script's answers arrive, from any thread and from its own issue callback.

Turns ids into rows of the run's table.  An answer with an unknown id, which crashes the reference, raises an error
both here and from StartTest.
"""

from __future__ import annotations

import contextlib
import ctypes
import queue
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.compat.samples import QuerySampleResponse
from drumfire.loadgen.faults import SECOND_ANSWER

_clock = time.monotonic_ns
_BLOCK_S = 0.25
"""How long a closed loop blocks for an answer before it waits on the event loop, which wakes some 20 us later."""


class Exchange:
    """A run's answers, by the script's sample ids: ``base`` plus the row."""

    def __init__(self, answers: Answers, base: int, *, tokens: bool) -> None:
        self.answers, self.base = answers, base
        self.tokens = tokens
        self.status = answers.record.view("status")
        self.awaited = sys.maxsize
        """How many answered rows, in total, a blocked closed loop waits for."""
        self.gate: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.pending: set[int] = set()
        """SingleStream: the id of the issued query, until it is answered."""
        self.newest = 0
        """SingleStream, where ``pending`` is used: the last issued id."""
        self.done_at = 0
        """SingleStream: when the last query was answered, ns of the monotonic clock."""
        self.blocked = False
        self.broken: Exception | None = None
        """The error that ended the run."""
        self.on_broken: Callable[[str], object] | None = None

    def block(self, answered: int) -> None:
        """Block until ``answered`` rows in total are answered, or for a limited time."""
        self.awaited = answered
        try:
            # The answering thread counts first and then reads ``awaited``, so either this loop sees the new count, or
            # the gate gets a token.
            while self.answers.answered < answered and self.broken is None:
                self.gate.get(timeout=_BLOCK_S)
        except queue.Empty:
            pass
        finally:
            self.awaited = sys.maxsize

    def block_for_one(self, patience_s: float) -> None:
        """SingleStream: block until the query is answered.  Raises ``TimeoutError``, or what ended the run."""
        deadline = time.monotonic() + patience_s
        self.blocked = True
        try:
            # As above: the answering thread first empties ``pending``, then reads ``blocked``.
            while self.pending:
                if self.broken is not None:
                    raise self.broken
                if time.monotonic() > deadline:
                    raise self.break_off(no_answer(patience_s, 1))
                with contextlib.suppress(queue.Empty):
                    self.gate.get(timeout=min(_BLOCK_S, patience_s))
        finally:
            self.blocked = False

    def break_off(self, error: Exception) -> Exception:
        """End the run because of ``error``; returns it for the caller to raise."""
        if self.broken is None:
            self.broken = error
            if self.on_broken is not None:
                self.on_broken(str(error))
            self.gate.put(None)
        return error

    def unknown(self, number: int) -> Exception:
        return self.break_off(ValueError(f"an answer to id {number}, which no sample of this test was issued with"))

    def rows(self, responses: Sequence[QuerySampleResponse]) -> list[int]:
        base = self.base
        if len(responses) and type(responses[0]) is not QuerySampleResponse:
            raise _not_responses(responses)
        try:
            rows = [response.id - base for response in responses]
        except (AttributeError, TypeError):
            raise _not_responses(responses) from None
        if rows and (min(rows) < 0 or max(rows) >= self.answers.issued):
            raise self.unknown(next(row for row in rows if not 0 <= row < self.answers.issued) + base)
        return rows


_exchange: Exchange | None = None


def connect(exchange: Exchange | None) -> None:
    """Send answers to this exchange from now on; None for no exchange."""
    global _exchange
    _exchange = exchange


def no_answer(patience_s: float, samples: int) -> TimeoutError:
    return TimeoutError(
        f"no answer came for {patience_s:g} s while {samples} samples were waiting: answer each with "
        "QuerySamplesComplete, or raise the patience: install(patience_s=...)"
    )


def QuerySamplesComplete(  # noqa: N802
    responses: Sequence[QuerySampleResponse], response_cb: Callable[[QuerySampleResponse], Any] | None = None
) -> None:
    """Complete samples now.  ``response_cb`` is called for each response whose data will be logged.

    Raises ``ValueError`` for an id that no sample was issued with, ``RuntimeError`` when no test is running.
    """
    exchange = _exchange
    if exchange is None:
        _no_test(responses)
        return
    if exchange.pending and len(responses) == 1 and type(response := responses[0]) is QuerySampleResponse:
        exchange.done_at = _clock()
        try:
            exchange.pending.remove(response.id)
        except KeyError:
            _refuse_second(exchange, response.id)
        if exchange.blocked:
            exchange.gate.put(None)
        return
    answers, count = exchange.answers, len(responses)
    if exchange.tokens or answers.keeping:
        _complete_with_data(exchange, responses, response_cb)
    elif exchange.newest and count:
        _complete_singly(exchange, responses)
    elif count == 1:
        response = responses[0]
        if type(response) is not QuerySampleResponse:
            raise _not_responses(responses)
        row = response.id - exchange.base
        if not 0 <= row < answers.issued:
            raise exchange.unknown(response.id)
        answers.complete(row, row + 1)
    elif count:
        rows = exchange.rows(responses)
        first, last = rows[0], rows[0] + count
        in_order = rows[-1] + 1 == last and rows == list(range(first, last))
        if in_order and exchange.status[first:last].tobytes() == bytes(count):
            answers.complete(first, last)
        else:
            answers.complete_each(rows)
    if answers.answered >= exchange.awaited:
        exchange.gate.put(None)


def FirstTokenComplete(  # noqa: N802
    responses: Sequence[QuerySampleResponse], response_cb: Callable[[QuerySampleResponse], Any] | None = None
) -> None:
    """Record that the first tokens of samples arrive now.  Does nothing without ``use_token_latencies``.

    As in the reference, ``response_cb`` is never called.
    """
    exchange = _exchange
    if exchange is None:
        _no_test(responses)
        return
    if not exchange.tokens:
        return
    answers = exchange.answers
    rows = exchange.rows(responses)
    if rows:
        # Read only for rows that will be logged: the memory of others need not exist.
        tokens = [
            _data(exchange, r) if answers.keeping and answers.wants(row) else b""
            for r, row in zip(responses, rows, strict=True)
        ]
        answers.first_token(np.array(rows), tokens)


def _complete_singly(exchange: Exchange, responses: Sequence[QuerySampleResponse]) -> None:
    """SingleStream, for calls with anything but one response to the issued query."""
    for response in responses:
        if type(response) is not QuerySampleResponse:
            raise _not_responses(responses)
        if response.id in exchange.pending:
            QuerySamplesComplete([response])
        else:
            _refuse_second(exchange, response.id)


def _refuse_second(exchange: Exchange, number: int) -> None:
    """SingleStream: refuse a second answer to a query.  Raises ``ValueError`` for an id that was never issued."""
    if not exchange.base <= number <= exchange.newest:
        raise exchange.unknown(number)
    exchange.answers.refuse(SECOND_ANSWER)


def _complete_with_data(
    exchange: Exchange,
    responses: Sequence[QuerySampleResponse],
    response_cb: Callable[[QuerySampleResponse], Any] | None,
) -> None:
    answers = exchange.answers
    now = answers.now()
    rows = exchange.rows(responses)
    kept: list[bytes] = []
    for response, row in zip(responses, rows, strict=True):
        if type(response) is not QuerySampleResponse:
            raise _not_responses(responses)
        if exchange.tokens:
            answers.columns["n_tokens"][row] = response.n_tokens
        data = b""
        if answers.wants(row):
            if response_cb is not None:
                # The callback may set the data's address and size.
                response = QuerySampleResponse(response.id, response.data, response.size, response.n_tokens)
                response_cb(response)
            data = _data(exchange, response)
        kept.append(data)
    answers.complete_each(rows, kept if answers.keeping else None, at_ns=now)


def _data(exchange: Exchange, response: QuerySampleResponse) -> bytes:
    if response.size == 0:
        return b""
    if response.data <= 0 or response.size < 0:
        what = f"the response to id {response.id} has {response.size} bytes at address {response.data}"
        raise exchange.break_off(ValueError(f"{what}: pass the address of its data, and their size"))
    return ctypes.string_at(response.data, response.size)


def _not_responses(responses: Any) -> TypeError:
    return TypeError(f"expected a list of QuerySampleResponse, not {responses!r}"[:300])


def _no_test(responses: Sequence[QuerySampleResponse]) -> None:
    if len(responses):
        raise RuntimeError("an answer while no test is running: answer each sample once, before StartTest returns")
