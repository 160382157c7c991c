"""What Ctrl-C, SIGTERM and SIGHUP do to a command, from the start of its process to the end.

One handler stays installed and only its target changes: at no moment does a signal reach an outdated handler, or
Python's own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from drumfire.loadgen.signals import on_ending


def _abandon(reason: str) -> None:
    """Raise, but in a running loop cancel its tasks, and raise at a second signal.

    A loop takes what its callbacks raise for a fault of their connection.
    """
    if "asyncio" not in sys.modules:  # whose import would be half of the time that --help takes
        raise KeyboardInterrupt
    import asyncio

    loop = asyncio._get_running_loop()
    if loop is None or loop in _cancelled:
        raise KeyboardInterrupt
    _cancelled.add(loop)
    loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])


_cancelled: weakref.WeakSet[Any] = weakref.WeakSet()
"""Loops whose tasks a signal has cancelled."""


_target: Callable[[str], object] | None = _abandon
_waiting: str | None = None
"""The reason of a signal that came while signals were ignored."""
_last: int | None = None
"""The last signal that came."""


def install() -> None:
    """Install the handler of the signals in the main thread; at first they raise ``KeyboardInterrupt``."""
    on_ending(_on_signal)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Handle the signals within, and then leave them to the program's own handlers, also one that has come.

    Does nothing in other threads than the main one, as signals are only handled there.
    """
    global _target, _waiting, _last
    if not _in_main_thread():
        yield
        return
    _target, _waiting, _last = _abandon, None, None
    before = on_ending(_on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if _last is not None:
            signal.raise_signal(_last)


def abandon() -> None:
    """Let signals raise ``KeyboardInterrupt``; raise it now if one came while signals were ignored.

    In other threads than the main one, in which signals cannot raise, they are ignored until ``notify`` or the next
    ``abandon``.
    """
    global _target, _waiting
    _target, waiting, _waiting = _abandon if _in_main_thread() else None, _waiting, None
    if waiting is not None:
        raise KeyboardInterrupt


def notify(target: Callable[[str], object]) -> None:
    """Let signals call ``target`` with a reason, between any two steps of the main thread; also one that came."""
    global _target, _waiting
    _target = target
    if _waiting is not None:
        waiting, _waiting = _waiting, None
        target(waiting)


def ignore() -> None:
    """Let a signal wait for the next ``abandon``, so that results are saved and shown in full."""
    global _target
    _target = None


@contextlib.contextmanager
def breaking() -> Iterator[None]:
    """Let the first signal raise ``KeyboardInterrupt`` within, also one that has come; then let signals wait again.

    In other threads than the main one, in which signals cannot raise, they wait all the while.
    """

    def once(reason: str) -> None:
        ignore()  # what the first interrupts is left in order
        raise KeyboardInterrupt(reason)

    try:
        if _in_main_thread():
            notify(once)
        yield
    finally:
        ignore()


def has_terminal() -> bool:
    """Whether this process has a terminal that is still open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def leave() -> None:
    """Ignore signals from now on, also while Python shuts down."""
    on_ending(signal.SIG_IGN)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _on_signal(number: int, frame: object) -> None:
    global _waiting, _last
    _last, reason = number, f"interrupted by {signal.Signals(number).name}"
    if _target is None:
        _waiting = reason
    else:
        _target(reason)
