"""Why a request is not answered with outputs: one status for both protocols, and one line of text.

Knows gRPC's statuses and what each is over HTTP; must not know who is told.
"""

from __future__ import annotations

from collections.abc import Mapping

from drumfire.sut.kserve.grpc.framing import Status

HTTP_STATUS: Mapping[Status, int] = {
    Status.CANCELLED: 499,  # nobody waits for it; nginx's number, as HTTP has none
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
"""What each status is over HTTP.  ``RESOURCE_EXHAUSTED`` is only ever said of a message over the limit."""


class Refusal(Exception):
    """What a client is told in place of outputs.  The text is one line."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text

    @property
    def http_status(self) -> int:
        return HTTP_STATUS[self.status]
