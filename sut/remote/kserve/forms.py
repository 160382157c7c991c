"""How tensors travel to a server: as bytes, or as values, which is found by a first request.

Handles single requests before a run.  Does not depend on how many servers there are or on what a run sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drumfire.sut.data.inputs import Sample
from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.kserve.messages.exchange import NOT_SENT, Failure, Part, Reply
from drumfire.sut.kserve.messages.grpc_client import GrpcMessages
from drumfire.sut.kserve.messages.http_client import HttpMessages, InferBody
from drumfire.sut.kserve.messages.tensors import LEFT_OUT, ModelInterface, TensorError
from drumfire.sut.remote.endpoint import Endpoint

KServeMessages = GrpcMessages | HttpMessages
Send = Callable[[Endpoint, KServeMessages, Any], Reply]
"""Sends a request, built by these messages, on a connection of its own."""


class FirstRequests:
    """Requests of one sample each, as ``send`` sends them."""

    def __init__(self, interface: ModelInterface, send: Send, advice: Callable[[str], str]) -> None:
        """``advice``: see ``Target``."""
        self._interface, self._send, self._advice = interface, send, advice

    def reply(self, endpoint: Endpoint, messages: KServeMessages, sample: Sample) -> Reply:
        """The reply to a sample; a sample that the messages' form cannot hold is a ``Failure``."""
        try:
            request = self._request(messages, sample)
        except TensorError as error:
            return Failure(str(error))
        return self._send(endpoint, messages, request)

    def refuses(
        self, endpoint: Endpoint, raw: KServeMessages, listed: KServeMessages, sample: Sample
    ) -> tuple[bool, str]:
        """Whether a server refuses ``raw`` tensors and takes ``listed`` values, and what to say of that.

        Raises ``ServerError`` if it refuses both.
        """
        bytes_, values = ("raw", "typed") if endpoint.is_grpc else ("binary", "JSON")
        first = self.reply(endpoint, raw, sample)
        if not isinstance(first, Failure):
            said = f"{endpoint} answers with {values} contents: the time to write and read them is in the latency"
            return False, said if raw.got_values else ""
        second = self.reply(endpoint, listed, sample)
        if isinstance(second, Failure):
            other = "" if second.reason == first.reason else f"; with {values} contents: {second.reason}"
            advice = self._advice(first.reason + other)
            raise ServerError(f"the check before the run failed: {endpoint}: {first.reason}{other}{advice}")
        sizes = [_size(self._request(messages, sample)) for messages in (raw, listed)]
        return True, (
            f"{endpoint} refuses {bytes_} contents ({first.reason}) and is sent {values} contents: "
            f"{sizes[1] / sizes[0]:.1f} times the bytes, and the time to write and read them is in the latency"
        )

    def _request(self, messages: KServeMessages, sample: Sample) -> Any:
        batch = (1,) if self._interface.max_batch_size else ()
        return messages.request(
            [
                NOT_SENT
                if tensor == LEFT_OUT
                else Part((*batch, *tensor.shape), messages.encoded(spec.datatype, tensor.shape, tensor.data))
                for spec, tensor in zip(self._interface.inputs, sample, strict=True)
            ]
        )


def _size(request: bytes | InferBody) -> int:
    return len(request.body) if isinstance(request, InferBody) else len(request)
