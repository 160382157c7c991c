"""How tensors travel to a server: as bytes, or as values, which is found by a first request.

Handles single requests before a run.  Does not depend on how many servers there are or on what a run sends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from drumfire.loadgen.errors import UserError
from drumfire.sut.data.inputs import Inputs, Sample
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
    """Requests of a sample or a few, as ``send`` sends them."""

    def __init__(self, interface: ModelInterface, send: Send, advice: Callable[[str], str]) -> None:
        """``advice``: see ``Target``."""
        self._interface, self._send, self._advice = interface, send, advice

    def reply(self, endpoint: Endpoint, messages: KServeMessages, *samples: Sample) -> Reply:
        """The reply to samples of equal shapes; one that the messages' form cannot hold is a ``Failure``."""
        try:
            request = self._request(messages, *samples)
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

    def check_together(
        self, endpoint: Endpoint, form: Callable[[int], KServeMessages], data: Inputs, indices: Sequence[int]
    ) -> None:
        """Raise ``UserError`` if a server refuses samples of equal shapes in one request that it takes one by one.

        It may take an input once for a whole request, which it does not say of itself.  ``form``: makes messages by the
        most samples that a request holds.
        """
        samples = [data.sample(index) for index in indices]
        together = self.reply(endpoint, form(len(samples)), *samples)
        if not isinstance(together, Failure) or len(samples) == 1:
            return
        if not any(isinstance(self.reply(endpoint, form(1), sample), Failure) for sample in samples):
            raise UserError(
                f"{endpoint} takes samples {', '.join(map(str, indices))} one by one, but not in one request: "
                f"{together.reason}: leave out --max-batchsize"
            )

    def _request(self, messages: KServeMessages, *samples: Sample) -> Any:
        batch = (len(samples),) if self._interface.max_batch_size else ()
        parts = []
        for spec, tensors in zip(self._interface.inputs, zip(*samples, strict=True), strict=True):
            shape = tensors[0].shape
            if tensors[0] == LEFT_OUT:
                parts.append(NOT_SENT)
                continue
            data = [messages.encoded(spec.datatype, shape, tensor.data) for tensor in tensors]
            parts.append(Part((*batch, *shape), data[0] if len(data) == 1 else messages.joint.join(data)))
        return messages.request(parts)


def _size(request: bytes | InferBody) -> int:
    return len(request.body) if isinstance(request, InferBody) else len(request)
