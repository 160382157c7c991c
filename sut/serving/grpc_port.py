"""gRPC connections: many concurrent calls, unary or streams of requests.

Connects the protocol logic to the service.  Does not depend on how models compute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from drumfire.loadgen.loggers import SERVING
from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.grpc.framing import Status
from drumfire.sut.kserve.grpc.server import Call, CallLimits, Cancelled, ServedCalls
from drumfire.sut.kserve.messages import operations
from drumfire.sut.kserve.messages.grpc_server import GrpcInference, stream_answer, stream_error
from drumfire.sut.kserve.messages.inference import InferAnswer
from drumfire.sut.kserve.messages.tensors import TensorError
from drumfire.sut.serving.access import Access
from drumfire.sut.serving.connection import MOST_COSTLY, Connections, PortConnection
from drumfire.sut.serving.refusal import Refusal
from drumfire.sut.serving.service import OPEN, Accepted, Service, now_ns

_INFER = operations.MODEL_INFER.method


class _Turn:
    """One request's place in the order of a stream's answers."""

    __slots__ = ("id", "message", "request", "stream")

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.id = ""
        """The client's own, for messages of errors."""
        self.message: bytes | None = None
        self.request: Accepted | None = None


class KServeOverGrpc:
    """The parts that the connections of a port share."""

    def __init__(self, service: Service, access: Access, limits: CallLimits, most_typed: int) -> None:
        """``most_typed``: bytes of typed contents that take time to read."""
        self.service, self.access, self.limits = service, access, limits
        self.inference = GrpcInference(most_typed)


