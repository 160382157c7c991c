"""What Ctrl-C and SIGTERM do to a command, from its process's start to its end.

One handler stays in place throughout and only its target changes, so that there is no moment at which a signal finds
an earlier step's habit, or Python's own.  Knows nothing of what is interrupted.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _abandon(reason: str) -> None:
    raise KeyboardInterrupt


_target: Callable[[str], object] | None = _abandon
_came = False
"""Whether a signal came while they were ignored."""


def install() -> None:
    """Hear of both signals from here on, for the main thread of a process; at first they abandon what is being done."""
    for number in _SIGNALS:
        signal.signal(number, _on_signal)


def abandon() -> None:
    """From here on a signal raises ``KeyboardInterrupt``, as does one that came while they were ignored."""
    global _target, _came
    _target, came, _came = _abandon, _came, False
    if came:
        raise KeyboardInterrupt


def tell(target: Callable[[str], object]) -> None:
    """From here on a signal calls ``target`` with a reason, between any two steps of the main thread."""
    global _target
    _target = target


def ignore() -> None:
    """From here on a signal waits for the next ``abandon``: what was measured is saved and told whole."""
    global _target
    _target = None


def leave() -> None:
    """The process is about to end, and no signal counts any more, not even while Python takes itself down."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _on_signal(number: int, frame: object) -> None:
    global _came
    if _target is None:
        _came = True
    else:
        _target(f"interrupted by {signal.Signals(number).name}")
