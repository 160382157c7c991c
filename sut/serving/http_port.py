"""HTTP/1.1 connections: pipelined requests, and answers in the same order.

Connects the protocol logic to the service.  Does not depend on how models compute.  ``HttpConnection`` keeps the order
and the limits; an ``Answerer`` provides the answers: ``KServeOverHttp``, or ``Page`` for metrics.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from drumfire.loadgen.loggers import SERVING
from drumfire.sut.kserve.errors import BodyTooLarge, HeadTooLarge, ProtocolError
from drumfire.sut.kserve.grpc.framing import Status
from drumfire.sut.kserve.http1.connection import CONTINUE, HttpRequest, ServerConnection, build_response
from drumfire.sut.kserve.http1.head import RequestHead
from drumfire.sut.kserve.messages import operations
from drumfire.sut.kserve.messages.exchange import Buffer
from drumfire.sut.kserve.messages.http_server import HttpInference, too_much_json
from drumfire.sut.kserve.messages.inference import InferAnswer, InferRequest
from drumfire.sut.kserve.messages.operations import NoRoute
from drumfire.sut.kserve.messages.tensors import TensorError
from drumfire.sut.serving.access import Access
from drumfire.sut.serving.connection import MOST_COSTLY, Connections, PortConnection
from drumfire.sut.serving.refusal import HTTP_STATUS, Refusal
from drumfire.sut.serving.service import OPEN, Accepted, Service, now_ns

_MAX_HEAD = 16 << 10
"""Limit of a request's head in bytes; tokens are its longest legitimate part."""
_MOST_PIPELINED = 64
"""Requests that one connection may have under way."""
_NO_TOKEN = Refusal(Status.UNAUTHENTICATED, "a bearer token is required: Authorization: Bearer TOKEN")


class Slot:
    """One request's place in the order of answers."""

    __slots__ = ("head", "last", "request", "response")

    def __init__(self, last: bool) -> None:
        self.last = last
        """The connection closes after this answer."""
        self.response: Buffer | None = None
        """The whole response, when it is ready."""
        self.request: Accepted | None = None
        """The inference under way for this slot."""
        self.head: InferRequest
        """What the inference asks for, which decides the answer's form."""


class Answerer(Protocol):
    """The content of a port."""

    @property
    def draining(self) -> bool:
        """Answers announce that the connection closes."""

    def begin(self, connection: HttpConnection, slot: Slot, received: HttpRequest) -> int:
        """Give ``slot`` a response, now or later.  Returns what it cost, of the ``MOST_COSTLY`` of a turn; 0 for an
        inference."""

    def refusal(self, head: RequestHead) -> bytes | None:
        """The response that ends a connection whose request need not arrive whole; None if it must."""

    def answer(self, slot: Slot, answer: InferAnswer) -> None:
        """Give ``slot`` the response of a computed request."""

    def refuse(self, slot: Slot, refusal: Refusal) -> None:
        """Give ``slot`` the response of a refused request."""

    def cancel(self, request: Accepted) -> None:
        """The client no longer waits for the request."""


