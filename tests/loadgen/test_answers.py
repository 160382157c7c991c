"""The answering side alone: what is taken, what is refused, what is kept, and a wait that misses no answer."""

import asyncio
import queue
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.record import Gauge, Record, Status
from drumfire.loadgen.traffic import Phase
from tests.support.loops import on, on_both_loops

ROWS = 12


def phase_of(rows: int, *, accuracy: bool = False, first_row: int = 0, logged: Any = None) -> Phase:
    return Phase(
        accuracy=accuracy,
        first_row=first_row,
        loaded=np.arange(rows, dtype=np.uint32),
        samples_per_query=1,
        sample_index=np.arange(rows, dtype=np.uint32),
        scheduled=None,
        generated_duration_ns=0,
        logged=logged,
    )


async def begun(rows: int = ROWS, issued: int | None = None, **phase: Any) -> Answers:
    """Answers of a phase that has begun on the running loop, with its first ``issued`` rows (all by default) issued."""
    answers = Answers(Record(rows), in_turn=False)
    answers.begin(phase_of(rows, **phase))
    answers.issued = rows if issued is None else issued
    return answers


@pytest.fixture
def answers() -> Answers:
    return asyncio.run(begun(issued=10))


def untouched(answers: Answers) -> bool:
    return answers.answered == 0 and not answers.record.status.any() and not answers.record.completed.any()


# What is taken.


def test_a_range_is_one_moment(answers: Answers) -> None:
    before = answers.now()
    answers.complete(2, 6)
    assert answers.record.status.tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert len(set(answers.record.completed[2:6].tolist())) == 1
    assert before <= answers.record.completed[2] <= answers.now()
    assert answers.answered == 4


def test_single_rows_in_any_order(answers: Answers) -> None:
    for row in (7, 0, 9, 3):
        answers.complete(row, row + 1)
    assert np.flatnonzero(answers.record.status == Status.OK).tolist() == [0, 3, 7, 9]
    completed = answers.record.completed
    assert completed[7] <= completed[0] <= completed[9] <= completed[3]
    assert answers.answered == 4


def test_rows_that_do_not_follow_each_other(answers: Answers) -> None:
    answers.complete_rows(np.array([8, 1, 4]))
    assert np.flatnonzero(answers.record.status == Status.OK).tolist() == [1, 4, 8]
    assert answers.answered == 3


def test_failed_rows_are_counted_by_reason(answers: Answers) -> None:
    answers.fail(0, 2, ValueError("too\n  large"))
    answers.fail_rows(np.array([5]), "ValueError: too large")
    answers.fail(7, 8, "gone")
    assert answers.faults.failed == {"ValueError: too large": 3, "gone": 1}
    assert answers.record.gauges[Gauge.FAILED] == 4
    assert answers.answered == 4, "a failure is an answer: nobody need wait for more"
    assert np.flatnonzero(answers.record.status == Status.FAILED).tolist() == [0, 1, 5, 7]


# What is refused: whole, counted, and without a trace in the table.

TO_NO_ROW = "an answer to no row"
NEVER_ISSUED = "an answer to a row that was never issued"
SECOND = "a second answer to a row"
TOO_LATE = "an answer after the run had stopped waiting for it"


@pytest.mark.parametrize("settle", ["complete", "fail"])
@pytest.mark.parametrize(
    ("first", "last", "why"),
    [
        (3, 3, TO_NO_ROW),
        (5, 2, TO_NO_ROW),
        (10, 11, NEVER_ISSUED),
        (8, 11, NEVER_ISSUED),
        (0, 12, NEVER_ISSUED),
        (11, 12, NEVER_ISSUED),
        (500, 501, NEVER_ISSUED),
        (9, 500, NEVER_ISSUED),
        (-1, 0, NEVER_ISSUED),
        (-3, 2, NEVER_ISSUED),
    ],
)
def test_ranges_that_were_not_asked_for(answers: Answers, settle: str, first: int, last: int, why: str) -> None:
    if settle == "complete":
        answers.complete(first, last)
    else:
        answers.fail(first, last, "reason")
    assert answers.faults.refused == {why: 1}
    assert answers.faults.failed == {}
    assert answers.record.gauges[Gauge.REFUSED] == 1
    assert untouched(answers)


@pytest.mark.parametrize(
    ("rows", "why"),
    [([], TO_NO_ROW), ([3, 10], NEVER_ISSUED), ([-1], NEVER_ISSUED), ([0, 99], NEVER_ISSUED), ([4, 5, 4], SECOND)],
)
def test_rows_that_were_not_asked_for(answers: Answers, rows: list[int], why: str) -> None:
    answers.complete_rows(np.array(rows, np.int64))
    assert answers.faults.refused == {why: 1}
    assert untouched(answers)


