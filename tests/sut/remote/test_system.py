"""A remote system under everything that a server may do: rows are lost never, doubled never, failed only with a reason.

Real runs of the load generator.  Most are against a scripted peer, some against the real Triton.  No figure is held
against how fast this machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import threading
import time
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import h2.errors
import h2.exceptions
import h2.settings
import numpy as np
import pytest

from drumfire.loadgen.issue import End
from drumfire.loadgen.record import Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut.data.inputs import Inputs
from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.kserve.http2.frames import LARGEST_STREAM
from drumfire.sut.kserve.messages.exchange import MAX_MESSAGE_BYTES, Channel
from drumfire.sut.kserve.messages.grpc_client import GrpcChannel, GrpcMessages
from drumfire.sut.kserve.messages.http_client import HttpChannel, HttpMessages, model_path
from drumfire.sut.kserve.messages.tensors import ModelInterface, Tensor, TensorSpec
from drumfire.sut.remote import system
from drumfire.sut.remote.endpoint import Endpoint, Security, parse_url
from drumfire.sut.remote.samples import RemoteLibrary
from drumfire.sut.remote.system import RemoteSystem
from drumfire.sut.remote.triton_local.server import LocalTriton
from tests.support.loops import FAST, on, on_both_loops
from tests.support.real_server import RealServer
from tests.support.scripted_peer import HUGE_WINDOW, Call, GrpcTalk, HttpTalk, Peer, Talk, until

over_both = pytest.mark.parametrize("protocol", ["grpc", "http"])
MAX_STREAMS, INITIAL_WINDOW = (
    h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS,
    h2.settings.SettingCodes.INITIAL_WINDOW_SIZE,
)
S = 1_000_000_000  # ns


class Numbers(Inputs):
    """Sample i is ``width`` times the number i, and comes back so."""

    name = description = "numbers"

    def __init__(self, width: int, total_count: int) -> None:
        self.width, self.total_count = width, total_count

    def contents(self, index: int) -> bytes:
        return np.full(self.width, index, "<f4").tobytes()

    def sample(self, index: int) -> tuple[Tensor, ...]:
        return (Tensor((self.width,), self.contents(index)),)

    def expected(self, index: int) -> Mapping[str, Tensor]:
        return {"OUTPUT0": Tensor((self.width,), self.contents(index))}


class Run:
    """One run of the load generator against ``urls``; ``drive`` does it."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        model: str = "echo",
        width: int = 4,
        samples: int = 16,
        scenario: Scenario = Scenario.Server,
        qps: float = 2000.0,
        count: int = 400,
        patience_s: float = 20.0,
        batch_size: int = 1,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        deadline_s: float | None = None,
        security: Security = Security(),  # noqa: B008
        expects: bool = True,
        connections: int | None = None,
        prepare: Callable[[Channel, int], None] | None = None,
        **options: Any,
    ) -> None:
        endpoints = [parse_url(url) for url in urls]
        one = TensorSpec("INPUT0", "FP32", (width,)), TensorSpec("OUTPUT0", "FP32", (width,))
        interface = ModelInterface(model, "", "", one[:1], one[1:], 64)
        is_grpc = endpoints[0].is_grpc
        messages: Any = GrpcMessages(interface) if is_grpc else HttpMessages(interface)
        self.channels: list[Channel] = []

        def new_channel(endpoint: Endpoint) -> Channel:
            channel: Channel
            if is_grpc:
                channel = GrpcChannel(
                    messages, endpoint.authority, tls=endpoint.tls, metadata=security.headers,
                    max_message_bytes=max_message_bytes, deadline_s=deadline_s,
                )  # fmt: skip
            else:
                target = model_path(model, "") + "/infer"
                channel = HttpChannel(messages, target, endpoint.authority, security.headers, max_message_bytes)
            if prepare is not None:
                prepare(channel, len(self.channels))
            self.channels.append(channel)
            return channel

        self.inputs = Numbers(width, samples)
        library = RemoteLibrary(
            self.inputs, interface, messages, total_count=samples, performance_count=samples, batch_size=batch_size
        )
        self.system = RemoteSystem(
            "remote", library, messages, new_channel, endpoints, security, respond=lambda outputs: outputs[0],
            connections=connections or (1 if is_grpc else 8), batch_size=batch_size, deadline_s=deadline_s,
            expects=expects, **options,
        )  # fmt: skip
        settings = TestSettings(scenario=scenario, mode=Mode.PerformanceOnly, min_duration_ms=1, min_query_count=count)
        settings.server_target_qps = settings.offline_expected_qps = qps
        settings.server_target_latency_ns = 600 * S
        settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = S
        self.test = Test(self.system, library, settings, patience_s=patience_s)

    def drive(self, loop: str = FAST) -> Run:
        on(loop, self.test.run())
        return self

    # What came of it.

    @property
    def status(self) -> np.ndarray:
        return np.array(self.test.record.status[: self.test.answers.issued])

    @property
    def failed(self) -> Counter[str]:
        return self.test.answers.faults.failed

    @property
    def reason(self) -> str:
        """The one reason why rows failed."""
        (reason,) = self.failed
        return reason

    @property
    def end(self) -> End:
        return self.test.reports[-1].end

    def column(self, name: str) -> np.ndarray:
        return np.array(self.test.record.columns[name][: self.test.answers.issued])

    def contents(self, *, status: Status | None = None) -> Counter[bytes]:
        """What was asked, as the peer sees it, by rows of this status."""
        index = self.column("sample_index")
        if status is not None:
            index = index[self.status == status]
        return Counter(self.inputs.contents(int(one)) for one in index)

    def is_whole(self) -> None:
        """Every row of the schedule was answered, once, and well."""
        assert not self.failed, self.failed
        assert self.end in (End.ALL_ISSUED, End.MET), self.end
        assert self.test.answers.issued == self.test.record.rows
        assert (self.status == Status.OK).all()
        assert not self.test.answers.faults.refused
        results = self.test.results()
        assert results is not None
        assert not results.spoiled


