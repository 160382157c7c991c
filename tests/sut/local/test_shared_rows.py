"""The queue in shared memory, in any interleaving: each row once, in order, batches by the rule, no wake-up lost."""

import os
import random
import threading
from collections.abc import Callable
from contextlib import closing
from select import select as real_select
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drumfire.loadgen.pacer import Spin
from drumfire.sut.local import shared_rows
from drumfire.sut.local.rows import BatchRule
from drumfire.sut.local.shared_rows import Board, SharedRows

ALWAYS_S = 3600.0
LAST_S = 60.0


class Over(BaseException):
    """Ends an actor."""


class Actor(threading.Thread):
    """A thread that goes on only when the stage says so: at each look at the shared memory it waits for its turn."""

    def __init__(self, stage: "Stage", play: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.stage, self.play = stage, play
        self.go = threading.Semaphore(0)
        self.ready: Callable[[], bool] = lambda: True
        self.asleep = self.at_work = self.ended = False
        self.error: BaseException | None = None

    def run(self) -> None:
        self.go.acquire()
        try:
            if not self.stage.over:
                self.play()
        except Over:
            pass
        except BaseException as error:
            self.error = error
        self.ended = True
        self.stage.turn.release()

    def wait(self, ready: Callable[[], bool] = lambda: True) -> None:
        if self.stage.over:
            raise Over
        self.ready = ready
        self.stage.turn.release()
        self.go.acquire()
        if self.stage.over:
            raise Over


class Stage:
    """Gives one actor its turn after the other, in any order."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.turn = threading.Semaphore(0)
        self.actors: list[Actor] = []
        self.over = False

    def pause(self, ready: Callable[[], bool] = lambda: True) -> None:
        if isinstance(actor := threading.current_thread(), Actor):
            actor.wait(ready)

    def give(self, actor: Actor) -> None:
        actor.go.release()
        assert self.turn.acquire(timeout=LAST_S)
        if actor.error is not None:
            raise actor.error

    def run(self, quiet: Callable[[], None]) -> None:
        """``quiet`` is called when nobody but those at work with a batch can go on; one of them then ends it."""
        for actor in self.actors:
            actor.start()
        favourite, unrest = self.actors[0], self.chance.choice((0.03, 0.2, 0.5))
        held: Actor | None = None  # it gets no turn while others can have one
        while True:
            able = [one for one in self.actors if not one.ended and not one.at_work and one.ready()]
            if held in able and len(able) > 1:
                able.remove(held)
            if not able:
                quiet()
                able = [one for one in self.actors if not one.ended and one.at_work]
                if not able:
                    return
            if self.chance.random() < 0.05:
                able += [one for one in self.actors if not one.ended and one.at_work]
            # Mostly the same one goes on, so that others rest for long at a bad moment.
            if favourite not in able or self.chance.random() < unrest:
                held = self.chance.choice((None, favourite))
                favourite = self.chance.choice(able)
            self.give(favourite)

    def end(self) -> None:
        self.over = True
        for actor in self.actors:
            actor.go.release()
            actor.join(LAST_S)


class Words:
    """The shared integers, each look at which is a step."""

    def __init__(self, words: memoryview, stage: Stage) -> None:
        self.words, self.stage = words, stage

    def __getitem__(self, at: int) -> int:
        self.stage.pause()
        return self.words[at]

    def __setitem__(self, at: int, value: int) -> None:
        self.stage.pause()
        self.words[at] = value

    def release(self) -> None:
        self.words.release()


class Lock:
    def __init__(self, stage: Stage) -> None:
        self.stage, self.held = stage, False

    def __enter__(self) -> None:
        self.stage.pause(lambda: not self.held)
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False
        self.stage.pause()


class Play:
    """A generator and the workers of a process, in an order by chance."""

    def __init__(self, seed: int, workers: int, rule: BatchRule, bursts: list[int], *, flushes: bool) -> None:
        self.stage = Stage(random.Random(seed))
        self.rule, self.rows = rule, sum(bursts)
        self.batches: list[tuple[int, int]] = []
        self.flushed = False
        self.board = Board(1, workers)
        self.words = self.board.words
        self.board.begin(0)
        self.words[shared_rows._SPIN] = 0
        self.board.words = Words(self.words, self.stage)  # type: ignore[assignment]
        self.answers = SimpleNamespace(columns={"issued": np.zeros(self.rows + 1, np.int64)}, issued=0, origin_ns=0)
        self.queue = SharedRows(self.board, 0, rule, workers, self.answers)  # type: ignore[arg-type]
        self.queue._lock = Lock(self.stage)  # type: ignore[assignment]

        def rest() -> None:
            """Until nobody else has anything to do, or not so long."""
            actor = threading.current_thread()
            assert isinstance(actor, Actor)
            actor.at_work = True
            self.stage.pause()
            actor.at_work = False

        def generate() -> None:
            put, row = self.board.putter(rule.max_size), 0
            self.board.start(shared_rows.time.monotonic_ns())
            for burst in bursts:
                put(row, row + burst)
                row += burst
                if self.stage.chance.random() < 0.3:
                    rest()
            if flushes:
                self.board.flush()
                self.flushed = True

        def work(number: int) -> None:
            while (batch := self.queue.take(number, self.stage.chance.choice((1, 8)))) is not None:
                self.batches.append(batch)
                assert self.answers.issued >= batch[1]
                self.stage.pause()
                assert self.answers.issued >= batch[1]
                if self.stage.chance.random() < 0.5:
                    rest()

        self.stage.actors = [Actor(self.stage, generate)]
        self.stage.actors += [Actor(self.stage, lambda number=number: work(number)) for number in range(workers)]

    def select(self, fds: list[int], _: Any, __: Any, seconds: float | None) -> Any:
        """A nap ends at any time, and a longer sleep only by the event."""
        actor = threading.current_thread()
        assert isinstance(actor, Actor)
        woken = lambda: bool(real_select(fds, [], [], 0)[0])  # noqa: E731
        brief = seconds is not None and seconds <= 1e-3
        actor.asleep = not brief
        self.stage.pause(lambda: brief or woken())
        actor.asleep = False
        return (fds if woken() else []), [], []

    def quiet(self) -> None:
        """Nobody sleeps while rows wait that may go."""
        waiting = self.words[shared_rows._END] - self.words[shared_rows._NEXT]
        if self.flushed or self.rule.patience_ns(waiting) == 0:
            sleepers = [one for one in self.stage.actors if one.asleep]
            assert not (waiting and sleepers), f"{waiting} rows wait, and {len(sleepers)} workers sleep"

    def run(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shared_rows, "select", SimpleNamespace(select=self.select))
            try:
                self.stage.run(self.quiet)
            finally:
                self.stage.end()
                self.board.close()


bursts = st.lists(st.integers(1, 5), min_size=1, max_size=12)
some = settings(max_examples=60, deadline=None)


def are_consecutive(batches: list[tuple[int, int]], rows: int) -> None:
    """Each row once, in order of taking."""
    ends = [0]
    for first, last in sorted(batches):
        assert first == ends[-1] < last
        ends.append(last)
    assert ends[-1] == rows


def are_batches(rows: int, size: int) -> bool:
    """A batch, or some full ones."""
    return rows <= size or (rows <= 8 * size and rows % size == 0)


@some
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 4), bursts)
def test_any_interleaving_without_a_delay(seed: int, workers: int, size: int, puts: list[int]) -> None:
    play = Play(seed, workers, BatchRule(size), puts, flushes=False)
    play.run()
    are_consecutive(play.batches, play.rows)
    assert all(are_batches(last - first, size) for first, last in play.batches)


@some
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 4), bursts)
def test_any_interleaving_with_a_delay(seed: int, workers: int, size: int, puts: list[int]) -> None:
    play = Play(seed, workers, BatchRule(size, round(ALWAYS_S * 1e9)), puts, flushes=True)
    play.run()
    are_consecutive(play.batches, play.rows)
    sizes = [last - first for first, last in sorted(play.batches)]
    assert all(one % size == 0 for one in sizes[:-1])
    assert all(are_batches(one, size) for one in sizes)


def test_the_descriptors_are_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))
    board = Board(2, 3)
    for _ in range(2):
        board.close()
    assert len(os.listdir("/proc/self/fd")) == before


# How long workers look for rows: as long as the generator's way of waiting says, and no longer than its phase.


@pytest.mark.parametrize(
    ("workers", "lanes", "spin", "looks_as"),
    [
        (1, 1, Spin.OFF, Spin.OFF), (1, 1, Spin.ADAPTIVE, Spin.ADAPTIVE), (1, 1, Spin.FULL, Spin.FULL),
        (2, 1, Spin.ADAPTIVE, Spin.OFF), (2, 1, Spin.FULL, Spin.OFF),
        (2, 2, Spin.ADAPTIVE, Spin.ADAPTIVE), (4, 2, Spin.ADAPTIVE, Spin.OFF),  # those of an instance take turns
    ],
)  # fmt: skip
def test_workers_wait_as_the_generator_does(
    workers: int, lanes: int, spin: Spin, looks_as: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_rows, "usable_cores", lambda: 2)
    with closing(Board(1, workers)) as board:
        board.lanes = lanes
        board.begin(0, spin=spin)
        assert board.words[shared_rows._SPIN] == shared_rows.SPIN_NS[looks_as]


@pytest.mark.parametrize(("spin", "looks_as"), [(Spin.ADAPTIVE, Spin.OFF), (Spin.FULL, Spin.FULL)])
@pytest.mark.parametrize("processes", [2, 4])
def test_workers_sleep_at_once_where_there_are_few_cores(
    processes: int, spin: Spin, looks_as: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_rows, "usable_cores", lambda: processes)
    with closing(Board(processes, 1)) as board:
        board.begin(0, spin=spin)
        assert board.words[shared_rows._SPIN] == shared_rows.SPIN_NS[looks_as]


def test_rows_are_found_though_who_was_to_wake_the_worker_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    with closing(Board(2, 1)) as board:
        board.begin(0, spin=Spin.OFF)

        def select(fds: list[int], _: Any, __: Any, seconds: float | None) -> Any:
            assert seconds is not None, "without end"
            slept.append(seconds)
            if len(slept) == 3:
                board.words[shared_rows._IDLE] = 0  # as another process's worker leaves it that is stopped in ``wake``
                board.putter(1)(0, 1)
            return [], [], []

        monkeypatch.setattr(shared_rows, "select", SimpleNamespace(select=select))
        board.sleep(0, 0, None)
        assert board.words[shared_rows._END] == 1
    assert slept == [1e-3, 0.1, 0.1]


def test_a_worker_that_looks_without_end_ends_with_the_phase() -> None:
    with closing(Board(1, 1)) as board:
        board.begin(0, spin=Spin.FULL)
        looked = threading.Thread(target=board.sleep, args=(0, 0, None), daemon=True)  # the queue's end stays 0
        looked.start()
        looked.join(0.02)
        assert looked.is_alive()
        assert not board.words[board.places[0] + shared_rows._ASLEEP]
        board.drop()
        board.wake_all()
        looked.join(10)
        assert not looked.is_alive()
