"""What can go wrong between a client and a server.  Each text is one line."""

from __future__ import annotations


class ProtocolError(ValueError):
    """The peer broke the protocol: the connection can not go on."""


class HeadTooLarge(ProtocolError):
    """More bytes before a message's body than are taken."""


class BodyTooLarge(ProtocolError):
    """A larger message than is taken."""


class ServerError(RuntimeError):
    """The server can not be reached, or refuses what it was asked.  The text names the mend."""


def one_line(text: str, most: int = 500) -> str:
    """What a peer said, fit for a report: one line, nothing that a terminal would obey, at most so many characters."""
    return " ".join("".join(one if one.isprintable() else " " for one in text[: 2 * most]).split())[:most]