class HttpConnection(PortConnection):
    """A connection whose requests ``answerer`` answers."""

    def __init__(self, connections: Connections, answerer: Answerer) -> None:
        super().__init__(connections)
        self._answerer = answerer
        self._logic = ServerConnection(max_head=_MAX_HEAD, max_body=self._bounds.most_message_bytes)
        self._slots: deque[Slot] = deque()
        self._owes_continue = False
        self._seen: RequestHead | None = None
        """The last head that was looked at before its body arrived."""
        self._holds = False
        """A request that has arrived in part is counted with those of all connections."""
        self._ending = False
        """Bytes that still arrive are ignored."""

    def data_received(self, data: bytes) -> None:
        if self._ending:
            self._behind = False
            return
        self._heard_s = self._connections.now_s
        logic, later = self._logic, self._later
        try:
            requests = logic.receive(data) if data or not later else []
        except ProtocolError as error:
            # Not HTTP/1.1, or over a limit: refused after the answers to earlier requests.
            SERVING.warning("%s breaks HTTP/1.1 or a limit: %s", self.peer, error)
            status = 413 if isinstance(error, BodyTooLarge) else 431 if isinstance(error, HeadTooLarge) else 400
            self._refuse(status, str(error))
            return
        if later:
            requests, self._later = [*later, *requests], ()
        costly = 0
        for number, received in enumerate(requests, 1):
            slot = Slot(not received.head.keeps_alive)
            self._slots.append(slot)
            costly += self._answerer.begin(self, slot, received)
            if costly >= MOST_COSTLY:
                self._later = tuple(requests[number:])
                break
        if logic.partial or self._holds:
            self._holds = logic.partial
            if self._holds:
                if requests:
                    self._begun_s = self._heard_s
                self._look_at_head()
            self._connections.hold(self, logic.buffered, progress=bool(requests), read=len(data))
        self._owes_continue = logic.wants_continue
        self.flush()
        if (logic.was_long or self._later != ()) is not self._behind:
            self._behind = not self._behind
            self.regulate()

    def _look_at_head(self) -> None:
        head = self._logic.head
        if head is not None and head is not self._seen:
            self._seen = head
            response = self._answerer.refusal(head)
            if response is not None:
                self._end_with(response)

    def eof_received(self) -> bool:
        """Keep the connection open for answers that the client may still wait for."""
        try:
            self._logic.eof()
        except ProtocolError:
            self._ending = True
        if self._slots:
            self._slots[-1].last = True
            return True
        return False

    @property
    def half_sent(self) -> bool:
        return self._logic.partial

    def answer(self, slot: Slot, answer: InferAnswer) -> None:
        """See ``service.Connection``."""
        if not self.closed:
            slot.request = None
            self._answerer.answer(slot, answer)

    def refuse(self, slot: Slot, refusal: Refusal) -> None:
        """See ``service.Connection``."""
        if not self.closed:
            slot.request = None
            self._answerer.refuse(slot, refusal)

    def flush(self) -> None:
        slots = self._slots
        if slots and slots[0].response is None:  # later answers must wait for it
            self._under_way = len(slots)
            if self._under_way >= _MOST_PIPELINED:
                self.regulate()
            return
        pieces: list[Buffer] = []
        end = False
        while slots and slots[0].response is not None:
            slot = slots.popleft()
            assert slot.response is not None
            pieces.append(slot.response)
            end = end or slot.last
        if self._owes_continue and not slots and not self._later:
            self._owes_continue = False
            pieces.append(CONTINUE)
        self.write(pieces)
        if end or (self._ending and not slots):
            self._ending = True
            self.end()
            return
        self._under_way = len(slots)
        if self._under_way >= _MOST_PIPELINED or not self._reading:
            self.regulate()

    def regulate(self) -> None:
        under_way = self._under_way
        if under_way >= _MOST_PIPELINED:
            self._under_way = self._bounds.most_under_way
        super().regulate()
        self._under_way = under_way

    @property
    def unsent(self) -> int:
        return 0

    def drain(self) -> None:
        """Let the next answer close the connection; an idle client may still ask whether the server is ready."""
        if self._slots:
            self._slots[-1].last = True

    def retire(self) -> None:
        self.end()

    def too_slow(self) -> None:
        self._refuse(408, f"the request did not arrive within {self._bounds.message_s:g} s")

    def too_much(self, why: str) -> None:
        self._refuse(503, f"{why}: send it again, in large pieces")

    def lost(self) -> None:
        for slot in self._slots:
            if slot.request is not None:
                self._answerer.cancel(slot.request)
        self._slots.clear()
        self._later = ()

    def _refuse(self, status: int, text: str) -> None:
        self._end_with(error_response(status, text, closing=True))
        self.flush()

    def _end_with(self, response: bytes) -> None:
        """Close after this response, which follows those to earlier requests."""
        self._ending = True
        slot = Slot(last=True)
        slot.response = response
        self._slots.append(slot)