@pytest.mark.parametrize("again", [(4, 5), (3, 6), (0, 10)])
def test_a_second_answer(answers: Answers, again: tuple[int, int]) -> None:
    answers.complete(4, 5)
    first_time = int(answers.record.completed[4])
    answers.complete(*again)
    answers.complete_rows(np.arange(*again))
    answers.fail(*again, "changed my mind")
    assert answers.faults.refused == {SECOND: 3}
    assert answers.faults.failed == {}
    assert answers.record.completed[4] == first_time
    assert answers.answered == 1


def test_an_answer_after_giving_up(answers: Answers) -> None:
    answers.complete(0, 4)
    answers.give_up()
    assert answers.faults.unanswered == 6
    assert answers.answered == 10
    assert answers.record.status.tolist() == [Status.OK] * 4 + [Status.UNANSWERED] * 6 + [Status.PENDING] * 2
    answers.complete(5, 6)
    answers.complete_rows(np.array([7, 8]))
    assert answers.faults.refused == {TOO_LATE: 2}
    answers.give_up()
    assert answers.faults.unanswered == 6, "what was given up is counted once"


def test_an_answer_to_the_phase_before() -> None:
    async def main() -> Answers:
        answers = Answers(Record(20), in_turn=False)
        answers.begin(phase_of(10))
        answers.issued = 10
        answers.complete(0, 9)
        answers.give_up()
        answers.begin(phase_of(10, first_row=10))
        answers.issued = 15
        answers.complete(9, 10)
        answers.complete(8, 12)
        answers.complete(10, 12)
        return answers

    answers = asyncio.run(main())
    assert answers.faults.refused == {TOO_LATE: 2}
    assert answers.record.status[9:].tolist() == [Status.UNANSWERED, 1, 1] + [0] * 8
    assert answers.answered == 12


# What is kept for the accuracy log.


def kept_rows(answers: Answers) -> list[int]:
    return [row for batch in answers.kept for row in batch.rows.tolist()]


def test_an_accuracy_phase_keeps_all_responses() -> None:
    answers = asyncio.run(begun(accuracy=True))
    answers.complete(0, 2, [b"a", b"b"])
    answers.complete_rows(np.array([7, 5]), [b"h", b"f"])
    answers.fail(3, 4, "no")
    assert kept_rows(answers) == [0, 1, 7, 5]
    assert [r for batch in answers.kept for r in batch.responses] == [b"a", b"b", b"h", b"f"]


def test_a_performance_phase_keeps_nothing_unless_it_is_selected() -> None:
    answers = asyncio.run(begun())
    answers.complete(0, 2, [b"a", b"b"])
    assert answers.kept == []
    logged = np.zeros(ROWS, bool)
    logged[[3, 8]] = True
    answers = asyncio.run(begun(logged=logged))
    for row in range(ROWS):
        answers.complete(row, row + 1, [b"x"])
    assert kept_rows(answers) == [3, 8]


def test_a_refused_answer_is_not_kept() -> None:
    answers = asyncio.run(begun(accuracy=True))
    answers.complete(0, 1, [b"first"])
    answers.complete(0, 1, [b"second"])
    assert [r for batch in answers.kept for r in batch.responses] == [b"first"]


# The wait.


@on_both_loops
def test_wait_ends_at_once_when_all_is_answered(loop: str) -> None:
    async def main() -> bool:
        answers = await begun()
        answers.complete(0, ROWS)
        return await answers.wait(ROWS, 60.0)

    assert on(loop, main()) is True


@on_both_loops
def test_wait_is_bounded(loop: str) -> None:
    async def main() -> tuple[bool, float]:
        answers = await begun()
        answers.complete(0, ROWS - 1)
        began = time.monotonic()
        return await answers.wait(ROWS, 0.1), time.monotonic() - began

    waited, took_s = on(loop, main())
    assert waited is False
    assert took_s >= 0.09


@on_both_loops
def test_patience_starts_anew_with_each_answer(loop: str) -> None:
    """Slow is not silent: all come, over a time longer than the patience."""

    async def main() -> bool:
        answers = await begun()

        async def trickle() -> None:
            for row in range(ROWS):
                await asyncio.sleep(0.1)
                answers.complete(row, row + 1)

        task = asyncio.ensure_future(trickle())
        done = await answers.wait(ROWS, 0.9)
        await task
        return done

    assert on(loop, main()) is True


