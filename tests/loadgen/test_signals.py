"""The signals that end a program."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from drumfire.loadgen.signals import on_ending

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_each_is_handled(number: signal.Signals) -> None:
    assert on_ending(signal.default_int_handler) == dict.fromkeys(ENDING, signal.SIG_DFL)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_under_nohup_a_terminal_that_closes_does_not_end_it() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    on_ending(signal.default_int_handler)
    signal.raise_signal(signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
