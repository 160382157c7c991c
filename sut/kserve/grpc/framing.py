"""The parts of gRPC around messages that both sides share: the service's path, the prefix, the status.

Does not depend on calls or connections.
Source: "gRPC over HTTP2" and "Status codes and their use in gRPC" of the gRPC documentation.
"""

from __future__ import annotations

import enum

from drumfire.sut.kserve.messages.exchange import Buffer

SERVICE = "/inference.GRPCInferenceService/"
PREFIX_BYTES = 5
"""Each message follows a compression flag (1 byte) and its length (4 bytes, big-endian)."""


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
    """The prefix of an uncompressed message of ``size`` bytes."""
    return b"\0" + size.to_bytes(4, "big")


def framed(message: Buffer) -> bytes:
    """A message with its prefix."""
    return prefix(len(message)) + message
