"""The error of a request that is not answered with outputs: one status for both protocols, and one line of text."""

from __future__ import annotations

from collections.abc import Mapping

from drumfire.sut.kserve.grpc.framing import Status

HTTP_STATUS: Mapping[Status, int] = {
    Status.CANCELLED: 499,  # HTTP has no such status; this is nginx's
    Status.UNKNOWN: 500,
    Status.INVALID_ARGUMENT: 400,
    Status.DEADLINE_EXCEEDED: 504,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.PERMISSION_DENIED: 403,
    Status.RESOURCE_EXHAUSTED: 413,
    Status.FAILED_PRECONDITION: 400,
    Status.ABORTED: 409,
    Status.OUT_OF_RANGE: 400,
    Status.UNIMPLEMENTED: 501,
    Status.INTERNAL: 500,
    Status.UNAVAILABLE: 503,
    Status.DATA_LOSS: 500,
    Status.UNAUTHENTICATED: 401,
}
"""HTTP's status for each gRPC status.  ``RESOURCE_EXHAUSTED`` is only used for a message over the limit."""


class Refusal(Exception):
    """The answer to a client instead of outputs.  The text is one line."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text

    @property
    def http_status(self) -> int:
        return HTTP_STATUS[self.status]


def invalid(text: str) -> Refusal:
    """The refusal of a request that is wrong in itself."""
    return Refusal(Status.INVALID_ARGUMENT, text)