class KServeOverHttp:
    """The service over HTTP.  One object serves all connections."""

    def __init__(self, service: Service, access: Access, most_json: int) -> None:
        """``most_json``: bytes of a request's JSON."""
        self._service, self._access, self._most_json = service, access, most_json
        self._inference = HttpInference(most_json)

    @property
    def draining(self) -> bool:
        return self._service.draining

    def begin(self, connection: HttpConnection, slot: Slot, received: HttpRequest) -> int:
        _, target, head, body = received
        closing = slot.last or self._service.draining
        slot.last, cost = closing, 0
        try:
            operation, named = self._admitted(head)
            if head.fields.get("content-encoding", "identity") != "identity":
                slot.response = error_response(415, "compressed requests are not supported", closing=closing)
            elif operation is operations.MODEL_INFER:
                request = self._inference.parse_request(head, body, target)
                slot.head = request
                slot.request = self._service.take(request, connection, slot, now_ns())
            else:
                cost = 1
                slot.response = self._performed(operation, named, body, closing)
        except Refusal as refusal:
            slot.response = refusal_response(refusal, closing)
        except NoRoute as error:
            slot.response = error_response(error.status, str(error), closing=closing)
        except (TensorError, ProtocolError) as error:
            slot.response = error_response(400, str(error), closing=closing)
        return cost

    def refusal(self, head: RequestHead) -> bytes | None:
        try:
            self._admitted(head)
        except Refusal as refusal:
            return refusal_response(refusal, True)
        except NoRoute as error:
            return error_response(error.status, str(error), closing=True)
        if head.inference_header_length is None and (head.content_length or 0) > self._most_json:
            return error_response(413, too_much_json(head.content_length or 0, "bytes", self._most_json), closing=True)
        return None

    def _admitted(self, head: RequestHead) -> operations.Route:
        """What the request asks for.  Raises ``Refusal`` without a token where one is needed, and ``NoRoute``."""
        routed = operations.route(head.method, head.target)
        if routed.operation.method not in OPEN and not self._access.allows(head.fields.get("authorization")):
            raise _NO_TOKEN
        return routed

    def answer(self, slot: Slot, answer: InferAnswer) -> None:
        closing = slot.last = slot.last or self._service.draining
        try:
            slot.response = self._inference.build_answer(answer, slot.head, closing=closing)
        except TensorError as error:
            slot.response = error_response(400, str(error), closing=closing)

    def refuse(self, slot: Slot, refusal: Refusal) -> None:
        closing = slot.last = slot.last or self._service.draining
        slot.response = refusal_response(refusal, closing)

    def cancel(self, request: Accepted) -> None:
        self._service.cancel(request)

    def _performed(self, operation: operations.Operation, named: Any, body: Buffer, closing: bool) -> bytes:
        answer = self._service.perform(operation, operation.arguments_over_http(named, body))
        if operation.status_only:
            is_good = next(iter(answer.values()))
            return response(200 if is_good else HTTP_STATUS[Status.UNAVAILABLE], b"", closing=closing)
        return response(200, operation.to_body(answer), closing=closing)


class Page:
    """One page of text, at ``path``."""

    draining = False

    def __init__(self, path: str, text: Callable[[], str], access: Access) -> None:
        self._path, self._text, self._access = path, text, access

    def begin(self, connection: HttpConnection, slot: Slot, received: HttpRequest) -> int:
        slot.response = self._refused(received.head, slot.last)
        if slot.response is not None:
            return 0
        kind = "text/plain; version=0.0.4; charset=utf-8"
        slot.response = response(200, self._text().encode(), closing=slot.last, kind=kind)
        return MOST_COSTLY

    def refusal(self, head: RequestHead) -> bytes | None:
        return self._refused(head, True) or error_response(413, f"GET {self._path} has no body", closing=True)

    def _refused(self, head: RequestHead, closing: bool) -> bytes | None:
        if head.target.partition("?")[0] != self._path:
            return error_response(404, f"not found; only {self._path} is served here", closing=closing)
        if not self._access.allows(head.fields.get("authorization")):
            return refusal_response(_NO_TOKEN, closing)
        return None if head.method == "GET" else error_response(405, f"GET {self._path}", closing=closing)

    def answer(self, slot: Slot, answer: InferAnswer) -> None:
        raise AssertionError("a page computes nothing")

    def refuse(self, slot: Slot, refusal: Refusal) -> None:
        raise AssertionError("a page computes nothing")

    def cancel(self, request: Accepted) -> None:
        raise AssertionError("a page computes nothing")


def response(status: int, body: bytes, *, closing: bool, kind: str = "application/json") -> bytes:
    """A whole response."""
    fields = [("Content-Type", kind)] if body else []
    if closing:
        fields.append(("Connection", "close"))
    if status == HTTP_STATUS[Status.UNAUTHENTICATED]:
        fields.append(("WWW-Authenticate", "Bearer"))
    return build_response(status, fields, len(body)) + body


def error_response(status: int, text: str, *, closing: bool) -> bytes:
    """A whole response with an error in the protocol's form."""
    return response(status, json.dumps({"error": text}).encode(), closing=closing)


def refusal_response(refusal: Refusal, closing: bool) -> bytes:
    return error_response(refusal.http_status, refusal.text, closing=closing)
