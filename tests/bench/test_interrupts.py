"""Signals within ``interrupts.installed``: to the run, and then to the program; also where the run has a thread."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable

import pytest

from drumfire.bench import interrupts
from drumfire.loadgen.interpreter import run_on_fast_loop


def in_a_thread(do: Callable[[], object]) -> list[BaseException]:
    """What ``do`` raises in a thread of its own."""
    raised: list[BaseException] = []

    def call() -> None:
        try:
            do()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised


@pytest.fixture
def handled() -> list[int]:
    """The signals that the program's own handler gets."""
    got: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: got.append(number))
    yield got
    signal.signal(signal.SIGINT, before)


def test_the_programs_handler_gets_the_signal_afterwards(handled: list[int]) -> None:
    came: list[str] = []
    with interrupts.installed():
        interrupts.notify(came.append)
        signal.raise_signal(signal.SIGINT)
        assert (came, handled) == (["interrupted by SIGINT"], [])
    assert handled == [signal.SIGINT]
    with interrupts.installed():
        pass
    assert handled == [signal.SIGINT]


def test_before_the_run_it_ends_the_call(handled: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.installed():
        signal.raise_signal(signal.SIGINT)
    assert handled == [signal.SIGINT]


def test_a_run_in_a_thread_ends_there_when_it_begins(handled: list[int]) -> None:
    with interrupts.installed():
        interrupts.ignore()
        signal.raise_signal(signal.SIGINT)
        (raised,) = in_a_thread(interrupts.abandon)
        assert isinstance(raised, KeyboardInterrupt)
    assert handled == [signal.SIGINT]


def test_a_run_in_a_thread_gets_a_signal_that_came_before_it_took_them(handled: list[int]) -> None:
    came: list[str] = []

    def run() -> None:
        interrupts.abandon()
        begun.set()
        sent.wait(10)
        interrupts.notify(came.append)

    with interrupts.installed():
        interrupts.ignore()
        begun, sent = threading.Event(), threading.Event()
        thread = threading.Thread(target=run)
        thread.start()
        begun.wait(10)
        signal.raise_signal(signal.SIGINT)  # raises nothing here, where the thread is waited for
        sent.set()
        thread.join()
    assert came == ["interrupted by SIGINT"]
    assert handled == [signal.SIGINT]


def test_in_another_thread_nothing_is_installed(handled: list[int]) -> None:
    def call() -> None:
        with interrupts.installed():
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    assert in_a_thread(call) == []
    assert seen == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize(("handler", "ends"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_terminal_that_closes_ends_a_command_unless_under_nohup(handler: signal.Handlers, ends: bool) -> None:
    came: list[str] = []
    passed_on: list[int] = []
    before = signal.signal(signal.SIGHUP, handler)
    try:
        if ends:  # a handler in place of the default, which would end the tests
            signal.signal(signal.SIGHUP, lambda number, frame: passed_on.append(number))
        with interrupts.installed():
            interrupts.notify(came.append)
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert came == ["interrupted by SIGHUP"] * ends
    assert passed_on == [signal.SIGHUP] * ends


def test_in_a_loop_the_first_signal_cancels_and_the_second_raises(handled: list[int]) -> None:
    came: list[str] = []

    async def main() -> None:
        signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            came.append("cancelled")
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), interrupts.installed():
        run_on_fast_loop(main())
    assert came == ["cancelled"]
    assert handled == [signal.SIGINT]


def test_a_signal_while_a_loop_calls_a_protocol_ends_the_program(handled: list[int]) -> None:
    class Sender(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Sender, "127.0.0.1", 0)
        await asyncio.open_connection(*server.sockets[0].getsockname())
        await asyncio.sleep(60)

    with pytest.raises(KeyboardInterrupt), interrupts.installed():
        run_on_fast_loop(main())
    assert handled == [signal.SIGINT]
