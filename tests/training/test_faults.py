"""How a run of training is told to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from drumfire.training.faults import interruptible

ENDING = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_it_ends_as_by_ctrl_c(number: signal.Signals) -> None:
    interruptible()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_under_nohup_a_terminal_that_closes_does_not_end_it() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interruptible()
    signal.raise_signal(signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
