"""The named loggers: what happens beside the measuring, such as reconnects.  Silent unless somebody listens.

No logger is called for every row or request: only where something unusual happens, and when work begins and ends.
"""

from __future__ import annotations

import logging
import sys

LEVELS = ("debug", "info", "warning", "error")

REMOTE = logging.getLogger("drumfire.remote")
"""Connections to servers: lost, replaced, refused, given up."""
SERVING = logging.getLogger("drumfire.serving")
"""The server: models loaded, connections turned away, protocols broken, tokens read."""
FLEET = logging.getLogger("drumfire.fleet")
"""The generators of a run: started, ready, lost."""

_ALL = logging.getLogger("drumfire")
_ALL.addHandler(logging.NullHandler())  # else Python prints warnings that nobody listens to


def show(level: str | None) -> None:
    """Show the loggers' messages from this level of ``LEVELS`` on, on standard error; None: show none."""
    handler = None if level is None else logging.StreamHandler(sys.stderr)
    if handler is not None:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    send_to(handler, level)


def send_to(handler: logging.Handler | None, level: str | None) -> None:
    """Give the messages from this level on to ``handler``, in place of the one that was set here before."""
    for earlier in _ALL.handlers[1:]:
        _ALL.removeHandler(earlier)
    if handler is not None:
        _ALL.addHandler(handler)
    _ALL.setLevel(logging.NOTSET if level is None else level.upper())