# All is well.


@on_both_loops
@over_both
@pytest.mark.parametrize("scenario", Scenario, ids=lambda scenario: scenario.name)
def test_every_row_is_answered_once_by_its_own_sample(scenario: Scenario, protocol: str, loop: str) -> None:
    with Peer(protocol) as peer:
        run = Run([peer.url], scenario=scenario, count=100).drive(loop)
        run.is_whole()
        assert peer.answered == run.contents()
        assert run.system.served[parse_url(peer.url)] == len(peer.calls)
        assert (run.column("sent") >= run.column("issued")).all()
        assert (run.column("sent") <= run.column("completed")).all()


@on_both_loops
@over_both
def test_samples_that_share_a_request(protocol: str, loop: str) -> None:
    with Peer(protocol) as peer:
        run = Run([peer.url], scenario=Scenario.Offline, qps=1000, count=103, batch_size=8, concurrency=4).drive(loop)
        run.is_whole()
        sent = Counter(one.contents[at : at + 16] for one in peer.calls for at in range(0, len(one.contents), 16))
        assert sent == run.contents()
        assert sorted(Counter(len(one.contents) // 16 for one in peer.calls).items())[-1][0] == 8


@over_both
def test_compression_is_never_asked_for_and_headers_go_with_every_request(protocol: str) -> None:
    security = Security(headers=(("authorization", "Bearer abc"), ("x-tenant", "seven")))
    with Peer(protocol) as peer:
        Run([peer.url], count=50, security=security).drive().is_whole()
        assert len(peer.calls) >= 50
        asked = "grpc-accept-encoding" if protocol == "grpc" else "accept-encoding"
        for call in peer.calls:
            assert call.headers["authorization"] == "Bearer abc"
            assert call.headers["x-tenant"] == "seven"
            assert call.headers[asked] == "identity"
            assert not {"grpc-encoding", "content-encoding"} & call.headers.keys()
        assert b"gzip" not in peer.heard()
        assert b"deflate" not in peer.heard()


@over_both
def test_wrong_outputs_are_told(protocol: str) -> None:
    def lie_once(talk: Talk) -> None:
        for call in talk.calls():
            talk.answer(call, np.full(4, -1, "<f4").tobytes() if call.ordinal == 20 else None)

    with Peer(protocol, lie_once) as peer:
        run = Run([peer.url]).drive()
        assert run.failed.total() == 1
        assert "output OUTPUT0 has -1.0 at element 0, expected " in run.reason


# Refusals and broken replies: that row fails, the others do not.


@on_both_loops
@over_both
def test_the_servers_error_is_the_rows_reason(protocol: str, loop: str) -> None:
    def refuse_some(talk: Talk) -> None:
        for call in talk.calls():
            if call.ordinal % 10 == 3:
                talk.refuse(call, "unexpected shape for input 'INPUT0'\nfor model 'echo'")
            else:
                talk.answer(call)

    with Peer(protocol, refuse_some) as peer:
        run = Run([peer.url], count=300).drive(loop)
        assert run.failed.total() == sum(call.ordinal % 10 == 3 for call in peer.calls)
        assert "unexpected shape for input 'INPUT0' for model 'echo'" in run.reason
        assert run.contents(status=Status.OK) == peer.answered
        assert not run.system.happened
        assert len(peer.talks) == (1 if protocol == "grpc" else 8)


def grpc_compressed_head(talk: GrpcTalk, call: Call) -> None:
    talk.head(call.stream, ("grpc-encoding", "gzip"))
    talk.data(call.stream, b"\1\0\0\0\3abc")
    talk.trailers(call.stream)


def grpc_compressed_flag(talk: GrpcTalk, call: Call) -> None:
    message = talk.reply(call)
    talk.head(call.stream)
    talk.data(call.stream, b"\1" + len(message).to_bytes(4, "big") + message)
    talk.trailers(call.stream)


def grpc_short_message(talk: GrpcTalk, call: Call) -> None:
    message = talk.reply(call)
    talk.head(call.stream)
    talk.data(call.stream, b"\0" + len(message).to_bytes(4, "big") + message[:-1])
    talk.trailers(call.stream)


def grpc_no_message(talk: GrpcTalk, call: Call) -> None:
    talk.head(call.stream)
    talk.trailers(call.stream)


def grpc_no_trailers(talk: GrpcTalk, call: Call) -> None:
    message = talk.reply(call)
    talk.head(call.stream)
    talk.open.pop(call.stream)
    talk.h2.send_data(call.stream, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    talk.flush()


def grpc_garbled_message(talk: GrpcTalk, call: Call) -> None:
    talk._reply(call.stream, b"\xff" * 40)


def grpc_other_shape(talk: GrpcTalk, call: Call) -> None:
    talk.answer(call, call.contents[:12] + b"1234" * 5)


def grpc_http_error(talk: GrpcTalk, call: Call) -> None:
    talk.open.pop(call.stream)
    talk.h2.send_headers(call.stream, [(":status", "503"), ("content-type", "text/html")])
    talk.h2.send_data(call.stream, b"<h1>no healthy upstream</h1>", end_stream=True)
    talk.flush()


def grpc_reset(talk: GrpcTalk, call: Call) -> None:
    talk.reset(call, h2.errors.ErrorCodes.INTERNAL_ERROR)


def grpc_reset_within_the_reply(talk: GrpcTalk, call: Call) -> None:
    talk.head(call.stream)
    talk.data(call.stream, b"\0\0\0\0\x50abc")
    talk.reset(call, h2.errors.ErrorCodes.CANCEL)


@on_both_loops
@pytest.mark.parametrize(
    ("break_one", "words"),
    [
        (grpc_compressed_head, "gzip although no compression was requested"),
        (grpc_compressed_flag, "a compressed reply although none was requested"),
        (grpc_short_message, "a reply without a whole message"),
        (grpc_no_message, "a reply without a whole message"),
        (grpc_no_trailers, "a reply without trailers"),
        (grpc_garbled_message, ""),
        (grpc_other_shape, "OUTPUT0"),
        (grpc_http_error, "HTTP status 503"),
        (grpc_reset, "the server reset the call: INTERNAL_ERROR"),
        (grpc_reset_within_the_reply, "the server reset the call: CANCEL"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_broken_grpc_reply_costs_its_row_alone(
    break_one: Callable[[GrpcTalk, Call], None], words: str, loop: str
) -> None:
    def play(talk: GrpcTalk) -> None:
        for call in talk.calls():
            if call.ordinal == 20:
                break_one(talk, call)
            else:
                talk.answer(call)

    with Peer("grpc", play) as peer:
        run = Run([peer.url], count=100, qps=1000).drive(loop)
        assert run.failed.total() == 1
        assert words in run.reason
        assert "\n" not in run.reason
        assert (run.status == Status.OK).sum() == len(run.status) - 1
        assert len(peer.talks) == 1
        assert not run.system.happened


# Replies after which a connection is of no use: what is under way on it fails, another takes its place.

HEAD = b"HTTP/1.1 200 OK\r\n"


@on_both_loops
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"\0\0\x04\x06\0\0\0\0\0abcd", "a PING frame must have 8 bytes"),
        (b"\xff\xff\xff\0\0\0\0\0\1", "a frame of 16777215 bytes; at most 1048576 are allowed"),
        (b"\0\0\3\1\4\0\0\0\1\xff\xff\xff", "a header block that cannot be decoded"),
        (b"\0\0\1\0\1\0\0\0\0a", "DATA frame without a stream"),
        (b"\0\0\1\0\1\x7f\0\0\1a", "which was never opened"),
        (b"\0\0\4\3\0\0\0\0\2\0\0\0\0", "which was never opened"),
        (b"\0\0\0\x09\4\0\0\0\1", "a CONTINUATION frame follows no HEADERS"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 100, "the server broke the protocol"),
        (b"\0\1\0\0\0\0\0", "the server closed the connection"),
        (b"", "the server closed the connection"),
    ],
    ids=["ping", "huge_frame", "hpack", "no_stream", "data_unopened", "reset_unopened", "continuation", "other",
         "truncated", "closed"],
)  # fmt: skip
def test_a_broken_grpc_connection_is_replaced(wrong: bytes, words: str, loop: str) -> None:
    lost: list[int] = []

    def play(talk: GrpcTalk) -> None:
        for call in (calls := talk.calls()):
            if call.ordinal == 40:
                time.sleep(0.02)  # so that it comes alone, see test_what_came_before_the_break
                talk.raw(wrong)
                if words == "the server closed the connection":
                    talk.half_close()
                lost.append(call.ordinal)
                deque(calls, 0)  # until we hang up
                return
            talk.answer(call)

    with Peer("grpc", play) as peer:
        run = Run([peer.url], count=200, qps=1000).drive(loop)
        assert lost
        assert all(words in reason for reason in run.failed), run.failed
        assert run.failed
        assert run.end == End.ALL_ISSUED
        assert set(run.status) == {Status.OK, Status.FAILED}
        # What was read together with the broken frame is given up with it.
        assert run.contents(status=Status.OK) <= peer.answered
        assert len(peer.talks) == 2
        assert run.system.happened == {"connections replaced": 1}


@on_both_loops
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"\0\0\0\4\0\0\0\0\0", "not HTTP/1.1"),
        (b"HTTP/1.1 2OO OK\r\n\r\n", "not a status line of HTTP/1.1"),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "content-length is not one number"),
        (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "both Content-Length and"),
        (HEAD + b"X: " + b"a" * 70_000, "a reply's head is over 65536 bytes"),
        (HEAD + b"Content-Length: 3\r\nContent-Encoding: gzip\r\n\r\nabc", "compressed reply although none"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "not a chunk's size"),
        (HEAD + b"Content-Length: 2\r\n\r\n{}extra", "that belong to no request"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "switched protocols"),
        (HEAD + b"Content-Len", "the connection was closed within a reply's head"),
        (HEAD + b"Content-Length: 500\r\n\r\n{", "the connection was closed within a reply's body"),
        (b"", "the connection was closed before the reply arrived"),
    ],
    ids=["other", "status", "two_lengths", "smuggled", "long_head", "gzip", "chunk", "extra", "switched", "cut_head",
         "cut_body", "closed"],
)  # fmt: skip
def test_a_broken_http_connection_is_replaced(wrong: bytes, words: str, loop: str) -> None:
    def play(talk: HttpTalk) -> None:
        for call in (calls := talk.calls()):
            if call.ordinal == 40:
                talk.raw(wrong)
                if "was closed" in words:
                    talk.half_close()
                deque(calls, 0)
                return
            talk.answer(call)

    with Peer("http", play) as peer:
        run = Run([peer.url], count=200, qps=1000).drive(loop)
        assert run.failed.total() == 1
        assert words in run.reason
        assert run.contents(status=Status.OK) == peer.answered
        assert run.system.happened == {"connections replaced": 1}


