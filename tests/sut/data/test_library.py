"""A batch is the data set's rows by input, whatever was loaded in whatever order, and a view where it can be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen.system import Batch, SampleLibrary
from drumfire.sut.data.library import INPUT, ArrayLibrary, NamedLibrary, NotLoadedError, paired, with_names

TOTAL = 12
_DRAWS = np.random.default_rng(1)
PICTURES = _DRAWS.random((TOTAL, 2, 3), np.float32)
LENGTHS = _DRAWS.integers(0, 100, TOTAL)

DATA = {
    "one": {INPUT: PICTURES},
    "two": {"picture": PICTURES, "length": LENGTHS},
}

some_indices = st.lists(st.integers(0, TOTAL - 1), min_size=1, max_size=30).map(np.array)
kinds = st.sampled_from(list(DATA))


def library(kind: str) -> ArrayLibrary:
    """``one`` reads a bare array, ``two`` reads arrays by name."""
    if kind == "one":
        return ArrayLibrary("test", PICTURES.__getitem__, TOTAL, TOTAL)
    return ArrayLibrary("test", lambda indices: {n: a[indices] for n, a in DATA[kind].items()}, TOTAL, TOTAL)


def check(batch: Batch, kind: str, asked: np.ndarray) -> None:
    assert list(batch) == list(DATA[kind])
    for name, array in DATA[kind].items():
        np.testing.assert_array_equal(batch[name], array[asked])
        assert batch[name].dtype == array.dtype
        assert batch[name].flags.c_contiguous


@given(kind=kinds, loaded=some_indices, data=st.data(), dtype=st.sampled_from([np.int32, np.int64, np.uint64]))
def test_batch_is_the_rows_asked_for(kind: str, loaded: np.ndarray, data: st.DataObject, dtype: type) -> None:
    made = library(kind)
    made.load(loaded.astype(dtype))
    asked: np.ndarray = loaded[data.draw(st.lists(st.integers(0, loaded.size - 1), min_size=1, max_size=40))].astype(
        dtype
    )
    check(made.batch(asked), kind, asked)


@given(kind=kinds, loaded=st.permutations(range(TOTAL)).map(np.array), padding=st.integers(0, 5), data=st.data())
def test_samples_in_load_order_are_not_copied(kind: str, loaded: np.ndarray, padding: int, data: st.DataObject) -> None:
    made = library(kind)
    padded = np.concatenate([loaded, loaded[:padding]])
    made.load(padded)
    first = data.draw(st.integers(0, TOTAL - 1))
    last = data.draw(st.integers(first + 1, padded.size))
    batch = made.batch(padded[first:last])
    check(batch, kind, padded[first:last])
    alone = made.batch(padded[first : first + 1])
    assert all(np.shares_memory(batch[name], alone[name]) for name in batch)


@given(kind=kinds, loaded=some_indices, asked=some_indices)
def test_only_loaded_samples_are_given(kind: str, loaded: np.ndarray, asked: np.ndarray) -> None:
    made = library(kind)
    made.load(loaded)
    if set(asked.tolist()) <= set(loaded.tolist()):
        check(made.batch(asked), kind, asked)
    else:
        with pytest.raises(NotLoadedError):
            made.batch(asked)


@given(kind=kinds, loaded=some_indices, gone=some_indices, asked=some_indices)
def test_unloaded_samples_are_gone(kind: str, loaded: np.ndarray, gone: np.ndarray, asked: np.ndarray) -> None:
    made = library(kind)
    made.load(loaded)
    made.unload(gone)
    if set(asked.tolist()) <= set(loaded.tolist()) - set(gone.tolist()):
        check(made.batch(asked), kind, asked)
    else:
        with pytest.raises(NotLoadedError):
            made.batch(asked)


@given(kind=kinds, loaded=some_indices, asked=some_indices, other=st.booleans())
def test_samples_are_gathered_into_the_room_that_is_given(
    kind: str, loaded: np.ndarray, asked: np.ndarray, other: bool
) -> None:
    made = library(kind)
    made.load(loaded)
    types = {name: np.float64 if other else array.dtype for name, array in DATA[kind].items()}
    room = {name: np.zeros((asked.size, *array.shape[1:]), types[name]) for name, array in DATA[kind].items()}
    if not set(asked.tolist()) <= set(loaded.tolist()):
        with pytest.raises(NotLoadedError):
            made.batch(asked, room)
        return
    batch, alone = made.batch(asked, room), made.batch(asked)
    check(batch, kind, asked)
    for name in batch:
        is_view = np.shares_memory(alone[name], made.batch(loaded[:1])[name]) or alone[name].base is not None
        assert (batch[name] is room[name]) == (not other and not is_view)


@pytest.mark.parametrize("asked", [[-1], [-TOTAL - 1], [TOTAL], [0, -1], [-1, 0], [0, TOTAL], [TOTAL, 0]])
def test_indices_outside_the_data_set(asked: list[int]) -> None:
    made = library("two")
    made.load(np.arange(TOTAL))
    with pytest.raises(NotLoadedError, match=r"test: sample (-1|-13|12) is not loaded"):
        made.batch(np.array(asked))
    with pytest.raises(IndexError):
        made.load(np.array(asked))


@pytest.mark.parametrize("kind", DATA)
def test_a_second_load_takes_the_place_of_the_first(kind: str) -> None:
    made = library(kind)
    made.load(np.array([1, 2]))
    made.load(np.array([3]))
    check(made.batch(np.array([3])), kind, np.array([3]))
    with pytest.raises(NotLoadedError):
        made.batch(np.array([1]))


def test_a_read_of_another_number_of_samples() -> None:
    made = ArrayLibrary("test", lambda indices: {"a": PICTURES[indices], "b": LENGTHS}, TOTAL, TOTAL)
    with pytest.raises(ValueError, match="test: 12 samples of 'b' were read for 3 indices"):
        made.load(np.arange(3))
    with pytest.raises(NotLoadedError):
        made.batch(np.array([0]))


def test_one_array_is_arranged_and_renamed_and_the_other_stays() -> None:
    made = library("two")
    made.arrange(lambda batch: {"turned": np.swapaxes(batch["picture"], 1, 2), "length": batch["length"]})
    indices = np.array([4, 1, 7])
    made.load(indices)
    for asked in (indices, indices[::-1]):  # a view, and a copy
        batch = made.batch(asked)
        assert list(batch) == ["turned", "length"]
        assert batch["turned"].flags.c_contiguous
        np.testing.assert_array_equal(batch["turned"], PICTURES[asked].transpose(0, 2, 1))
        np.testing.assert_array_equal(batch["length"], LENGTHS[asked])


class Own:
    """A library of the user's: it counts what is loaded, and its batches are what ``found`` returns."""

    name, total_count, performance_count = "own", TOTAL, 5

    def __init__(self, found) -> None:
        self.batch = found
        self.loaded: set[int] = set()

    def load(self, indices: np.ndarray) -> None:
        self.loaded.update(indices.tolist())

    def unload(self, indices: np.ndarray) -> None:
        self.loaded.difference_update(indices.tolist())