class GrpcConnection(PortConnection):
    """The calls of one client."""

    def __init__(self, connections: Connections, shared: KServeOverGrpc) -> None:
        super().__init__(connections)
        self._service, self._access = shared.service, shared.access
        self._inference = shared.inference
        self._logic = ServedCalls(shared.limits, self._admits)
        self._holds = False
        """Requests that have arrived in part are counted with those of all connections."""
        self._calls: dict[int, Accepted] = {}
        """Unary calls under way, by stream."""
        self._streams: dict[int, deque[_Turn]] = {}
        self._ended: set[int] = set()
        """Streams whose client has ended its side."""
        self._turns = 0
        self._draining = self._ending = False

    def data_received(self, data: bytes) -> None:
        if self._ending:
            self._behind = False
            return
        self._heard_s = self._connections.now_s
        logic, later = self._logic, self._later
        try:
            events = logic.receive(data) if data or not later else []
        except ProtocolError as error:
            SERVING.warning("%s breaks gRPC: %s", self.peer, error)
            self._ending = True
            self.flush()
            self.end()
            return
        if later:
            events, self._later = [*later, *events], ()
        costly = 0
        for number, event in enumerate(events, 1):
            if isinstance(event, Call):
                if event.method == _INFER:
                    self._infer(event)
                elif event.streaming:
                    self._infer_in_turn(event)
                else:
                    self._perform(event)
                    costly += 1
                    if costly == MOST_COSTLY:
                        self._later = tuple(events[number:])
                        break
            elif isinstance(event, Cancelled):
                self._cancel(event.stream)
            elif event.stream in self._streams:
                self._ended.add(event.stream)
                self._send_turns(event.stream)
            else:
                logic.finish(event.stream)
        if logic.partial or self._holds:
            self._holds = logic.partial
            self._connections.hold(self, logic.buffered_in, progress=bool(events), read=len(data))
        self.flush()
        if (logic.was_long or self._later != ()) is not self._behind:
            self._behind = not self._behind
            self.regulate()

    def eof_received(self) -> bool:
        return False

    @property
    def half_sent(self) -> bool:
        return self._logic.buffered_in > 0

    def answer(self, ticket: int | _Turn, answer: InferAnswer) -> None:
        """See ``service.Connection``: the ticket is a unary call's stream, or a turn."""
        if isinstance(ticket, _Turn):
            try:
                self._end_turn(ticket, stream_answer(self._inference.build_answer(answer)))
            except TensorError as error:
                self._end_turn(ticket, stream_error(str(error), ticket.id))
        elif self._calls.pop(ticket, None) is not None:
            try:
                message = self._inference.build_answer(answer)
            except TensorError as error:
                self._logic.fail(ticket, Status.INTERNAL, str(error))
            else:
                self._logic.respond(ticket, message)

    def refuse(self, ticket: int | _Turn, refusal: Refusal) -> None:
        """See ``service.Connection``."""
        if isinstance(ticket, _Turn):
            self._end_turn(ticket, stream_error(refusal.text, ticket.id))
        elif self._calls.pop(ticket, None) is not None:
            self._logic.fail(ticket, refusal.status, refusal.text)

    def flush(self) -> None:
        out = self._logic.out
        if out:
            self.write(out)
            out.clear()
        self._under_way = len(self._calls) + self._turns
        if self._under_way >= self._bounds.most_under_way or not self._reading:
            self.regulate()
        if self._draining and self._logic.drained:
            self.end()

    @property
    def unsent(self) -> int:
        return self._logic.buffered_out

    def drain(self) -> None:
        if not self._draining:
            self._draining = True
            self._logic.drain()
            for stream in [stream for stream, turns in self._streams.items() if not turns]:
                self._close_stream(stream)
            self.flush()

    def retire(self) -> None:
        if self._draining:  # the client was asked before and does not react
            self.end()
        else:
            self.drain()

    def too_slow(self) -> None:
        self._ending = True
        self._logic.close()
        self.flush()
        self.end()

    def lost(self) -> None:
        for request in self._calls.values():
            self._service.cancel(request)
        self._calls.clear()
        for stream in list(self._streams):
            self._cancel(stream)

    # Unary calls.

    def _infer(self, call: Call) -> None:
        stream = call.stream
        try:
            request = self._inference.parse_request(call.message)
            self._calls[stream] = self._service.take(request, self, stream, now_ns(), call.timeout_s)
        except Refusal as refusal:
            self._logic.fail(stream, refusal.status, refusal.text)
        except (TensorError, ProtocolError) as error:
            self._logic.fail(stream, Status.INVALID_ARGUMENT, str(error))

    def _perform(self, call: Call) -> None:
        """Answer any operation but inference."""
        operation = operations.BY_METHOD.get(call.method.rpartition("/")[2])
        try:
            if operation is None:
                raise Refusal(Status.UNIMPLEMENTED, f"{call.method[:80]} is not served")
            answer = self._service.perform(operation, operation.arguments(call.message))
            self._logic.respond(call.stream, operation.to_message(answer))
        except Refusal as refusal:
            self._logic.fail(call.stream, refusal.status, refusal.text)
        except ProtocolError as error:
            self._logic.fail(call.stream, Status.INVALID_ARGUMENT, str(error))

    def _admits(self, method: str, metadata: Mapping[str, str]) -> bool:
        return method in OPEN or self._access.allows(metadata.get("authorization"))

    def _cancel(self, stream: int) -> None:
        request = self._calls.pop(stream, None)
        if request is not None:
            self._service.cancel(request)
        self._ended.discard(stream)
        turns = self._streams.pop(stream, None)
        if turns is not None:
            self._turns -= len(turns)
            for turn in turns:
                if turn.request is not None:
                    self._service.cancel(turn.request)

    # Streams of requests, which are answered in order.

    def _infer_in_turn(self, call: Call) -> None:
        stream = call.stream
        turn = _Turn(stream)
        self._streams.setdefault(stream, deque()).append(turn)
        self._turns += 1
        try:
            request = self._inference.parse_request(call.message)
            turn.id = request.id
            turn.request = self._service.take(request, self, turn, now_ns(), call.timeout_s)
        except (Refusal, TensorError, ProtocolError) as error:
            turn.message = stream_error(str(error), turn.id)
            self._send_turns(stream)

    def _end_turn(self, turn: _Turn, message: bytes) -> None:
        if turn.stream in self._streams:
            turn.request, turn.message = None, message
            self._send_turns(turn.stream)

    def _send_turns(self, stream: int) -> None:
        turns = self._streams[stream]
        while turns and turns[0].message is not None:
            message = turns.popleft().message
            assert message is not None
            self._turns -= 1
            self._logic.send(stream, message)
        if not turns and (stream in self._ended or self._draining):
            self._close_stream(stream)

    def _close_stream(self, stream: int) -> None:
        del self._streams[stream]
        if stream in self._ended:
            self._ended.discard(stream)
            self._logic.finish(stream)
        else:
            self._logic.finish(stream, Status.UNAVAILABLE, "the server closes the connection")
