"""What the servers of a run say while it goes: the live view's process asks them, in the way of the run's target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from drumfire.sut import remote
from drumfire.sut.remote.figures import ServerFigures


@dataclass(frozen=True)
class ServerView:
    """Which servers to ask.  Plain data, which goes to another process as JSON."""

    target: str
    """The word of the command line."""
    asked: Mapping[str, Any]
    """For the target's ``poll``."""


ReadFigures = Callable[[], ServerFigures | None]
"""Reads the newest figures; None where the view asks no servers."""


def start_poll(view: Mapping[str, Any] | None) -> ReadFigures:
    """Start to ask the servers of a ``ServerView`` that came as JSON."""
    if view is None:
        return lambda: None
    wanted = ServerView(**view)
    poll = remote.TARGETS[wanted.target].poll(wanted.asked)
    poll.start()
    return lambda: poll.figures
