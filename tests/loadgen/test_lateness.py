"""How late requests were sent, and what a reader is told of it first, from columns made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen import lateness
from drumfire.loadgen.advice import OPTIONS, Bound, Knobs, of_settings
from drumfire.loadgen.results import Measured
from drumfire.loadgen.settings import EffectiveSettings, Scenario, TestSettings, effective

MS = 1_000_000
REMOTE = replace(OPTIONS, sending=Bound("--connections"), workers="--workers")


def settings(scenario: Scenario = Scenario.Server) -> EffectiveSettings:
    return effective(TestSettings(scenario=scenario), 100, 100)


def measured(rows: int = 1000, *, issued_ns: int = 100, waited_ns: int = 1000, waiting: int | None = None) -> Measured:
    """Rows due at 1 ms each and sent ``waited_ns`` after their issue (only the last ``waiting`` of them, if given)."""
    due = np.arange(rows) * MS
    issued = due + issued_ns
    sent = issued + 1000
    sent[rows - (rows if waiting is None else waiting) :] += waited_ns - 1000
    return Measured(due, issued, sent + 100_000, np.ones(rows, np.bool_), 1, sent=sent)


def warned(m: Measured, knobs: Knobs = REMOTE, scenario: Scenario = Scenario.Server) -> list[str]:
    chosen = settings(scenario)
    document = {
        "latency_ns": {"p50": int(np.median(m.completed - m.scheduled))},
        "lateness_ns": lateness.issued(chosen, m, {"issued": m.issued, "completed": m.completed}, [slice(None)]),
    }
    if m.sent is not None:
        document["sent_lateness_ns"] = lateness.sent(m, m.sent)
    return list(lateness.warnings(chosen, document, knobs, m))


def test_sent_is_measured_from_the_schedule_and_its_wait_from_the_issue() -> None:
    m = measured(issued_ns=2 * MS, waited_ns=3 * MS, waiting=100)
    assert m.sent is not None
    found = lateness.sent(m, m.sent)
    assert (found["p50"], found["p99"], found["max"], found["unsent"]) == (2 * MS + 1000, 5 * MS, 5 * MS, 0)
    assert found["share_over_1ms"] == 1.0
    assert (found["waited"]["p50"], found["waited"]["max"], found["waited"]["share_over_1ms"]) == (1000, 3 * MS, 0.1)


def test_rows_that_were_never_sent_are_only_counted() -> None:
    m = measured()
    assert m.sent is not None
    m.sent[-7:] = 0
    found = lateness.sent(m, m.sent)
    assert (found["unsent"], found["max"]) == (7, 1100)
    m.sent[:] = 0
    found = lateness.sent(m, m.sent)
    assert (found["unsent"], found["p99"], found["waited"]["share_over_1ms"]) == (1000, 0, 0.0)


def test_a_system_without_the_column_has_no_such_figure() -> None:
    assert warned(replace(measured(), sent=None)) == []


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"waited_ns": 1000}, ()),
        ({"waited_ns": 3 * MS, "waiting": 5}, ("0.50% of the requests waited more than 1 ms, up to 3 ms",)),
        ({"waited_ns": 300 * MS, "waiting": 15}, ("p99 300 ms after", "most waited for a free connection: raise")),
        ({"waited_ns": 3 * MS, "issued_ns": 2 * MS}, ("p99 5 ms after they were due", "raise --connections")),
        ({"waited_ns": 1000, "issued_ns": 40 * MS}, ("p99 40 ms after they were due", "free a core")),
    ],
)  # fmt: skip
def test_what_is_said_first(made: dict[str, Any], words: tuple[str, ...]) -> None:
    told = warned(measured(**made))
    assert bool(told) == bool(words)
    for word in words:
        assert word in told[0]


def test_one_stall_of_the_machine_is_no_pattern() -> None:
    assert warned(measured(waited_ns=3 * MS, waiting=1)) == []


def test_a_wait_that_is_small_beside_the_latency_is_not_said_first() -> None:
    m = measured(waited_ns=20 * MS)
    slow = replace(m, completed=m.completed + 100 * MS)
    assert warned(slow)[0].startswith("100.00% of the requests waited more than 1 ms, up to 20 ms")


def test_in_offline_requests_wait_by_design() -> None:
    m = measured(waited_ns=300 * MS)
    assert (
        warned(replace(m, scheduled=np.zeros_like(m.scheduled), issued=m.issued * 0), scenario=Scenario.Offline) == []
    )


def test_advice_names_what_its_user_can_set() -> None:
    m = measured(waited_ns=300 * MS)
    assert "lower --qps" in warned(m)[0]
    own = warned(m, of_settings(Scenario.Server))[0]
    assert "server_target_qps" in own
    assert "--" not in own
    assert "--qps" not in warned(m, scenario=Scenario.MultiStream)[0]


def through(places: int, rows: int = 400, *, every_ns: int = MS, takes_ns: int = 20 * MS, batch: int = 1) -> Measured:
    """Rows due at ``every_ns`` each, in requests of ``batch`` rows, of which ``places`` may be under way."""
    due = np.arange(rows) * every_ns
    sent, completed = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    free = [0] * places
    for first in range(0, rows, batch):
        last = min(first + batch, rows)
        place = free.index(min(free))
        sent[first:last] = max(int(due[last - 1]) + 1000, free[place] + 1000)
        completed[first:last] = free[place] = int(sent[first]) + takes_ns
    return Measured(due, due.copy(), completed, np.ones(rows, np.bool_), 1, sent=sent)


def bounded(most: int, *, batched: bool = False) -> Knobs:
    return replace(REMOTE, sending=Bound("--connections", most, batched))


def test_connections_are_to_blame_only_when_all_were_busy() -> None:
    busy = through(16)  # 20 are needed, so that a queue grows
    assert "most waited for a free connection: raise --connections" in warned(busy, bounded(16))[0]
    (free,) = warned(busy, bounded(64))
    assert "connection" not in free
    assert "free a core for the generator" in free


def test_a_stall_of_this_process_is_told_as_one() -> None:
    m = through(64)
    assert m.sent is not None
    m.sent[100:110] += 5 * MS  # the process did nothing for a while
    m.completed[100:110] += 5 * MS
    (told,) = warned(m, bounded(64))
    assert told == (
        "2.50% of the requests waited more than 1 ms, up to 5 ms, for this process, not for the server: free a core "
        "for the generator, or lower --qps, or send from more processes (--workers)"
    )


@pytest.mark.parametrize(("places", "blamed"), [(4, True), (40, False)])
def test_a_request_of_several_samples_takes_one_connection(places: int, blamed: bool) -> None:
    m = through(4, batch=4)  # five requests are needed; 16 rows are under way
    assert ("--connections" in warned(m, bounded(places, batched=True))[0]) == blamed
    assert "--connections" not in warned(m, bounded(10, batched=True))[0]


def test_a_query_of_several_samples_waits_for_no_connection_of_its_own() -> None:
    """Each query of 8 has 8 connections, and some of its requests are sent late."""
    issued = np.repeat(np.arange(50) * 28 * MS, 8)
    sent = issued + np.tile(np.arange(8) * MS, 50) + 1000
    m = Measured(issued, issued, sent + 20 * MS, np.ones(400, np.bool_), 8, sent=sent)
    for most in (8, 64, None):
        (told,) = warned(m, replace(REMOTE, sending=Bound("--connections", most)), Scenario.MultiStream)
        assert "for this process" in told


def test_what_requests_wait_for_is_what_bounds_them() -> None:
    bound = Bound("--concurrency", 1, awaited="the reply to another, as at most 1 request may be under way")
    (told,) = warned(through(1), replace(REMOTE, sending=bound))
    assert "most waited for the reply to another, as at most 1 request may be under way: raise --concurrency" in told


def test_requests_that_failed_hold_nothing() -> None:
    m = through(16)
    m.answered[:] = False
    m.completed[:] = 0
    assert "free a core" in warned(m, bounded(16))[0]
