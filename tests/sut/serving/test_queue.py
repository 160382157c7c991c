"""The queue beside a plain model of it: order, sizes, delays, deadlines, bounds, under any sequence of events."""

from __future__ import annotations

from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from drumfire.sut.local.batcher import BatchRule
from drumfire.sut.serving.queue import RequestQueue
from drumfire.sut.serving.request import Request

MAX = 8


def request(samples: int = 1, at: int = 0, **options: Any) -> Request:
    shape = options.pop("shape", (1,))
    return Request((bytes(4 * samples),), samples, (shape,), at, size=4 * samples, **options)


def queue(rule: BatchRule, most_requests: int = 1000, most_bytes: int = 1 << 30) -> RequestQueue:
    return RequestQueue(rule, most_requests=most_requests, most_bytes=most_bytes)


def sized(rule: BatchRule) -> RequestQueue:
    """A queue of requests whose size is padded; all are alike but for their priority."""
    return RequestQueue(rule, lambda one: one.shapes[0][0], most_requests=1000, most_bytes=1 << 30)  # type: ignore[index]


def lengths(batch: list[Request]) -> list[int]:
    return [one.shapes[0][0] for one in batch]  # type: ignore[index]


def put(tried: RequestQueue, *sizes: int, **options: Any) -> list[Request]:
    added = [request(shape=(size,), alike=("all",), **options) for size in sizes]
    assert all(map(tried.add, added))
    return added


def test_a_batch_is_of_the_sizes_next_to_the_oldest() -> None:
    tried = sized(BatchRule(4))
    put(tried, 50, 9, 48, 8, 52, 7, 90, 49)
    assert lengths(tried.take(1).batch) == [48, 49, 50, 52]
    assert lengths(tried.take(1).batch) == [7, 8, 9]  # 90 would be more than a sixth padding
    assert lengths(tried.take(1).batch) == [90]
    assert tried.take(1).batch == []


def test_the_oldest_never_waits_for_others_of_better_sizes() -> None:
    tried = sized(BatchRule(2))
    (odd,) = put(tried, 1000)
    put(tried, *[8] * 20)
    assert tried.take(1).batch == [odd]


def test_urgent_requests_go_first_whatever_their_size() -> None:
    tried = sized(BatchRule(4))
    put(tried, 8, 8, 8)
    put(tried, 9, 100, priority=1)
    assert lengths(tried.take(1).batch) == [9]
    assert lengths(tried.take(1).batch) == [100]
    assert lengths(tried.take(1).batch) == [8, 8, 8]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40), st.sampled_from("aaab"), st.sampled_from([0, 0, 0, 5])),
             min_size=1, max_size=60),
    st.sets(st.integers(0, 59)),
    st.sampled_from([1, 3, 8]),
)  # fmt: skip
def test_batches_of_similar_sizes_lose_none_and_keep_their_bounds(
    asked: list[tuple[int, int, str, int]], cancelled: set[int], most: int
) -> None:
    tried = sized(BatchRule(most))
    added = [request(min(samples, most), shape=(size,), alike=(kind,), deadline_ns=dies)
             for samples, size, kind, dies in asked]  # fmt: skip
    assert all(map(tried.add, added))
    left = [one for number, one in enumerate(added) if number not in cancelled]
    for number in cancelled & set(range(len(added))):
        assert tried.cancel(added[number])
    ended: list[Request] = []
    while True:
        batch, late, _ = tried.take(9)
        ended += late
        assert all(one.deadline_ns for one in late)
        if not batch:
            break
        ended += batch
        oldest = next(one for one in left if not one.deadline_ns)
        assert oldest in batch
        assert not any(one.deadline_ns or one.waits for one in batch)
        assert {one.alike for one in batch} == {oldest.alike}
        assert sum(one.samples for one in batch) <= most
        own = sum(one.samples * one.shapes[0][0] for one in batch)  # type: ignore[index]
        assert sum(one.samples for one in batch) * max(lengths(batch)) <= 1.2 * own
        left = [one for one in left if one not in batch]
    assert sorted(map(id, ended)) == sorted(id(one) for n, one in enumerate(added) if n not in cancelled)
    assert (tried.requests, tried.samples, tried.bytes, tried.deadlines) == (0, 0, 0, 0)


class Plain:
    """What the queue must do, on one sorted list."""

    def __init__(self, rule: BatchRule) -> None:
        self.rule = rule
        self.live: list[Request] = []

    def take(self, now: int) -> tuple[list[Request], int | None]:
        """The batch, and how long to wait for it."""
        alive = [one for one in self.live if not 0 < one.deadline_ns <= now]
        alive.sort(key=lambda one: one.priority)  # stable: as they came within a priority
        if not alive:
            return [], None
        together: list[Request] = []
        total, blocked = 0, False
        for one in alive:
            if one.alike != alive[0].alike or total + one.samples > self.rule.max_size:
                blocked = True
                break
            together.append(one)
            total += one.samples
        full = blocked or total >= min(self.rule.preferred or (self.rule.max_size,))
        left = min(one.received_ns for one in together) + self.rule.max_delay_ns - now
        if self.rule.max_delay_ns and not full and left > 0:
            return [], left
        most = max([size for size in self.rule.preferred if size <= total], default=total)
        batch = together[:1]
        for one in together[1:]:
            if sum(other.samples for other in batch) + one.samples > most:
                break
            batch.append(one)
        return batch, 0


