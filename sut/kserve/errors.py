"""Errors between a client and a server.  Each text is one line."""

from __future__ import annotations

from drumfire.loadgen.errors import UserError


class ProtocolError(ValueError):
    """The peer broke the protocol: the connection cannot be used any more."""


class HeadTooLarge(ProtocolError):
    """A message's head exceeds the limit."""


class BodyTooLarge(ProtocolError):
    """A message's body exceeds the limit."""


class ServerError(UserError, RuntimeError):
    """The server cannot be reached, or refuses a request.  The text names the fix."""


def one_line(text: str, most: int = 500) -> str:
    """A peer's text, safe to print: one line of printable characters, at most ``most`` of them."""
    shown = text[: 2 * most]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else " " for c in shown)
    return " ".join(shown.split())[:most]
