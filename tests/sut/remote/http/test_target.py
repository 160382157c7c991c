"""Runs of the http target against a peer that misbehaves: what fails, with which reason, and what is tried again."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.record import Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut.remote import system
from drumfire.sut.remote.endpoint import parse_url
from drumfire.sut.remote.http.target import HttpOptions, HttpTarget
from drumfire.sut.remote.system import RemoteSystem
from drumfire.sut.remote.target import Amounts
from tests.support.scripted_peer import Call, Peer, Talk

S = 1_000_000_000
GOOD = b'{"ok": true}'


class Run:
    """One run against ``urls``, without the check and the measurement before it."""

    def __init__(
        self,
        *urls: str,
        count: int = 200,
        scenario: Scenario = Scenario.Server,
        patience_s: float = 20.0,
        **options: Any,
    ) -> None:
        wanted = {"body": '{"x": $input}', "connections": 4} | options
        self.target = HttpTarget("http", "service", HttpOptions(url=urls, **wanted), Amounts())
        settings = TestSettings(scenario=scenario, mode=Mode.PerformanceOnly, min_duration_ms=1, min_query_count=count)
        settings.server_target_qps = settings.offline_expected_qps = 2000.0
        settings.server_target_latency_ns = 600 * S
        library = self.target.library(settings)
        system = self.target.system(settings, library)
        assert isinstance(system, RemoteSystem)
        self.system, self.test = system, Test(system, library, settings, patience_s=patience_s)
        run_on_fast_loop(self.test.run())
        self.faults = self.test.answers.faults
        self.columns = {name: np.array(column[: self.test.answers.issued]) for name, column in
                        self.test.record.columns.items()}  # fmt: skip

    @property
    def good(self) -> int:
        return int((self.columns["status"] == Status.OK).sum())


def answers(answer: Callable[[Talk, Call], object]) -> Callable[[Talk], None]:
    """A script that answers each call by ``answer``."""

    def play(talk: Talk) -> None:
        for call in talk.calls():
            answer(talk, call)

    return play


def say(talk: Any, body: bytes = GOOD, status: int = 200) -> None:
    talk.say(status, body)


def every_third(bad: Callable[[Any, Call], object]) -> Callable[[Talk], None]:
    return answers(lambda talk, call: bad(talk, call) if call.ordinal % 3 == 2 else say(talk))


def test_all_is_well() -> None:
    with Peer("http", answers(lambda talk, call: say(talk))) as peer:
        run = Run(f"{peer.url}/v1/predict?key=1", expect_json=("ok=true",))
    assert run.good == len(run.columns["status"]) == len(peer.calls)
    assert not run.faults.failed
    assert run.system.served == {parse_url(peer.url): run.good}
    assert (run.columns["sent"] >= run.columns["issued"]).all()
    assert (run.columns["completed"] >= run.columns["sent"]).all()
    assert {call.headers[":path"] for call in peer.calls} == {"/v1/predict?key=1"}
    assert {call.headers["host"] for call in peer.calls} == {f"127.0.0.1:{peer.port}"}
    assert {call.headers["content-type"] for call in peer.calls} == {"application/json"}
    data = run.target._data
    sent = Counter(bytes(data.sample(index)[0].data) for index in run.columns["sample_index"].tolist())
    assert Counter(call.contents for call in peer.calls) == sent


def test_fields_method_and_type() -> None:
    with Peer("http", answers(lambda talk, call: say(talk, b"", 204))) as peer:
        headers = ("Host: name.example", "Authorization: Bearer T", "x-tenant: 7")
        run = Run(
            peer.url, header=headers, method="PUT", content_type="text/plain", body="hello", expect_status=204, count=20
        )
    assert run.good == len(peer.calls)
    for call in peer.calls:
        assert call.contents == b"hello"
        got = {name: call.headers[name] for name in (":method", ":path", "host", "authorization", "x-tenant")}
        assert got == {
            ":method": "PUT", ":path": "/", "host": "name.example", "authorization": "Bearer T", "x-tenant": "7",
        }  # fmt: skip
        assert call.headers["content-type"] == "text/plain"


def chunked(talk: Any, call: Call) -> None:
    talk.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n" + GOOD[:4])
    talk.raw(b"\r\n%x;a=b\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (len(GOOD) - 4, GOOD[4:]))


def interim(talk: Any, call: Call) -> None:
    talk.raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
    say(talk)


def piecewise(talk: Any, call: Call) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(GOOD), GOOD):
        talk.raw(bytes((byte,)))


@pytest.mark.parametrize("form", [chunked, interim, piecewise])
def test_replies_of_other_forms_are_as_good(form: Callable[[Any, Call], object]) -> None:
    with Peer("http", every_third(form)) as peer:
        run = Run(peer.url, expect_json=("ok=true",), count=60)
    assert run.good == len(peer.calls) == len(run.columns["status"])
    assert not run.system.happened


def until_the_end(talk: Any, call: Call) -> None:
    talk.raw(b"HTTP/1.1 200 OK\r\n\r\n" + GOOD)
    talk.half_close()


def last(talk: Any, call: Call) -> None:
    talk.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(GOOD), GOOD))
    talk.half_close()


@pytest.mark.parametrize("form", [until_the_end, last])
def test_a_reply_that_ends_the_connection_is_good_and_another_connection_follows(
    form: Callable[[Any, Call], object],
) -> None:
    with Peer("http", every_third(form)) as peer:
        run = Run(peer.url, expect_json=("ok=true",), count=60)
        assert len(peer.talks) > 10
    assert run.good == len(run.columns["status"]) == len(peer.calls)
    assert run.system.happened["connections replaced"] >= len(peer.talks) - 8
    assert set(run.system.happened) == {"connections replaced"}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda talk, call: say(talk, b"no", 503), ["HTTP 503 instead of 200: no"]),
        (lambda talk, call: say(talk, b"no", 404), ["HTTP 404"]),
        (lambda talk, call: say(talk, b'{"ok": false}'), ["has false, expected ok=true"]),
        (lambda talk, call: say(talk, b"<html>"), ["not JSON", "<html>"]),
    ],
)
def test_a_wrong_reply_fails_its_sample_alone(bad: Callable[[Any, Call], object], words: list[str]) -> None:
    with Peer("http", every_third(bad)) as peer:
        run = Run(peer.url, expect_json=("ok=true",))
        assert len(peer.talks) == 4
    wrong = sum(call.ordinal % 3 == 2 for call in peer.calls)
    ((reason, count),) = run.faults.failed.items()
    assert count == wrong == len(run.columns["status"]) - run.good
    for word in words:
        assert word in reason
    assert not run.system.happened


def truncated(talk: Any, call: Call) -> None:
    talk.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + GOOD)
    talk.cut()


def too_long(talk: Any, call: Call) -> None:
    talk.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + GOOD)


def reset(talk: Any, call: Call) -> None:
    talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    talk.cut()


def other_protocol(talk: Any, call: Call) -> None:
    talk.raw(b"+OK ready\n")


def compressed(talk: Any, call: Call) -> None:
    talk.say(200, b"\x1f\x8b", **{"Content-Encoding": "gzip"})


def oversize(talk: Any, call: Call) -> None:
    talk.raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 << 20))


def endless_interim(talk: Any, call: Call) -> None:
    for _ in range(200):
        talk.raw(b"HTTP/1.1 100 Continue\r\n\r\n")


def bad_chunks(talk: Any, call: Call) -> None:
    talk.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (truncated, ["within a reply's body, after 12 bytes of 100"]),
        (too_long, ["belong to no request"]),
        (reset, ["connection"]),
        (other_protocol, ["not HTTP/1.1"]),
        (compressed, ["compressed"]),
        (oversize, ["--max-message-size"]),
        (endless_interim, ["interim"]),
        (bad_chunks, ["chunk"]),
    ],
)
def test_a_broken_reply_fails_its_sample_and_the_connection_is_replaced(
    bad: Callable[[Any, Call], object], words: list[str]
) -> None:
    with Peer("http", every_third(bad)) as peer:
        run = Run(peer.url, max_message_size=1, count=30)
    wrong = sum(call.ordinal % 3 == 2 for call in peer.calls)
    assert run.faults.failed.total() == wrong == len(run.columns["status"]) - run.good
    assert run.good + wrong == len(peer.calls)
    assert run.system.happened["connections replaced"] == wrong
    for word in words:
        assert all(word in reason for reason in run.faults.failed), run.faults.failed


@pytest.mark.parametrize(("bad", "why"), [(oversize, "--max-message-size"), (endless_interim, "interim")])
def test_a_server_that_we_leave_again_and_again_is_told_why(
    bad: Callable[[Any, Call], object], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "RECONNECT_S", 0.2)
    with Peer("http", answers(bad)) as peer:
        run = Run(peer.url, max_message_size=1, count=2000)
    gone = run.test.answers.aborted
    assert gone is not None
    assert gone.startswith(f"no connection to {peer.url.rstrip('/')}")
    assert why in gone


def test_a_reply_that_does_not_come_in_time_fails() -> None:
    def hold(talk: Talk, call: Call) -> None:
        if call.ordinal % 10 != 5:
            say(talk)

    with Peer("http", answers(hold)) as peer:
        run = Run(peer.url, request_timeout=0.2, count=40)
    held = sum(call.ordinal % 10 == 5 for call in peer.calls)
    ((reason, count),) = run.faults.failed.items()
    assert (reason, count) == ("no reply within 0.2 s (--request-timeout)", held)
    assert run.system.happened["connections replaced"] == held


def test_a_server_that_goes_and_comes_back() -> None:
    def go(talk: Talk, call: Call) -> None:
        say(talk)
        if call.ordinal == 20:
            threading.Thread(target=back).start()

    def back() -> None:
        peer.stop()
        revived.append(Peer("http", answers(lambda talk, call: say(talk)), port=peer.port))

    revived: list[Peer] = []
    with Peer("http", answers(go)) as peer:
        run = Run(peer.url, count=600)
    with revived[0] as second:
        assert len(second.calls) > 100
    assert run.good >= len(run.columns["status"]) - 8
    assert run.system.happened["connections replaced"] >= 4


def test_a_server_that_is_gone_ends_the_run() -> None:
    def go(talk: Talk, call: Call) -> None:
        say(talk)
        if call.ordinal == 20:
            threading.Thread(target=peer.stop).start()

    with Peer("http", answers(go)) as peer:
        run = Run(peer.url, count=20_000)
    assert run.test.answers.aborted is not None
    assert "refused" in run.test.answers.aborted
    assert run.good >= 20


def test_least_in_flight_passes_by_a_slow_connection() -> None:
    """With HTTP each connection has one request, so a server that hangs on one holds up only that one."""
    release = threading.Event()

    def play(talk: Talk) -> None:
        for _ in talk.calls():
            if talk.number == 0:
                release.wait(20)
            say(talk)

    with Peer("http", play) as peer:
        threading.Timer(0.5, release.set).start()
        run = Run(peer.url, count=300, balance="least-in-flight")
        of_first = sum(call.talk.number == 0 for call in peer.calls)
    assert run.good == len(run.columns["status"])
    assert of_first < 100


def test_several_servers_share_the_requests_each_with_its_path() -> None:
    with Peer("http", answers(lambda talk, call: say(talk))) as one, Peer("http", answers(lambda t, c: say(t))) as two:
        run = Run(f"{one.url}/a", f"{two.url}/b", connections=2)
    assert run.good == len(one.calls) + len(two.calls)
    assert min(len(one.calls), len(two.calls)) > 50
    assert {call.headers[":path"] for call in one.calls} == {"/a"}
    assert {call.headers[":path"] for call in two.calls} == {"/b"}
    assert run.system.served == {parse_url(one.url): len(one.calls), parse_url(two.url): len(two.calls)}


@pytest.mark.parametrize("scenario", list(Scenario))
def test_concurrency_bounds_the_requests_under_way(scenario: Scenario) -> None:
    lock, now, most = threading.Lock(), Counter[str](), Counter[str]()

    def slowly(talk: Talk, call: Call) -> None:
        with lock:
            now["under way"] += 1
            most["under way"] = max(most["under way"], now["under way"])
        threading.Event().wait(0.002)
        with lock:
            now["under way"] -= 1
        say(talk)

    with Peer("http", answers(slowly)) as peer:
        run = Run(peer.url, scenario=scenario, concurrency=3, connections=None, count=30)
        assert len(peer.talks) == (1 if scenario == Scenario.SingleStream else 3)
    assert run.good == len(run.columns["status"]) == len(peer.calls)
    assert most["under way"] <= 3


def test_answers_are_kept_where_they_are_wanted() -> None:
    with Peer("http", answers(lambda talk, call: say(talk, call.contents))) as peer:
        target = HttpTarget("http", "m", HttpOptions(url=(peer.url,), input=("2/int",)), Amounts(count=5))
        settings = TestSettings(scenario=Scenario.Offline, mode=Mode.AccuracyOnly)
        library = target.library(settings)
        test = Test(target.system(settings, library), library, settings)
        run_on_fast_loop(test.run())
    found = {}
    for kept in test.answers.kept:
        found |= dict(zip(test.record.sample_index[kept.rows].tolist(), kept.responses, strict=True))
    assert found == {index: bytes(target._data.sample(index)[0].data) for index in range(5)}


def test_the_check_before_a_run() -> None:
    with Peer("http", answers(lambda talk, call: say(talk, b"gone", 404))) as peer:
        target = HttpTarget("http", "m", HttpOptions(url=(f"{peer.url}/p",), body="{}"), Amounts())
        with pytest.raises(UserError) as caught:
            target.describe()
    text = f"POST {peer.url}/p with the first sample: HTTP 404 instead of 200: gone; is the path right?"
    assert str(caught.value) == text


def test_it_says_what_several_processes_compare() -> None:
    def digests(**options: Any) -> dict[str, str]:
        given = {"url": ("http://h/p",), "input": ("3",)} | options
        return HttpTarget("http", "m", HttpOptions(**given), Amounts()).digests()

    one = digests()
    assert digests() == one
    for change, name in (
        ({"url": ("http://h/q",)}, "model"),
        ({"method": "PUT"}, "model"),
        ({"expect_json": ("a",)}, "model"),
        ({"input": ("4",)}, "data"),
        ({"body": "[$input]"}, "data"),
    ):
        other = digests(**change)
        assert other[name] != one[name]
        assert {other[key] == one[key] for key in one if key != name} == {True}


def test_it_has_nothing_to_ask_while_a_run_goes() -> None:
    target = HttpTarget("http", "m", HttpOptions(url=("http://h/p",), body="{}"), Amounts())
    assert target.meters() == ()
    assert target.watch() is None