@on_both_loops
@pytest.mark.parametrize("wrong", [b"\0\0\4\3\0\0\0\0\2\0\0\0\0", b"\0\0\4\6\0\0\0\0\0abcd"], ids=["reset", "ping"])
def test_what_came_before_the_break_is_not_lost(wrong: bytes, loop: str) -> None:
    """A good reply and nonsense in one piece: the row of the reply is answered or failed, not forgotten."""

    def play(talk: GrpcTalk) -> None:
        for call in (calls := talk.calls()):
            if call.ordinal != 40:
                talk.answer(call)
                continue
            time.sleep(0.02)
            message = talk.reply(call)
            talk.h2.send_headers(call.stream, [(":status", "200"), ("content-type", "application/grpc")])
            talk.h2.send_data(call.stream, b"\0" + len(message).to_bytes(4, "big") + message)
            talk.h2.send_headers(call.stream, [("grpc-status", "0")], end_stream=True)
            talk.socket.sendall(talk.h2.data_to_send() + wrong)
            deque(calls, 0)
            return

    with Peer("grpc", play) as peer:
        run = Run([peer.url], count=100, qps=1000, patience_s=1).drive(loop)
        assert run.end == End.ALL_ISSUED
        assert not run.test.answers.faults.unanswered
        assert not run.test.answers.faults.refused


