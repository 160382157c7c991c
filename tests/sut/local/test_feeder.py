"""Rows for a system without a queue: issued in order, with the flush after the last, whenever the generator writes."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.sut.local.shared_rows import Board, Feeder

TURNS = 200
"""Of the loop, after which a feeder with nothing to do would have done it."""


class Words:
    """The shared integers; just before the looks of these numbers, something happens."""

    def __init__(self, words: memoryview) -> None:
        self.words = words
        self.happens: dict[int, list[Callable[[], object]]] = {}
        self.looks = 0

    def _look(self) -> None:
        for do in self.happens.pop(self.looks, ()):
            do()
        self.looks += 1

    def __getitem__(self, at: int) -> int:
        self._look()
        return self.words[at]

    def __setitem__(self, at: int, value: int) -> None:
        self._look()
        self.words[at] = value

    def release(self) -> None:
        self.words.release()


class System:
    """Notes what it is told."""

    answer = None

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.on_issue: Callable[[int], object] = lambda last: None

    def issue(self, first: int, last: int) -> None:
        self.calls += range(first, last)
        self.on_issue(last)

    def flush(self) -> None:
        self.calls.append("flush")


@contextmanager
def boards() -> Iterator[tuple[Board, Board, Words]]:
    """The generator's, the other process's, and the integers as that one sees them."""
    with closing(Board(1, 1)) as ours, closing(Board(1, 1, [os.dup(fd) for fd in ours.fds])) as theirs:
        ours.begin(0)
        words = Words(theirs.words)
        theirs.words = words  # type: ignore[assignment]
        yield ours, theirs, words


def answers(in_turn: bool = False) -> Any:
    told: list[Any] = []
    return SimpleNamespace(
        in_turn=in_turn,
        issued=0,
        origin_ns=0,
        told=told,
        abort=pytest.fail,
        complete=lambda *what: told.append(("complete", *what)),
        complete_each=lambda rows, at_ns: told.append(("complete at", list(rows), at_ns)),
        fail=lambda first, last, error: told.append(("fail", first, last, str(error))),
    )


async def settle() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)
    await asyncio.sleep(0.003)  # beyond the feeder's first sleep


def looks() -> int:
    """How often a feeder looks at the integers as it issues a row."""
    with boards() as (ours, theirs, words):

        async def main() -> int:
            with Feeder(theirs, System(), answers()) as feeder:  # type: ignore[arg-type]
                ours.putter(1)(0, 1)
                feeder.begin()
                return words.looks

        return run_on_fast_loop(main())


def test_rows_and_flush_at_any_moment() -> None:
    most = looks()
    assert most > 8

    async def play(put_at: int, flush_at: int) -> list[Any]:
        system = System()
        with boards() as (ours, theirs, words):
            put = ours.putter(1)
            put(0, 1)
            with Feeder(theirs, system, answers()) as feeder:  # type: ignore[arg-type]
                words.happens[put_at] = [lambda: put(1, 2)]
                words.happens.setdefault(flush_at, []).append(ours.flush)
                feeder.begin()
                await settle()
        assert not words.happens
        return system.calls

    async def main() -> None:
        for put_at in range(most):
            for flush_at in range(put_at, most):
                assert await play(put_at, flush_at) == [0, 1, "flush"], (put_at, flush_at)

    run_on_fast_loop(main())


def test_the_next_phase_at_any_moment() -> None:
    """Rows between the last that was taken and the next phase's first are not issued."""
    most = looks()

    async def play(begin_at: int) -> list[Any]:
        system = System()
        with boards() as (ours, theirs, words):
            ours.putter(1)(0, 1)
            with Feeder(theirs, system, answers()) as feeder:  # type: ignore[arg-type]
                feeder.begin()
                words.looks = 0

                def begin() -> None:
                    ours.drop()
                    ours.begin(5)

                words.happens[begin_at] = [begin]
                feeder._feed()
                await settle()
        return system.calls

    async def main() -> None:
        for begin_at in range(most):
            assert await play(begin_at) == [0], begin_at

    run_on_fast_loop(main())


def test_the_loop_has_its_turns_while_rows_come() -> None:
    async def main() -> None:
        system, turns = System(), 0
        with boards() as (ours, theirs, _), Feeder(theirs, system, answers()) as feeder:  # type: ignore[arg-type]
            put = ours.putter(1)
            system.on_issue = lambda last: last < 50 and put(last, last + 1)
            put(0, 1)
            asyncio.get_running_loop().call_soon(feeder.begin)
            while len(system.calls) < 50:
                await asyncio.sleep(0)
                turns += 1
                assert turns < 1000
        assert turns >= 50

    run_on_fast_loop(main())


@pytest.mark.parametrize(
    ("responses", "told"),
    [
        (b"x", ("complete", 0, 2, b"x")),
        (None, ("complete", 0, 2, None)),
        (700, ("complete at", [0, 1], 600)),
        (ValueError("of no use"), ("fail", 0, 2, "of no use")),
    ],
)
def test_in_a_closed_loop_a_system_may_answer_at_once(responses: Any, told: tuple[Any, ...]) -> None:
    def answer(first: int, last: int) -> Any:
        if isinstance(responses, Exception):
            raise responses
        return responses

    async def main() -> None:
        for in_turn in (True, False):
            system, noted = System(), answers(in_turn)
            system.answer = answer  # type: ignore[assignment]
            with boards() as (ours, theirs, _), Feeder(theirs, system, noted) as feeder:  # type: ignore[arg-type]
                ours.start(100)
                ours.putter(1)(0, 2)
                feeder.begin()
            assert noted.told == ([told] if in_turn else [])
            assert system.calls == ([] if in_turn else [0, 1])

    run_on_fast_loop(main())
