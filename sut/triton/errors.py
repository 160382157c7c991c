"""What can go wrong between a client and a server.  Each text is one line."""

from __future__ import annotations


class ProtocolError(ValueError):
    """The peer broke the protocol: the connection can not go on."""


class ServerError(RuntimeError):
    """The server can not be reached, or refuses what it was asked.  The text names the mend."""