@on_both_loops
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_reply_above_the_limit_names_the_option(protocol: str, loop: str) -> None:
    def boast(talk: Talk) -> None:
        for call in talk.calls():
            if call.ordinal != 40:
                talk.answer(call)
                continue
            time.sleep(0.02)
            if isinstance(talk, GrpcTalk):
                talk.head(call.stream)
                talk.data(call.stream, b"\0\xff\xff\xff\xff" + b"x" * 100)
            else:
                talk.raw(HEAD + b"Content-Length: 4294967295\r\n\r\n")

    with Peer(protocol, boast) as peer:
        run = Run([peer.url], count=200, qps=1000).drive(loop)
        assert "--max-message-size" in run.reason
        assert "4294967" in run.reason
        assert run.contents(status=Status.OK) <= peer.answered


# Replies that do not come.


@on_both_loops
def test_a_call_without_a_reply_is_cancelled_and_the_connection_goes_on(loop: str) -> None:
    def ignore_some(talk: GrpcTalk) -> None:
        for call in talk.calls():
            if call.ordinal % 50 != 7:
                talk.answer(call)

    with Peer("grpc", ignore_some) as peer:
        run = Run([peer.url], count=200, qps=1000, deadline_s=0.3).drive(loop)
        ignored = [call.stream for call in peer.calls if call.ordinal % 50 == 7]
        assert run.reason == "no reply within 0.3 s (--request-timeout)"
        assert run.failed.total() == len(ignored) == (run.status == Status.FAILED).sum()
        waited = (run.column("completed") - run.column("sent"))[run.status == Status.FAILED]
        assert (waited >= 0.3 * S).all()
        assert len(peer.talks) == 1
        until(lambda: peer.talks[0].said_goodbye, "the end")
        assert peer.talks[0].cancelled == ignored
        assert all(call.headers["grpc-timeout"] == "300m" for call in peer.calls)


