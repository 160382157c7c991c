"""A batch is the data set's rows, whatever was loaded in whatever order, and a view where it can be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.sut.data.library import ArrayLibrary, NotLoadedError

TOTAL = 12
SAMPLES = np.random.default_rng(1).random((TOTAL, 2, 3), np.float32)

some_indices = st.lists(st.integers(0, TOTAL - 1), min_size=1, max_size=30).map(np.array)


def library() -> ArrayLibrary:
    return ArrayLibrary("test", SAMPLES.__getitem__, TOTAL, TOTAL)


@given(loaded=some_indices, data=st.data(), dtype=st.sampled_from([np.int32, np.int64, np.uint64]))
def test_batch_is_the_rows_asked_for(loaded: np.ndarray, data: st.DataObject, dtype: type) -> None:
    made = library()
    made.load(loaded.astype(dtype))
    asked: np.ndarray = loaded[data.draw(st.lists(st.integers(0, loaded.size - 1), min_size=1, max_size=40))].astype(
        dtype
    )
    batch = made.batch(asked)
    assert np.array_equal(batch, SAMPLES[asked])
    assert batch.flags.c_contiguous


@given(loaded=st.permutations(range(TOTAL)).map(np.array), padding=st.integers(0, 5), data=st.data())
def test_samples_in_load_order_are_not_copied(loaded: np.ndarray, padding: int, data: st.DataObject) -> None:
    made = library()
    padded = np.concatenate([loaded, loaded[:padding]])
    made.load(padded)
    first = data.draw(st.integers(0, TOTAL - 1))
    last = data.draw(st.integers(first + 1, padded.size))
    batch = made.batch(padded[first:last])
    assert np.array_equal(batch, SAMPLES[padded[first:last]])
    assert np.shares_memory(batch, made.batch(padded[first : first + 1]))


@given(loaded=some_indices, asked=some_indices)
def test_only_loaded_samples_are_given(loaded: np.ndarray, asked: np.ndarray) -> None:
    made = library()
    made.load(loaded)
    if set(asked.tolist()) <= set(loaded.tolist()):
        assert np.array_equal(made.batch(asked), SAMPLES[asked])
    else:
        with pytest.raises(NotLoadedError):
            made.batch(asked)


@given(loaded=some_indices, gone=some_indices, asked=some_indices)
def test_unloaded_samples_are_gone(loaded: np.ndarray, gone: np.ndarray, asked: np.ndarray) -> None:
    made = library()
    made.load(loaded)
    made.unload(gone)
    if set(asked.tolist()) <= set(loaded.tolist()) - set(gone.tolist()):
        assert np.array_equal(made.batch(asked), SAMPLES[asked])
    else:
        with pytest.raises(NotLoadedError):
            made.batch(asked)


@pytest.mark.parametrize("asked", [[-1], [-TOTAL - 1], [TOTAL], [0, -1], [-1, 0], [0, TOTAL], [TOTAL, 0]])
def test_indices_outside_the_data_set(asked: list[int]) -> None:
    made = library()
    made.load(np.arange(TOTAL))
    with pytest.raises(NotLoadedError, match=r"test: sample (-1|-13|12) is not loaded"):
        made.batch(np.array(asked))
    with pytest.raises(IndexError):
        made.load(np.array(asked))


def test_a_second_load_takes_the_place_of_the_first() -> None:
    made = library()
    made.load(np.array([1, 2]))
    made.load(np.array([3]))
    assert np.array_equal(made.batch(np.array([3])), SAMPLES[[3]])
    with pytest.raises(NotLoadedError):
        made.batch(np.array([1]))


def test_channels_last() -> None:
    pictures = np.random.default_rng(1).random((TOTAL, 3, 4, 5), np.float32)
    made = ArrayLibrary("test", pictures.__getitem__, TOTAL, TOTAL)
    made.lay_channels_last()
    indices = np.array([4, 1, 7])
    made.load(indices)
    batch = made.batch(indices)
    assert batch.flags.c_contiguous
    assert np.array_equal(batch, pictures[indices].transpose(0, 2, 3, 1))
