"""How late requests were sent, and what a reader is told of it first, from columns made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen import lateness
from drumfire.loadgen.advice import OPTIONS, Knobs, of_settings
from drumfire.loadgen.results import Measured
from drumfire.loadgen.settings import EffectiveSettings, Scenario, TestSettings, effective

MS = 1_000_000
REMOTE = replace(OPTIONS, sending="--connections", workers="--workers")


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
    return list(lateness.warnings(chosen, document, knobs))


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
