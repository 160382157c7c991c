"""Bare loops: their batches, their rate, and their processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest

from drumfire.bench.peers.bare_loop import Loops, calls_per_s, full_batches
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.data.ragged import OpenSizes, Ragged, RaggedLibrary


def test_calls_go_on_for_the_asked_time_and_what_they_began_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    now, done = 0.0, []

    def call(number: int) -> None:
        nonlocal now
        now += 0.25
        done.append(number)

    def wait() -> None:
        nonlocal now
        now += 0.5

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert calls_per_s(call, 1.75, given=[(1,), (2,)], wait=wait) == 4 / 2
    assert done == [1, 2, 1, 2]
    assert calls_per_s(partial(call, 3), 0.75) == 4


def test_batches_are_full_and_no_part_of_the_library() -> None:
    samples = np.arange(22.0).reshape(11, 2)
    batches = full_batches(ArrayLibrary("x", lambda indices: {"x": samples[indices]}, 11, 9), 4)
    assert [batch["x"].tolist() for batch in batches] == [samples[:4].tolist(), samples[4:8].tolist()]
    assert all(batch["x"].base is None for batch in batches)


def test_samples_of_near_sizes_share_a_batch() -> None:
    texts = [np.full(size, size) for size in (5, 1, 4, 1)]
    library = RaggedLibrary("x", lambda indices: {"x": Ragged.of([texts[i] for i in indices])}, 4, 4)
    library.pad({"x": OpenSizes((0,), 0)})
    assert [batch["x"].tolist() for batch in full_batches(library, 2)] == [[[1], [1]], [[4, 4, 4, 4, 0], [5] * 5]]


class Fixed:
    """A loop of a known rate."""

    def __init__(self, rate: float) -> None:
        if rate < 0:
            raise ValueError("below zero")
        self._rate = rate
        self.facts: Mapping[str, Any] = {"rate": rate}

    def rate(self, seconds: float, *which: Any) -> float:
        return self._rate if which else 0.0


@pytest.mark.slow
def test_the_rates_of_loops_add_up_and_what_one_raises_comes_out() -> None:
    with closing(Loops(partial(Fixed, 3.5), processes=2)) as loops:
        assert loops.facts == {"rate": 3.5}
        assert (loops.rate(0.0), loops.rate(0.0, "alone")) == (0.0, 7.0)
    with pytest.raises(ValueError, match="below zero"):
        Loops(partial(Fixed, -1.0))