@on_both_loops
def test_an_http_connection_without_a_reply_is_replaced(loop: str) -> None:
    def ignore_some(talk: HttpTalk) -> None:
        for call in talk.calls():
            if call.ordinal % 50 != 7:
                talk.answer(call)

    with Peer("http", ignore_some) as peer:
        run = Run([peer.url], count=200, qps=1000, deadline_s=0.3).drive(loop)
        assert run.reason == "no reply within 0.3 s (--request-timeout)"
        ignored = sum(call.ordinal % 50 == 7 for call in peer.calls)
        assert run.failed.total() == ignored >= 4
        assert run.contents(status=Status.OK) == peer.answered
        assert run.system.happened["connections replaced"] == ignored


@on_both_loops
@over_both
def test_without_a_deadline_the_patience_ends_the_run(protocol: str, loop: str) -> None:
    def ignore_one(talk: Talk) -> None:
        for call in talk.calls():
            if call.ordinal != 30:
                talk.answer(call)

    with Peer(protocol, ignore_one) as peer:
        run = Run([peer.url], count=100, qps=1000, patience_s=0.4).drive(loop)
        assert run.end == End.NO_ANSWER
        assert run.test.answers.faults.unanswered == 1
        assert Counter(run.status) == {Status.OK: len(run.status) - 1, Status.UNANSWERED: 1}
        assert not run.test.answers.faults.refused
        assert not run.failed


# Connections that end in order, and limits that move.


@on_both_loops
@pytest.mark.parametrize("warned", [False, True], ids=["at_once", "warned_first"])
def test_goaway_loses_and_doubles_nothing(warned: bool, loop: str) -> None:
    """Calls above the last stream that the server names are sent again, those below it are answered."""
    unseen: list[Call] = []

    def leave(talk: GrpcTalk) -> None:
        held: list[Call] = []
        calls = talk.calls()
        for call in calls:
            if talk.number >= 2:
                talk.answer(call)
                continue
            held.append(call)
            if len(held) == 100:  # those above the 60th count as never seen
                break
        else:
            return
        if warned:
            talk.goaway(2**31 - 1)
            time.sleep(0.02)
        talk.goaway(held[59].stream, text=b"graceful stop")
        unseen.extend(held[60:])
        for one in held[:60]:
            talk.answer(one)
            time.sleep(0.001)
        unseen.extend(calls)
        assert talk.said_goodbye

    with Peer("grpc", leave) as peer:
        run = Run([peer.url], qps=2000, count=600).drive(loop)
        run.is_whole()
        assert len(unseen) >= 80
        assert peer.answered == run.contents()
        assert len(peer.calls) == len(run.status) + len(unseen)
        assert run.system.happened["requests sent again"] == len(unseen)
        assert run.system.happened["connections replaced"] == 2


@on_both_loops
@pytest.mark.parametrize("batch_size", [1, 4])
def test_refused_streams_are_sent_again(batch_size: int, loop: str) -> None:
    def refuse_some(talk: GrpcTalk) -> None:
        for call in talk.calls():
            if call.ordinal % 5 == 2:
                talk.reset(call, h2.errors.ErrorCodes.REFUSED_STREAM)
            else:
                talk.answer(call)

    with Peer("grpc", refuse_some) as peer:
        run = Run([peer.url], count=300, batch_size=batch_size).drive(loop)
        run.is_whole()
        answered = Counter[bytes]()
        for contents, times in peer.answered.items():
            for at in range(0, len(contents), 16):
                answered[contents[at : at + 16]] += times
        assert answered == run.contents()
        assert len(peer.talks) == 1
        assert run.system.happened == {"requests sent again": sum(call.ordinal % 5 == 2 for call in peer.calls)}


def test_a_server_that_refuses_everything_ends_by_patience() -> None:
    def refuse(talk: GrpcTalk) -> None:
        for call in talk.calls():
            time.sleep(0.001)
            with contextlib.suppress(h2.exceptions.ProtocolError):  # the client has hung up meanwhile
                talk.reset(call, h2.errors.ErrorCodes.REFUSED_STREAM)

    with Peer("grpc", refuse) as peer:
        run = Run([peer.url], count=20, qps=1000, patience_s=0.4).drive()
        assert run.end == End.NO_ANSWER
        assert run.test.answers.faults.unanswered == len(run.status)


