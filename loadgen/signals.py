"""The signals that end a program: Ctrl-C, SIGTERM, and SIGHUP, of a terminal that closes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

Handler = Callable[[int, Any], Any] | signal.Handlers | int | None


def on_ending(handler: Handler) -> dict[signal.Signals, Handler]:
    """Handle them in this process, but not SIGHUP where it is ignored, as by nohup; returns the handlers before.

    Raises ``ValueError`` in another thread than the main one.
    """
    kept_on = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    ending = (signal.SIGINT, signal.SIGTERM) if kept_on else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return {number: signal.signal(number, handler) for number in ending}
