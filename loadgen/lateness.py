"""How late a run's queries left: when they were issued, and when a remote system sent them, beside when they were due.

Pure functions from columns to the result document's figures, and from these to its warnings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from drumfire.loadgen.advice import Bound, Knobs, as_time, on_lateness, on_sending
from drumfire.loadgen.draws import Int64Array
from drumfire.loadgen.record import Column, RowArray
from drumfire.loadgen.results import LATE_NS, Measured, distribution
from drumfire.loadgen.settings import EffectiveSettings, Scenario

_SHARE = 0.5
"""A p99 above this share of the p50 latency gets a warning: the measurement is then largely of this side."""
_LEAST_ISSUED_NS = 10_000
"""Lateness of the issue up to this gets no warning."""
_OFTEN = 0.001
"""The share of requests that may be sent long after their issue without a warning: the machine may stall once."""


def issued(
    settings: EffectiveSettings,
    measured: Measured,
    columns: Mapping[str, Column],
    streams: Sequence[slice | RowArray],
) -> dict[str, Any]:
    """How late the generator issued queries; in a closed loop, the time from an answer to the next issue."""
    late: Int64Array
    if settings.in_turn:
        shape = (-1, measured.samples_per_query)
        late = np.concatenate(
            [pauses(*(columns[name][rows].reshape(shape) for name in ("issued", "completed"))) for rows in streams]
        )
        meaning = "from an answer to the next query's issue"
    else:
        late = measured.issued - measured.scheduled
        meaning = "from a query's scheduled time to its issue"
        if settings.is_closed:
            thought = " and the think time" if settings.think_time_ns else ""
            meaning = f"from the answer that makes a query due{thought} to its issue"
    early = int(np.count_nonzero(late < 0))
    return {"meaning": meaning, **_spread(late), "early": early}


def pauses(issued: Column, completed: Column) -> Int64Array:
    """From each query's answer to the next one's issue, ns, shape (n - 1,); columns have shape (n, samples a query)."""
    found: Int64Array = np.maximum(issued[1:, 0] - completed[:-1].max(axis=1), 0)
    return found


def sent(measured: Measured, sent: Int64Array) -> dict[str, Any]:
    """How late requests were sent, at ``sent``, shape (n,); rows that were never sent (0) are only counted."""
    went = sent > 0
    rows = slice(None) if went.all() else went
    return {
        "meaning": "from a query's scheduled time to its request's sending",
        **_spread((sent - measured.scheduled)[rows]),
        "waited": {
            "meaning": "from a query's issue to its request's sending",
            **_spread((sent - measured.issued)[rows]),
        },
        "unsent": int(went.size - np.count_nonzero(went)),
    }


def warnings(
    settings: EffectiveSettings, document: Mapping[str, Any], knobs: Knobs, measured: Measured
) -> Iterator[str]:
    """What a reader must know before any figure, from a document's figures and the columns behind them.

    In Offline all is due at once, so that requests wait by design.
    """
    if measured.sent is not None and settings.scenario != Scenario.Offline:
        yield from _on_sent(settings, document["sent_lateness_ns"], _half(document), knobs, measured, measured.sent)
    if is_late(document):
        yield (
            f"p99 lateness of {as_time(document['lateness_ns']['p99'])} is above {_SHARE:.0%} of the p50 latency: "
            + on_lateness(settings, knobs)
        )


def is_late(document: Mapping[str, Any]) -> bool:
    """Whether queries were issued so late that the latencies are largely of this side, from a document's figures."""
    return bool(document["lateness_ns"]["p99"] > max(_LEAST_ISSUED_NS, _half(document)))


def _on_sent(
    settings: EffectiveSettings,
    sending: Mapping[str, Any],
    half: float,
    knobs: Knobs,
    measured: Measured,
    sent: Int64Array,
) -> Iterator[str]:
    late_p99, waited = sending["p99"], sending["waited"]
    is_late = late_p99 > max(LATE_NS, half)
    if not is_late and waited["share_over_1ms"] <= _OFTEN:
        return
    long = np.where(sent > 0, sent - measured.issued, 0) > LATE_NS
    for_room = 2 * np.count_nonzero(long & _held(measured, sent, knobs.sending)) >= np.count_nonzero(long)
    room = f"for {knobs.sending.awaited}: {on_sending(settings, knobs)}"
    if is_late:
        by_room = for_room and waited["p99"] > late_p99 / 2
        yield (
            f"requests were sent late, p99 {as_time(late_p99)} after they were due, so these latencies are "
            f"not the server's alone; {f'most waited {room}' if by_room else on_lateness(settings, knobs)}"
        )
    else:
        yield (
            f"{waited['share_over_1ms']:.2%} of the requests waited more than 1 ms, up to {as_time(waited['max'])}, "
            + (room if for_room else f"for this process, not for the server: {on_lateness(settings, knobs)}")
        )


def _held(measured: Measured, sent: Int64Array, bound: Bound) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which rows, shape (n,), waited while as many requests as ``bound`` allows were under way.

    Where only the system knows how many it allows, it is the most that ever were.
    """
    there = measured.answered & (sent > 0)
    begun, ended = sent[there], measured.completed[there]
    if bound.batched:  # each request has its own time of sending, which its rows share
        begun, first, of = np.unique(begun, return_index=True, return_inverse=True)
        last = ended[first]
        np.maximum.at(last, of, ended)
        ended = last
    at = np.concatenate([ended, begun])
    order = np.argsort(at, kind="stable")  # at one moment, what ends makes room for what begins
    at = at[order]
    under_way = np.cumsum(np.where(order < ended.size, -1, 1))
    full = under_way >= (bound.most or under_way.max(initial=0))
    full_before = np.concatenate([[0], np.cumsum(full)])
    # What was under way at the issue is what the last event up to then left.
    since = np.maximum(np.searchsorted(at, measured.issued, "right") - 1, 0)
    until = np.searchsorted(at, sent, "left")
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = full_before[np.maximum(until, since)] > full_before[since]
    return found


def _half(document: Mapping[str, Any]) -> float:
    return _SHARE * float(document["latency_ns"]["p50"])


def _spread(late: Int64Array) -> dict[str, Any]:
    """``late``, ns, shape (n,)."""
    found = distribution(late, (0.5, 0.99))
    return {
        "p50": found.percentiles[0.5],
        "p99": found.percentiles[0.99],
        "max": found.maximum,
        "share_over_1ms": float(np.count_nonzero(late > LATE_NS)) / late.size if late.size else 0.0,
    }