@on_both_loops
def test_the_limit_of_streams_is_kept_as_it_moves(loop: str) -> None:
    """100, then 1, then none at all for a while, then 10: never more at a time, and no row is lost.

    h2 itself breaks off when a stream too many is opened after the new limit was acknowledged.
    """
    most: dict[int, int] = {}

    def squeeze(talk: GrpcTalk) -> None:
        limit, old = 100, set[int]()
        for answered, call in enumerate(calls := talk.listen(idle=0.1)):
            if call is None:  # all that is allowed has been answered
                if limit == 0:
                    limit = 10
                    talk.settings({MAX_STREAMS: limit})
                continue
            talk.answer(call)
            if (limit == 100 and answered >= 100) or (limit == 1 and answered >= 200):
                limit = 1 if limit == 100 else 0
                talk.settings({MAX_STREAMS: limit})
                while talk.h2.local_settings.max_concurrent_streams != limit:
                    one = next(calls)
                    if one is not None:
                        talk.answer(one)
                talk.most_open, old = 0, set(talk.open)
            if old and not old & talk.open.keys():  # those from before the new limit are gone
                talk.most_open, old = len(talk.open), set()
            most[limit] = talk.most_open

    with Peer("grpc", squeeze, settings={MAX_STREAMS: 100}) as peer:
        run = Run([peer.url], count=500, qps=4000).drive(loop)
        run.is_whole()
        assert peer.answered == run.contents()
    assert most[100] > 1
    assert most[1] == 1
    assert most[10] <= 10


@on_both_loops
def test_stream_numbers_run_out(loop: str) -> None:
    def age(channel: Channel, ordinal: int) -> None:
        if ordinal == 0:
            channel._connection.next_stream = LARGEST_STREAM - 2 * 99

    with Peer("grpc") as peer:
        run = Run([peer.url], count=300, prepare=age).drive(loop)
        run.is_whole()
        assert peer.answered == run.contents()
        assert Counter(call.talk.number for call in peer.calls)[0] == 100
        assert max(call.stream for call in peer.calls) == LARGEST_STREAM
        assert run.system.happened == {"connections replaced": 1}


@on_both_loops
@pytest.mark.parametrize("told", [True, False], ids=["connection_close", "silently"])
def test_http_connections_that_the_server_ends_between_requests(told: bool, loop: str) -> None:
    def leave(talk: HttpTalk) -> None:
        for count, call in enumerate(talk.calls(), 1):
            if told:
                talk.answer(call, **({"Connection": "close"} if count == 5 else {}))
            else:
                talk.answer(call)
            if count == 5:
                return

    with Peer("http", leave) as peer:
        # Far apart, so that a request does not cross the end of its connection.
        run = Run([peer.url], scenario=Scenario.Server, count=60, qps=60 if not told else 1000, connections=4)
        run.drive(loop).is_whole()
        assert peer.answered == run.contents()
        assert run.system.happened["connections replaced"] >= 9
        assert set(run.system.happened) == {"connections replaced"}


@on_both_loops
@over_both
def test_a_server_that_half_closes_is_left(protocol: str, loop: str) -> None:
    """It will answer nothing more: what is under way fails, and the rest goes over another connection."""

    def half(talk: Talk) -> None:
        for call in (calls := talk.calls()):
            if call.ordinal == 30:
                talk.half_close()
                deque(calls, 0)
                return
            talk.answer(call)

    with Peer(protocol, half) as peer:
        run = Run([peer.url], count=200, qps=1000).drive(loop)
        assert run.failed
        assert all("closed" in reason for reason in run.failed)
        assert run.end == End.ALL_ISSUED
        assert run.contents(status=Status.OK) == peer.answered


@on_both_loops
@over_both
@pytest.mark.parametrize("scenario", [Scenario.Server, Scenario.SingleStream, Scenario.Offline], ids=lambda s: s.name)
def test_a_server_that_dies_ends_the_run(
    scenario: Scenario, protocol: str, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "RECONNECT_S", 0.3)

    def die(talk: Talk) -> None:
        for call in talk.calls():
            if call.ordinal == 50:
                talk.peer.stop()
            talk.answer(call)

    with Peer(protocol, die) as peer:
        run = Run([peer.url], count=100_000, qps=500, scenario=scenario, patience_s=60, concurrency=16).drive(loop)
    assert run.end == End.SYSTEM_GONE
    assert run.test.answers.aborted is not None
    assert f"no connection to {peer.url}: connection refused" in run.test.answers.aborted
    assert (run.status == Status.OK).sum() >= 40
    # Those of the moment at which the run was given up may be neither.
    assert {Status.OK, Status.FAILED} <= set(run.status) <= {Status.OK, Status.FAILED, Status.UNANSWERED}
    assert run.contents(status=Status.OK) <= peer.answered
    if scenario != Scenario.Offline:
        assert len(run.status) < 50_000
    assert any("is gone" in line for line in run.test.spoiled())