def test_a_bare_array_of_an_own_library_gets_a_name() -> None:
    own = Own(PICTURES.__getitem__)
    wrapped: SampleLibrary = with_names(own)
    assert isinstance(wrapped, SampleLibrary)
    assert (wrapped.name, wrapped.total_count, wrapped.performance_count) == ("own", TOTAL, 5)
    wrapped.load(np.arange(4))
    wrapped.unload(np.arange(2))
    assert own.loaded == {2, 3}
    check(wrapped.batch(np.array([5, 2])), "one", np.array([5, 2]))


def test_names_of_an_own_library_stay() -> None:
    wrapped = with_names(Own(lambda indices: {n: a[indices] for n, a in DATA["two"].items()}))
    check(wrapped.batch(np.array([5, 2])), "two", np.array([5, 2]))
    assert with_names(wrapped) is wrapped


def test_an_own_librarys_batches_are_arranged() -> None:
    wrapped = with_names(Own(PICTURES.__getitem__), lambda batch: {"x": batch[INPUT] * 2})
    assert isinstance(wrapped, NamedLibrary)
    np.testing.assert_array_equal(wrapped.batch(np.array([5, 2]))["x"], PICTURES[[5, 2]] * 2)


def test_an_array_library_is_not_wrapped() -> None:
    made = library("one")
    assert with_names(made) is made
    assert with_names(made, lambda batch: {"x": batch[INPUT]}) is made
    made.load(np.arange(2))
    assert list(made.batch(np.arange(2))) == ["x"]


@pytest.mark.parametrize(
    ("wanted", "have", "pairs"),
    [
        (["image_tensor:0"], ["input"], {"image_tensor:0": "input"}),
        (["a", "b"], ["b", "a"], {"a": "a", "b": "b"}),
        (["a", "b"], ["a", "c"], None),
        (["a"], ["a", "b"], None),
        (["a", "b"], ["a"], None),
        ([], ["a"], None),
    ],
)
def test_names_are_paired(wanted: list[str], have: list[str], pairs: dict[str, str] | None) -> None:
    assert paired(wanted, have) == pairs
