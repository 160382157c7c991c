"""The answers of the other process, beside those of the generator's."""

import asyncio
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from drumfire.loadgen.record import Record, Status
from drumfire.loadgen.traffic import Phase
from drumfire.sut.local.host import _Answers
from drumfire.sut.local.shared_rows import Board

ROWS = 8


@pytest.fixture
def answers() -> Iterator[_Answers]:
    with closing(Board(1, 1)) as board:
        yield _Answers(Record(ROWS, {}, spare=4), False, board, 0, lambda *what: None)


def begin(answers: _Answers, first_row: int, rows: int) -> None:
    indices = np.zeros(rows, np.uint32)
    phase = Phase(False, first_row, indices, 1, indices, None, 0, None)

    async def main() -> None:
        answers.get_ready(phase)

    asyncio.run(main())


def refused(answers: _Answers) -> list[str]:
    return sorted(answers.faults.refused.elements())


def test_rows_that_were_not_issued_are_refused_after_a_warm_up(answers: _Answers) -> None:
    begin(answers, ROWS, 4)
    answers.issued = ROWS + 4
    answers.complete(ROWS, ROWS + 4)
    answers.end()
    begin(answers, 0, ROWS)
    answers.complete(0, 1)
    assert refused(answers) == ["an answer to a row that was never issued"]
    assert not answers.record.status[:ROWS].any()
    answers.issued = 1
    answers.complete(0, 1)
    assert answers.record.status[0] == Status.OK


def test_what_is_late_for_the_warm_up_spoils_nothing(answers: _Answers) -> None:
    begin(answers, ROWS, 4)
    answers.issued = ROWS + 4
    answers.complete(ROWS, ROWS + 1)
    answers.end()
    answers.complete(ROWS + 1, ROWS + 2)
    begin(answers, 0, ROWS)
    answers.complete(ROWS + 2, ROWS + 3)
    answers.issued = ROWS
    answers.complete(0, ROWS)
    faults, _ = answers.end()
    answers.complete(ROWS + 3, ROWS + 4)
    assert faults.refused == {}
    assert refused(answers) == []
    assert (answers.record.status[:ROWS] == Status.OK).all()


def test_what_is_late_for_the_run_is_refused(answers: _Answers) -> None:
    begin(answers, 0, ROWS)
    answers.issued = 5
    answers.complete(0, 4)
    answers.end()
    answers.complete(4, 5)
    assert refused(answers) == ["an answer after the run had stopped waiting for it"]
    answers.complete(6, 7)
    assert refused(answers)[1:] == ["an answer to a row that was never issued"]
    assert not answers.record.status[4:].any()


def test_a_second_answer_in_a_warm_up_is_refused(answers: _Answers) -> None:
    begin(answers, ROWS, 4)
    answers.issued = ROWS + 2
    answers.complete(ROWS, ROWS + 1)
    answers.complete(ROWS, ROWS + 1)
    assert refused(answers) == ["a second answer to a row"]