@on_both_loops
@over_both
@pytest.mark.parametrize("when", ["at_once", "when_asked"])
def test_a_proxy_whose_server_is_gone_ends_the_run(
    when: str, protocol: str, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections and drops them: neither a loop that connects as fast as it can, nor a run to the end."""
    monkeypatch.setattr(system, "RECONNECT_S", 0.5)

    def drop(talk: Talk) -> None:
        for call in talk.calls():
            if len(talk.peer.calls) > 50:
                gone.set()
                return
            talk.answer(call)

    def play(talk: Talk) -> None:
        if not gone.is_set() or when == "when_asked":
            drop(talk)

    gone = threading.Event()
    with Peer(protocol, play) as peer:
        run = Run([peer.url], count=4000, qps=500, patience_s=60).drive(loop)
        assert run.end == End.SYSTEM_GONE
        assert len(run.status) < 2000
        assert len(peer.talks) < 300


@over_both
def test_a_server_that_is_not_there(protocol: str) -> None:
    with Peer(protocol, listening=False) as peer:
        with pytest.raises(ServerError, match="connection refused; is the server running there") as caught:
            Run([peer.url]).drive()
        assert "\n" not in str(caught.value)


# Several servers, several connections.


@on_both_loops
@pytest.mark.parametrize("concurrency", [1, 3])
def test_few_at_a_time_are_shared_as_well(concurrency: int, loop: str) -> None:
    with Peer("grpc") as one, Peer("grpc") as two:
        urls = [one.url, two.url]
        run = Run(urls, scenario=Scenario.Offline, count=300, qps=1000, concurrency=concurrency).drive(loop)
        run.is_whole()
        assert min(len(one.calls), len(two.calls)) > 100


@on_both_loops
@over_both
@pytest.mark.parametrize("scenario", [Scenario.Server, Scenario.Offline], ids=lambda s: s.name)
def test_two_servers_share_evenly(scenario: Scenario, protocol: str, loop: str) -> None:
    with Peer(protocol) as one, Peer(protocol) as two:
        run = Run([one.url, two.url], scenario=scenario, count=400, qps=1000, connections=2, concurrency=64).drive(loop)
        run.is_whole()
        assert one.answered + two.answered == run.contents()
        assert len(one.talks) == len(two.talks) == 2
        served = [run.system.served[parse_url(peer.url)] for peer in (one, two)]
        assert served == [len(one.calls), len(two.calls)]
        if protocol == "grpc":
            assert abs(served[0] - served[1]) <= 0.1 * len(run.status)


def test_offline_is_shared_out_from_the_first_burst() -> None:
    """Each of three servers gets its part of what may be under way at first, not one all of it."""
    first: list[int] = []
    together = threading.Barrier(3, timeout=20)

    def play(talk: GrpcTalk) -> None:
        held: list[Call] = []
        calls = talk.listen(idle=0.01)
        while sum(len(peer.calls) for peer in peers) < 60:
            one = next(calls)
            if one is not None:
                held.append(one)
        held += itertools.takewhile(lambda one: one is not None, calls)
        first.append(len(held))
        together.wait()
        for one in held:
            talk.answer(one)
        for one in calls:
            if one is not None:
                talk.answer(one)

    peers: list[Peer] = []
    with Peer("grpc", play) as one, Peer("grpc", play) as two, Peer("grpc", play) as three:
        peers += one, two, three
        urls = [peer.url for peer in peers]
        Run(urls, scenario=Scenario.Offline, count=300, concurrency=60).drive().is_whole()
        assert first == [20, 20, 20]


@over_both
def test_least_in_flight_spares_the_slow_server(protocol: str) -> None:
    def slowly(talk: Talk) -> None:
        for call in talk.calls():
            time.sleep(0.02)
            talk.answer(call)

    with Peer(protocol, slowly) as slow, Peer(protocol) as quick:
        run = Run([slow.url, quick.url], count=400, qps=1000, least_in_flight=True).drive()
        run.is_whole()
        assert len(slow.calls) < len(quick.calls) / 2
        assert slow.answered + quick.answered == run.contents()


@on_both_loops
@over_both
def test_one_of_two_servers_dies_and_the_other_goes_on(
    protocol: str, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "RECONNECT_S", 0.2)

    def die(talk: Talk) -> None:
        for call in talk.calls():
            if call.ordinal == 49:
                talk.peer.stop()
                return
            talk.answer(call)

    with Peer(protocol, die) as mortal, Peer(protocol) as other:
        run = Run([mortal.url, other.url], count=600, qps=1000).drive(loop)
        assert run.end == End.ALL_ISSUED
        # What was under way: more where others kept this process from sending in time, but far from all that was its.
        assert 1 <= run.failed.total() <= 150
        assert run.contents(status=Status.OK) <= mortal.answered + other.answered
        assert len(other.calls) >= 500
        given_up = [text for text in run.system.happened if text.startswith("given up after")]
        assert given_up
        assert all(mortal.url in text for text in given_up)


# Much, and slowly.


class _Throttle:
    """A peer reads nothing until it is let."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def __call__(self, talk: Talk) -> None:
        self.released.wait(30)
        for call in talk.calls():
            talk.answer(call)


@on_both_loops
@over_both
def test_a_peer_that_stops_reading_holds_the_sending_and_no_memory(protocol: str, loop: str) -> None:
    """602 kB a request, 100 in all: the windows are wide open, so it is the socket that is full."""
    throttle, width = _Throttle(), 150_528
    peak = 0

    async def watch(run: Run) -> None:
        nonlocal peak
        task = asyncio.ensure_future(run.test.run())
        while run.test.answers.issued < run.test.record.rows:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # what fits into the sockets is sent
        links = run.system._links
        if protocol == "grpc":
            (link,) = links
            assert link.wire is not None
            assert link.wire.full
            assert link.wire._transport.get_write_buffer_size() < 3 * 4 * width
        assert run.test.answers.answered == 0
        assert run.system._next_row < run.system._end_row  # the rest waits as two integers
        peak = tracemalloc.get_traced_memory()[1]
        throttle.released.set()
        await task

    with Peer(protocol, throttle, width=width, settings={INITIAL_WINDOW: HUGE_WINDOW}, receive_buffer=65_536) as peer:
        run = Run(
            [peer.url], samples=2, width=width, count=100, qps=1000, connections=None if protocol == "grpc" else 4
        )
        tracemalloc.start()
        try:
            on(loop, watch(run))
        finally:
            throttle.released.set()
            tracemalloc.stop()
        run.is_whole()
        assert peer.answered == run.contents()
    assert peak < 20 << 20, f"{peak >> 20} MiB held of {100 * 4 * width >> 20}"


@on_both_loops
@over_both
def test_large_bodies_in_pieces_are_exact(protocol: str, loop: str) -> None:
    """16 MB both ways through small socket buffers and HTTP/2's first windows."""
    width = 4_000_000
    with Peer(protocol, width=width, receive_buffer=4096) as peer:
        run = Run([peer.url], samples=2, width=width, count=4, qps=1000, connections=2).drive(loop)
        run.is_whole()  # the outputs were compared as well
        assert peer.answered == run.contents()


@on_both_loops
@over_both
def test_beyond_the_capacity_latency_grows_from_the_schedule_and_no_row_is_dropped(protocol: str, loop: str) -> None:
    def one_at_a_time(talk: Talk) -> None:
        for call in talk.calls():
            with turn:
                time.sleep(0.001)
                talk.answer(call)

    turn = threading.Lock()
    with Peer(protocol, one_at_a_time) as peer:
        run = Run([peer.url], count=1000, qps=10_000).drive(loop)
        run.is_whole()
        assert len(run.status) == len(peer.calls)
        latency = run.column("completed") - run.column("scheduled")
        quarter = len(latency) // 4
        assert np.median(latency[-quarter:]) > 2 * np.median(latency[:quarter])
        # The rate asked is that of the schedule, not of the server.
        assert np.median(run.column("issued") - run.column("scheduled")) < np.median(latency) / 10


# The real Triton.


def statistics(server: RealServer, model: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(server.http, timeout=10)
    connection.request("GET", f"/v2/models/{model}/stats", headers={"Connection": "close"})
    (found,) = json.loads(connection.getresponse().read())["model_stats"]
    connection.close()
    return dict(found)


@on_both_loops
@over_both
@pytest.mark.parametrize("scenario", Scenario, ids=lambda scenario: scenario.name)
def test_the_server_counts_what_we_count(scenario: Scenario, protocol: str, loop: str, server: RealServer) -> None:
    url = f"{protocol}://{getattr(server, protocol)}"
    before = statistics(server, "identity")["inference_stats"]["success"]["count"]
    run = Run([url], model="identity", scenario=scenario, count=200, qps=1000, concurrency=16).drive(loop)
    run.is_whole()
    after = statistics(server, "identity")["inference_stats"]["success"]["count"]
    assert after - before == len(run.status) == run.column("completed").size


@pytest.mark.parametrize(("protocol", "count"), [("grpc", 100_000), ("http", 20_000)])
def test_the_server_counts_what_we_count_in_a_long_run(protocol: str, count: int, triton: LocalTriton) -> None:
    """From the server's cache, far faster than its Python: answers by the thousand in a turn of the loop."""
    url = f"{protocol}://{getattr(triton, protocol)}"
    before = statistics(triton, "identity_cached")["inference_stats"]
    options: dict[str, Any] = {"scenario": Scenario.Offline, "concurrency": 64, "expects": False}
    run = Run([url], model="identity_cached", width=16, count=count, qps=1, **options).drive()
    run.is_whole()
    after = statistics(triton, "identity_cached")["inference_stats"]
    assert after["success"]["count"] - before["success"]["count"] == len(run.status) >= count
    assert after["cache_hit"]["count"] > before["cache_hit"]["count"]
    assert after["fail"]["count"] == before["fail"]["count"]


@over_both
def test_what_the_real_server_refuses_are_rows_with_its_own_words(protocol: str, triton: LocalTriton) -> None:
    url = f"{protocol}://{getattr(triton, protocol)}"
    for model, width, words in (("no_such_model", 4, "no_such_model"), ("digits", 64, "for model 'digits'")):
        run = Run([url], model=model, width=width, count=50, qps=1000).drive()
        assert run.failed.total() == len(run.status) == run.test.record.rows
        assert words in run.reason
        assert run.end == End.ALL_ISSUED