class Add(NamedTuple):
    samples: int
    priority: int
    shape: tuple[int, ...]
    lives: int


class Cancel(NamedTuple):
    which: int


class Take(NamedTuple):
    hurry: bool


class Pass(NamedTuple):
    ns: int


class Sweep(NamedTuple):
    pass


EVENTS = st.one_of(
    st.builds(
        Add,
        st.integers(1, MAX),
        st.sampled_from([8, 8, 8, 1, 16]),
        st.sampled_from([(1,), (1,), (1,), (2,)]),
        st.sampled_from([0, 0, 5, 30]),
    ),
    st.builds(Cancel, st.integers(0, 100)),
    st.builds(Take, st.booleans()),
    st.builds(Pass, st.integers(1, 20)),
    st.just(Sweep()),
)
RULES = st.builds(
    BatchRule, st.just(MAX), st.sampled_from([0, 0, 10]), st.sampled_from([(), (4,), (2, 6), (8,), (1, 3, 5)])
)


@settings(max_examples=300, deadline=None)
@given(RULES, st.lists(EVENTS, max_size=60))
def test_any_sequence_of_events_goes_as_in_the_plain_model(rule: BatchRule, events: list[Any]) -> None:
    tried, plain, now = queue(rule), Plain(rule), 100
    ended: list[Request] = []
    added: list[Request] = []
    for event in events:
        if isinstance(event, Add):
            one = request(event.samples, now, priority=event.priority, shape=event.shape,
                          deadline_ns=now + event.lives if event.lives else 0)  # fmt: skip
            assert tried.add(one)
            plain.live.append(one)
            added.append(one)
        elif isinstance(event, Pass):
            now += event.ns
        elif isinstance(event, Cancel) and added:
            one = added[event.which % len(added)]
            assert tried.cancel(one) is (one in plain.live)
            if one in plain.live:
                plain.live.remove(one)
                ended.append(one)
        elif isinstance(event, Sweep):
            late = tried.late(now)
            assert all(0 < one.deadline_ns <= now for one in late)
            assert len(late) == len([one for one in plain.live if 0 < one.deadline_ns <= now])
            plain.live = [one for one in plain.live if one not in late]
            ended += late
        elif isinstance(event, Take):
            rule_now = BatchRule(rule.max_size, 0, rule.preferred) if event.hurry else rule
            batch, wait = Plain.take(_with(plain, rule_now), now)
            taken = tried.take(now, hurry=event.hurry)
            assert taken.batch == batch
            assert taken.wait_ns == wait
            assert all(0 < one.deadline_ns <= now for one in taken.late)
            assert sum(one.samples for one in batch) <= MAX
            plain.live = [one for one in plain.live if one not in batch and one not in taken.late]
            ended += batch + taken.late
        assert tried.requests == len(plain.live)
        assert tried.samples == sum(one.samples for one in plain.live)
        assert tried.bytes == sum(one.size for one in plain.live)
        assert tried.deadlines == sum(one.deadline_ns > 0 for one in plain.live)
    assert tried.clear() == sorted(plain.live, key=lambda one: one.priority)
    assert len(set(ended)) == len(ended)  # none comes out twice
    assert tried.requests == tried.samples == tried.bytes == tried.deadlines == 0


def _with(plain: Plain, rule: BatchRule) -> Plain:
    other = Plain(rule)
    other.live = plain.live
    return other


def test_it_is_bounded_by_requests() -> None:
    tried = queue(BatchRule(4), most_requests=2)
    one, two, three = request(), request(), request()
    assert tried.add(one)
    assert tried.add(two)
    assert not tried.add(three)
    assert tried.cancel(one)
    assert tried.add(three)
    assert tried.take(0).batch == [two, three]


def test_it_is_bounded_by_bytes_but_takes_a_large_one_alone() -> None:
    tried = queue(BatchRule(64), most_bytes=100)
    assert tried.add(request(50))
    assert not tried.add(request(1))
    tried.take(0)
    assert tried.add(request(20))
    assert tried.add(request(5))
    assert not tried.add(request(1))


def test_what_is_cancelled_leaves_no_trace_however_often() -> None:
    tried = queue(BatchRule(4, 10**9))
    first = request()
    tried.add(first)
    for _ in range(10_000):
        one = request()
        tried.add(one)
        tried.cancel(one)
        assert one.data == ()
    assert sum(map(len, tried._ordered)) < 200
    assert tried.take(0, hurry=True).batch == [first]


@pytest.mark.parametrize("waiting", range(1, 20))
def test_the_rule_takes_the_largest_preferred_size_that_is_filled(waiting: int) -> None:
    rule = BatchRule(16, 10, (4, 8))
    assert rule.patience_ns(waiting) == (10 if waiting < 4 else 0)
    assert rule.size(waiting) == (waiting if waiting < 4 else 4 if waiting < 8 else 8)
    plain = BatchRule(16, 10)
    assert plain.patience_ns(waiting) == (10 if waiting < 16 else 0)
    assert plain.size(waiting) == min(waiting, 16)
