"""Each image once an epoch, whatever the number of ranks; wide and tall pictures apart."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drumfire.training.sampler import epoch_batches, evaluation_share, shares

pictures = st.lists(st.booleans(), min_size=1, max_size=300).map(np.array)


@given(pictures, st.integers(1, 40), st.integers(0, 2**31), st.integers(1, 50))
def test_an_epoch_shows_each_image_once(tall: np.ndarray, size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(tall, size, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(tall)))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    mixed = [0 < tall[batch].sum() < len(batch) for batch in batches]
    left = sum(int(np.count_nonzero(tall == kind)) % size for kind in (True, False))
    assert sum(mixed) <= -(-left // size), "only what is left of the groups may be mixed"
    assert not any(mixed[: len(batches) - -(-left // size)])


def test_epochs_and_seeds_differ_and_repeat() -> None:
    tall = np.arange(64) % 3 == 0
    one, again, later, other = (
        np.concatenate(epoch_batches(tall, 8, seed, epoch)).tolist() for seed, epoch in ((1, 1), (1, 1), (1, 2), (2, 1))
    )
    assert one == again
    assert one != later
    assert one != other


@given(st.integers(1, 70), st.integers(1, 5), st.integers(1, 9))
def test_ranks_divide_a_batch(images: int, accumulation: int, world: int) -> None:
    batch = np.random.default_rng(images).permutation(images) + 100
    of_ranks = [shares(batch, accumulation, rank, world) for rank in range(world)]
    assert len({len(of_rank) for of_rank in of_ranks}) == 1, "every rank takes part in every collective"
    assert all(len(share.indices) for of_rank in of_ranks for share in of_rank)
    seen = [share.indices for of_rank in of_ranks for share in of_rank if share.counted]
    assert sorted(np.concatenate(seen).tolist()) == sorted(batch.tolist())
    assert abs(sum(share.fraction for share in of_ranks[0]) - 1) < 1e-9


@given(st.integers(0, 200), st.integers(1, 9))
def test_evaluation_leaves_none_out(count: int, world: int) -> None:
    found = [evaluation_share(count, rank, world) for rank in range(world)]
    assert sorted(index for share in found for index in share) == list(range(count))
    assert max(map(len, found)) - min(map(len, found)) <= 1
