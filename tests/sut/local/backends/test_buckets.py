"""Batches are filled up to sizes that a backend has, and nobody sees with what."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen.system import Batch
from drumfire.sut.local.backends import buckets
from drumfire.sut.local.backends.buckets import Buckets


@given(st.integers(1, 5000), st.booleans())
def test_ladder_holds_every_size_and_wastes_little(largest: int, fine: bool) -> None:
    sizes = buckets.ladder(largest, fine=fine)
    assert sizes[0] == 1
    assert sizes[-1] == largest
    assert list(sizes) == sorted(set(sizes))
    for before, size in pairwise(sizes):
        assert size <= (1.5 if fine and before > 1 else 2) * before


@given(st.integers(1, 5000), st.data())
def test_the_smallest_size_that_fits_is_taken(largest: int, data: st.DataObject) -> None:
    sizes = buckets.ladder(largest, fine=True)
    count = data.draw(st.integers(1, largest))
    size = buckets.fitting(sizes, count)
    assert size >= count
    assert not [other for other in sizes if count <= other < size]


def test_known_ladders() -> None:
    assert buckets.ladder(32, fine=True) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    assert buckets.ladder(20, fine=False) == (1, 2, 4, 8, 16, 20)
    assert buckets.ladder(1, fine=True) == (1,)
    assert buckets.description((1, 2)) == "batches filled up to 1, 2"


@given(st.lists(st.integers(1, 7), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_outputs_are_those_of_the_samples_alone(counts: list[int], seed: int) -> None:
    asked: list[int] = []

    def of(size: int):
        def run(batch: Batch) -> list[np.ndarray]:
            assert {name: one.shape for name, one in batch.items()} == {"rows": (size, 3), "numbers": (size,)}
            asked.append(size)
            return [batch["rows"].sum(axis=1), batch["numbers"] * 2]

        return run

    run = Buckets({size: of(size) for size in (1, 2, 4, 7)}).run
    draws = np.random.default_rng(seed)
    for count in counts:
        rows, numbers = draws.standard_normal((count, 3)).astype(np.float32), draws.integers(0, 9, count)
        sums, doubles = run({"rows": rows, "numbers": numbers})
        np.testing.assert_array_equal(sums, rows.sum(axis=1))
        np.testing.assert_array_equal(doubles, numbers * 2)
        assert doubles.dtype == numbers.dtype
    assert asked == [buckets.fitting((1, 2, 4, 7), count) for count in counts]


def test_a_batch_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="4 at most"):
        Buckets({4: lambda batch: [batch["x"]]}).run({"x": np.zeros((5, 1))})


@pytest.mark.parametrize("output", [np.zeros(()), np.zeros((2, 3))])
def test_outputs_without_a_row_for_each_sample_are_refused(output: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"the model's output 'y' has the shape \[.*\] for 4 samples"):
        Buckets({4: lambda batch: [output]}, ["y"]).run({"x": np.zeros((3, 1))})


def test_a_row_that_is_refused_fills_up_no_other_batch() -> None:
    def looks_up(batch: Batch) -> list[np.ndarray]:
        if (batch["x"] > 9).any():
            raise IndexError("no such row")
        return [batch["x"]]

    run = Buckets({4: looks_up}).run
    with pytest.raises(IndexError):
        run({"x": np.array([[1], [10]])})
    assert run({"x": np.array([[1]])})[0].tolist() == [[1]]
