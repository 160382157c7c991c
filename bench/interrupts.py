"""What Ctrl-C and SIGTERM do to a command, from the start of its process to the end.

One handler stays installed and only its target changes: at no moment does a signal reach an outdated handler, or
Python's own.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _abandon(reason: str) -> None:
    raise KeyboardInterrupt


_target: Callable[[str], object] | None = _abandon
_came = False
"""Whether a signal came while signals were ignored."""


def install() -> None:
    """Install the handler of both signals in the main thread; at first they raise ``KeyboardInterrupt``."""
    for number in _SIGNALS:
        signal.signal(number, _on_signal)


def abandon() -> None:
    """Let signals raise ``KeyboardInterrupt``; raise it now if one came while signals were ignored."""
    global _target, _came
    _target, came, _came = _abandon, _came, False
    if came:
        raise KeyboardInterrupt


def notify(target: Callable[[str], object]) -> None:
    """Let signals call ``target`` with a reason, between any two steps of the main thread."""
    global _target
    _target = target


def ignore() -> None:
    """Let a signal wait for the next ``abandon``, so that results are saved and shown in full."""
    global _target
    _target = None


def leave() -> None:
    """Ignore signals from now on, also while Python shuts down."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _on_signal(number: int, frame: object) -> None:
    global _came
    if _target is None:
        _came = True
    else:
        _target(f"interrupted by {signal.Signals(number).name}")