@on_both_loops
def test_no_wake_up_is_lost_in_a_closed_loop(loop: str) -> None:
    """Each wait races with an answer from another thread; one that is missed would use up the patience."""
    rounds = 3000

    async def main() -> int:
        answers = await begun(rounds, issued=0)
        asked: queue.SimpleQueue[int | None] = queue.SimpleQueue()

        def work() -> None:
            rng = random.Random(1)
            while (row := asked.get()) is not None:
                for _ in range(rng.randrange(200)):  # now before the wait begins, now after
                    pass
                answers.complete(row, row + 1)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        missed = 0
        for row in range(rounds):
            answers.issued = row + 1
            asked.put(row)
            missed += not await answers.wait(row + 1, 20.0)
        asked.put(None)
        thread.join()
        return missed

    assert on(loop, main()) == 0


@on_both_loops
def test_no_wake_up_is_lost_among_many_threads(loop: str) -> None:
    rows, threads = 20_000, 6

    async def main() -> tuple[bool, Answers]:
        answers = await begun(rows)
        order = np.random.default_rng(5).permutation(rows)

        def work(mine: np.ndarray) -> None:
            for i, rows_now in enumerate(np.array_split(mine, mine.size // 5)):
                if i % 3 == 0:
                    answers.complete_rows(rows_now)
                else:
                    for row in rows_now.tolist():
                        answers.complete(row, row + 1)

        workers = [threading.Thread(target=work, args=(order[k::threads],), daemon=True) for k in range(threads)]
        for worker in workers:
            worker.start()
        done = await answers.wait(rows, 30.0)
        for worker in workers:
            worker.join()
        return done, answers

    done, answers = on(loop, main())
    assert done is True
    assert answers.answered == rows
    assert (answers.record.status == Status.OK).all()
    assert answers.faults.refused == {}


def test_failures_are_counted_before_the_run_can_wake_up() -> None:
    """Else a run could be judged without the failure that ended it."""
    counted_at_wake_up: list[int] = []

    class Watched(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, callback: Any, *arguments: Any, context: Any = None) -> asyncio.Handle:
            if current:
                counted_at_wake_up.append(current[0].faults.failed.total())
            return super().call_soon_threadsafe(callback, *arguments, context=context)

    current: list[Answers] = []

    async def main() -> bool:
        answers = await begun()
        current.append(answers)
        worker = threading.Timer(0.05, answers.fail, (0, ROWS, "out of memory"))
        worker.start()
        done = await answers.wait(ROWS, 20.0)
        current.clear()
        worker.join()
        return done

    with asyncio.Runner(loop_factory=Watched) as runner:
        assert runner.run(main()) is True
    assert counted_at_wake_up == [ROWS]


# Random use, against a plain model of it.


def random_actions(seed: int) -> Iterator[tuple[str, list[int]]]:
    rng = random.Random(seed)
    for _ in range(60):
        kind = rng.choice(["complete", "complete", "rows", "fail"])
        first = rng.randrange(-1, 40)
        rows = list(range(first, first + rng.choice([1, 1, 2, 5])))
        yield kind, rng.sample(rows, len(rows)) if kind == "rows" else rows


@pytest.mark.parametrize("seed", range(20))
def test_random_answers_equal_a_plain_model(seed: int) -> None:
    answers, issued = asyncio.run(begun(40, issued=30)), 30
    status, refused, failed = dict.fromkeys(range(40), Status.PENDING), 0, 0
    for kind, rows in random_actions(seed):
        if kind == "rows":
            answers.complete_rows(np.array(rows))
        elif kind == "fail":
            answers.fail(rows[0], rows[-1] + 1, "no")
        else:
            answers.complete(rows[0], rows[-1] + 1)
        if all(0 <= row < issued and status[row] == Status.PENDING for row in rows):
            failed += len(rows) if kind == "fail" else 0
            status.update(dict.fromkeys(rows, Status.FAILED if kind == "fail" else Status.OK))
        else:
            refused += 1
    assert answers.record.status.tolist() == list(status.values())
    assert answers.faults.refused.total() == refused == answers.record.gauges[Gauge.REFUSED]
    assert answers.faults.failed.total() == failed == answers.record.gauges[Gauge.FAILED]
    assert answers.answered == sum(s != Status.PENDING for s in status.values())
    assert (answers.record.completed[answers.record.status > 0] > 0).all()


# An error that a system gives.


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_without_a_text_still_fails_its_rows(answers: Answers) -> None:
    answers.fail(0, 3, Unspeakable())
    assert answers.faults.failed == {"Unspeakable": 3}
    assert answers.answered == 3
    assert answers.record.gauges[Gauge.FAILED] == 3
