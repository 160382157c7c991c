"""The pacer: never early, and what each way of waiting does meanwhile.

No figure here is held against how fast this machine is.
"""

import asyncio
import random
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen import issue, pacer
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.issue import End, Limits
from drumfire.loadgen.pacer import LAST_SPIN_NS, Pacer, Spin
from drumfire.loadgen.record import Record
from tests.support.loops import on, on_both_loops

MS = 1_000_000  # ns


@pytest.mark.parametrize("spin", Spin)
@pytest.mark.parametrize("use_timerfd", [True, False])
@on_both_loops
def test_pacer_is_never_early(loop: str, use_timerfd: bool, spin: Spin) -> None:
    rng = random.Random(3)

    async def main() -> list[int]:
        early = []
        with Pacer(spin, use_timerfd=use_timerfd) as pacer:
            assert pacer.exact_timer or not use_timerfd
            for _ in range(60):
                # From well in the past to some ms ahead, most around the lengths where the method changes.
                ahead = rng.choice([-MS, 0, 1, rng.randrange(40_000), rng.randrange(200_000), rng.randrange(4 * MS)])
                deadline = time.monotonic_ns() + ahead
                told = await pacer.until(deadline)
                if told < deadline or time.monotonic_ns() < deadline or told > time.monotonic_ns():
                    early.append(ahead)
            assert pacer.spun_ns >= 0
            assert (pacer.window_ns > 0) == (spin is Spin.ADAPTIVE)
        return early

    assert on(loop, main()) == []


@pytest.mark.parametrize("use_timerfd", [True, False])
@on_both_loops
def test_the_loop_is_free_while_the_pacer_sleeps(loop: str, use_timerfd: bool) -> None:
    async def main() -> int:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.002)
                turns += 1

        task = asyncio.ensure_future(count_turns())
        with Pacer(use_timerfd=use_timerfd) as pacer:
            await pacer.until(time.monotonic_ns() + 100 * MS)
        task.cancel()
        return turns

    assert on(loop, main()) >= 1


@on_both_loops
def test_a_cancelled_wait_leaves_the_pacer_usable(loop: str) -> None:
    async def main() -> bool:
        with Pacer() as pacer:
            waiting = asyncio.ensure_future(pacer.until(time.monotonic_ns() + 10 * MS))
            await asyncio.sleep(0.001)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            deadline = time.monotonic_ns() + 30 * MS  # the cancelled timer must not end this wait
            return await pacer.until(deadline) >= deadline

    assert on(loop, main())


class Counted:
    """Counts the turns of the loop and the sleeps of a pacer."""

    def __init__(self, pacer_: Pacer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.turns = self.sleeps = 0
        sleep, sleep_until = asyncio.sleep, pacer_._sleep_until

        async def turn(seconds: float) -> None:
            self.turns += 1
            await sleep(seconds)

        async def rest(wake_ns: int) -> None:
            self.sleeps += 1
            await sleep_until(wake_ns)

        monkeypatch.setattr(pacer.asyncio, "sleep", turn)
        monkeypatch.setattr(pacer_, "_sleep_until", rest)


@on_both_loops
@pytest.mark.parametrize("spin", Spin)
def test_only_what_may_spin_does(loop: str, spin: Spin, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> tuple[Counted, int]:
        with Pacer(spin) as one:
            if not one.exact_timer:
                pytest.skip("the loop's own timers are no sleeps without turns")
            counted = Counted(one, monkeypatch)
            for ahead in (1_000, LAST_SPIN_NS + 5_000, 2 * MS, 3 * MS):
                await one.until(time.monotonic_ns() + ahead)
            monkeypatch.undo()
            return counted, one.pacing.spun_ns

    counted, spun_ns = on(loop, main())
    if spin is Spin.OFF:
        assert counted.turns == spun_ns == 0
        assert counted.sleeps >= 2
    elif spin is Spin.FULL:
        assert counted.sleeps == 0
        assert counted.turns > 4
    else:
        assert counted.sleeps == 2
        assert counted.turns > 0
        assert spun_ns > 0


@on_both_loops
def test_what_others_take_of_the_core_is_not_spun(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread ran for a quarter of the time."""
    now = {"wall": 0, "cpu": 0}

    async def main() -> int:
        with Pacer() as one:
            one.settle()
            one.waited_ns += 600
            now["wall"], now["cpu"] = 1000, 250
            one.settle()
            return one.pacing.spun_ns

    fake: Any = type("Clocks", (), {
        "CLOCK_MONOTONIC": time.CLOCK_MONOTONIC,
        "monotonic_ns": staticmethod(lambda: now["wall"]), "thread_time_ns": staticmethod(lambda: now["cpu"]),
    })  # fmt: skip
    monkeypatch.setattr(pacer, "time", fake)
    assert on(loop, main()) == 150


@on_both_loops
def test_rows_due_together_go_together_however_many_they_are(loop: str) -> None:
    """Across the ends of the lists that deadlines come in, too."""
    ahead = issue._AHEAD_ROWS
    groups = [1, ahead - 2, 1, 3, ahead, ahead + 1, 2, 2 * ahead + 7, issue._SEARCH_ROWS // 2, 1]
    due_ns = np.repeat(np.arange(1, len(groups) + 1) * 2 * MS, groups)
    issued: list[tuple[int, int]] = []
    record = Record(due_ns.size, {}, 0)
    record.scheduled[:] = due_ns
    answers = Answers(record, in_turn=False)

    class Noting:
        @staticmethod
        def issue(first: int, last: int) -> None:
            issued.append((first, last))

    async def main() -> End:
        answers.origin_ns = time.monotonic_ns()
        phase: Any = SimpleNamespace(first_row=0, rows=due_ns.size)
        with Pacer() as one:
            system: Any = Noting
            return await issue._issue_scheduled(phase, Limits(0), system, answers, one)

    assert on(loop, main()) is End.ALL_ISSUED
    assert [first for first, _ in issued[1:]] == [last for _, last in issued[:-1]]
    assert (issued[0][0], issued[-1][1]) == (0, due_ns.size)
    assert (record.issued >= record.scheduled).all()
    ends = np.cumsum(groups)
    starts = {0, *ends.tolist()}
    assert all(first in starts for first, _ in issued)  # no group was cut
    for first, last in issued:
        assert np.unique(record.issued[first:last]).size == 1
