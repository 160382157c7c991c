"""How long workers look for rows: as long as the generator's way of waiting says, and no longer than its phase."""

import threading
from contextlib import closing

import pytest

from drumfire.loadgen.pacer import Spin
from drumfire.sut.local import shared_rows
from drumfire.sut.local.shared_rows import Board


@pytest.mark.parametrize(
    ("workers", "spin", "looks_as"),
    [
        (1, Spin.OFF, Spin.OFF), (1, Spin.ADAPTIVE, Spin.ADAPTIVE), (1, Spin.FULL, Spin.FULL),
        (2, Spin.OFF, Spin.OFF), (2, Spin.FULL, Spin.ADAPTIVE),
    ],
)  # fmt: skip
def test_workers_wait_as_the_generator_does(workers: int, spin: Spin, looks_as: Spin) -> None:
    with closing(Board(1, workers)) as board:
        board.begin(0, spin)
        assert board.words[shared_rows._SPIN] == shared_rows.SPIN_NS[looks_as]


def test_a_worker_that_looks_without_end_ends_with_the_phase() -> None:
    with closing(Board(1, 1)) as board:
        board.begin(0, Spin.FULL)
        looked = threading.Thread(target=board.sleep, args=(0, 0, None), daemon=True)  # the queue's end stays 0
        looked.start()
        looked.join(0.02)
        assert looked.is_alive()
        assert not board.words[board.places[0] + shared_rows._ASLEEP]
        board.drop()
        board.wake_all()
        looked.join(10)
        assert not looked.is_alive()
