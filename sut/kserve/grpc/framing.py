"""What gRPC puts around the messages of a call: the service's path, a prefix, a status.

Knows these words of gRPC, which both ends share; must not know calls or connections.
Source: "gRPC over HTTP2" and "Status codes and their use in gRPC" of the gRPC documentation.
"""

from __future__ import annotations

import enum

from drumfire.sut.kserve.messages.exchange import Buffer

SERVICE = "/inference.GRPCInferenceService/"
PREFIX_BYTES = 5
"""Before each message: whether it is compressed (1 byte) and its length (4 bytes)."""


class Status(enum.IntEnum):
    """How a call ended."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


def prefix(size: int) -> bytes:
    """What stands before a message of ``size`` bytes in a stream."""
    return b"\0" + size.to_bytes(4, "big")


def framed(message: Buffer) -> bytes:
    """A message as it stands in a stream."""
    return prefix(len(message)) + message
