from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from drumfire.sut.data import DataError
from drumfire.sut.data.library import NotLoadedError
from drumfire.sut.data.ragged import OpenSizes, Padding, Ragged, RaggedLibrary
from drumfire.sut.models.tensors import Input

LENGTHS = [3, 1, 7, 3, 12, 5, 2, 9, 3, 1, 4, 8]
TEXTS = [np.arange(10 * i, 10 * i + length) for i, length in enumerate(LENGTHS)]
WEIGHTS = np.arange(12.0).reshape(12, 1)


def read(indices: npt.NDArray[Any]) -> dict[str, Any]:
    """Texts, a mask of the same lengths, and an input of one shape."""
    texts = Ragged.of([TEXTS[i] for i in indices])
    return {"ids": texts, "mask": texts._replace(values=np.ones(texts.values.size, np.float32)), "w": WEIGHTS[indices]}


def texts(rule: Padding | None = None, indices: Sequence[int] = range(12)) -> RaggedLibrary:
    ids, mask = (None, None) if rule is None else (99, 0)
    library = RaggedLibrary("texts", read, 12, 12)
    library.pad({"ids": OpenSizes((0,), ids), "mask": OpenSizes((0,), mask)}, rule)
    library.load(np.array(indices))
    return library


@pytest.mark.parametrize("asked", [[4], [5, 2], [0, 3, 8, 0], [1, 4, 0, 7, 7, 2, 11, 9]])
@pytest.mark.parametrize(("rule", "least"), [("longest", 0), ("12", 12), ("buckets:4,8,16", 0)])
def test_a_batch_is_padded_to_the_size_of_the_rule(rule: str, least: int, asked: list[int]) -> None:
    longest = max(LENGTHS[i] for i in asked)
    width = next((size for size in (4, 8, 16) if size >= longest), 0) if "buckets" in rule else max(longest, least)
    batch = texts(Padding.of(rule)).batch(np.array(asked))
    for at, i in enumerate(asked):
        assert batch["ids"][at].tolist() == [*TEXTS[i], *[99] * (width - LENGTHS[i])]
        assert batch["mask"][at].tolist() == [1.0] * LENGTHS[i] + [0.0] * (width - LENGTHS[i])
    assert batch["w"].tolist() == WEIGHTS[asked].tolist()
    assert (batch["ids"].dtype, batch["mask"].dtype) == (np.int64, np.float32)


@pytest.mark.parametrize(("rule", "width"), [(None, 7), (Padding(), 7), (Padding((8,)), 8), (Padding((4, 8, 16)), 8)])
def test_one_sample_is_a_view_unless_it_is_padded(rule: Padding | None, width: int) -> None:
    library = texts(rule, [11, 2, 0])
    one = library.batch(np.array([2], np.uint16))
    assert one["ids"].tolist() == [[*TEXTS[2], *[99] * (width - 7)]]
    assert one["mask"].tolist() == [[1.0] * 7 + [0.0] * (width - 7)]
    assert one["w"].tolist() == [[2.0]]
    assert np.shares_memory(one["ids"], library._held["ids"].values) is (width == 7)  # type: ignore[union-attr]
    assert library.size(2) == (7, width)
    alone = library.alone(2)
    assert alone["ids"].tolist() == [TEXTS[2].tolist()]
    assert np.shares_memory(alone["ids"], library._held["ids"].values)  # type: ignore[union-attr]
    for missing in (1, -1, 12):
        for ask in (library.size, library.alone):
            with pytest.raises(NotLoadedError, match=f"sample {missing} is not loaded"):
                ask(missing)


def test_one_sample_of_several_sizes_keeps_its_shape() -> None:
    images = [np.arange(6).reshape(1, 2, 3), np.arange(4).reshape(1, 4, 1)]
    library = RaggedLibrary("x", lambda indices: {"x": Ragged.of([images[i] for i in indices])}, 2, 2)
    library.pad({"x": OpenSizes((1, 2), 0)})
    library.load(np.arange(2))
    assert library.batch(np.array([1]))["x"].tolist() == [images[1].tolist()]
    assert library.size(0) == (6, 6)


def test_samples_may_be_loaded_in_any_order_and_in_part_and_the_samples_of_a_file_stay_as_they_are() -> None:
    library = texts(Padding(), [7, 2, 7, 0])
    assert library.batch(np.array([0, 7]))["ids"].tolist() == [[*TEXTS[0], *[99] * 6], [*TEXTS[7]]]
    assert library.sizes(np.array([2, 7, 0])).tolist() == [7, 9, 3]
    for missing in ([0, 1], [-1], [12], [0, -5]):
        for ask in (library.batch, library.sizes, lambda asked: library.plan(asked, 2)):
            with pytest.raises(NotLoadedError, match="is not loaded"):
                ask(np.array(missing))
    library.unload(np.array([2]))
    with pytest.raises(NotLoadedError):
        library.batch(np.array([2]))
    library.load(np.array([1]))
    assert library.batch(np.array([1]))["ids"].tolist() == [[10]]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_size_of_a_picture_may_be_open(count: int) -> None:
    shapes = [(3, 2, 5), (3, 4, 1), (3, 1, 1), (3, 4, 5), (3, 3, 3)]
    pictures = [np.full(shape, i + 1, np.float32) for i, shape in enumerate(shapes)]
    library = RaggedLibrary("pictures", lambda indices: {"x": Ragged.of([pictures[i] for i in indices])}, 5, 5)
    library.pad({"x": OpenSizes((1, 2), -2.5)}, Padding())
    library.load(np.arange(5))
    asked = np.arange(5)[::-1][:count]
    batch = library.batch(asked)["x"]
    high, wide = (max(shapes[i][axis] for i in asked) for axis in (1, 2))
    for at, i in enumerate(asked):
        expected = np.full((3, high, wide), -2.5, np.float32)
        expected[:, : shapes[i][1], : shapes[i][2]] = i + 1
        assert np.array_equal(batch[at], expected)
    assert library.sizes(np.arange(5)).tolist() == [10, 4, 1, 20, 9]
    assert library.plan(np.array([0, 1, 2]), 2).padded.tolist() == [4, 4, 10]  # sorted: 1 and 4x1, then 2x5


@pytest.mark.parametrize("count", [2, 9])
def test_a_later_size_alone_may_be_open(count: int) -> None:
    sounds = [np.arange(2 * n, dtype=np.int16).reshape(2, n) for n in range(1, 10)]
    library = RaggedLibrary("sounds", lambda indices: {"x": Ragged.of([sounds[i] for i in indices])}, 9, 9)
    library.pad({"x": OpenSizes((1,), 7)}, Padding())
    library.load(np.arange(9))
    batch = library.batch(np.arange(count))["x"]
    for i in range(count):
        assert np.array_equal(batch[i], np.pad(sounds[i], [(0, 0), (0, count - 1 - i)], constant_values=7))


def test_texts_as_elements_are_padded_with_empty_ones() -> None:
    lines = [np.array([b"a", b"bc"], object), np.array([b"def"], object)]
    library = RaggedLibrary("lines", lambda indices: {"x": Ragged.of([lines[i] for i in indices])}, 2, 2)
    library.pad({"x": OpenSizes((0,), 0)}, Padding())
    library.load(np.arange(2))
    assert library.batch(np.array([1, 0]))["x"].tolist() == [[b"def", b""], [b"a", b"bc"]]


def test_a_single_sample_is_a_view() -> None:
    library = texts(Padding())
    assert np.shares_memory(library.batch(np.array([4]))["ids"], library.batch(np.array([4]))["ids"])


def test_a_plan_sorts_by_size_and_keeps_the_order_of_equal_ones() -> None:
    plan = texts(Padding()).plan(np.arange(12), 5)
    assert plan.order.tolist() == [1, 9, 6, 0, 3, 8, 10, 5, 2, 11, 7, 4]
    assert plan.bounds == [0, 5, 10, 12]
    assert plan.sizes.tolist() == sorted(LENGTHS)
    assert plan.padded.tolist() == [3] * 5 + [8] * 5 + [12] * 2


def test_the_padded_size_is_that_of_the_rule() -> None:
    assert texts(Padding.of("16")).plan(np.arange(12), 5).padded.tolist() == [16] * 12
    plan = texts(Padding.of("buckets:3,8,16")).plan(np.arange(12), 5)
    assert plan.padded.tolist() == [3] * 5 + [8] * 5 + [16] * 2


def test_a_plan_keeps_the_order_where_it_is_asked_to_or_where_one_batch_takes_all() -> None:
    plan = texts(Padding()).plan(np.arange(12), 5, in_order=True)
    assert plan.order.tolist() == list(range(12))
    assert plan.padded.tolist() == [12] * 5 + [9] * 5 + [8] * 2
    assert texts(Padding()).plan(np.array([4, 1, 2]), 5).order.tolist() == [0, 1, 2]


def test_without_padding_a_batch_has_samples_of_one_shape() -> None:
    library = texts()
    plan = library.plan(np.arange(12), 2)
    batches = [plan.order[first:last].tolist() for first, last in zip(plan.bounds, plan.bounds[1:], strict=False)]
    assert batches == [[1, 9], [6], [0, 3], [8], [10], [5], [2], [11], [7], [4]]
    assert library.batch(np.array([0, 3]))["ids"].tolist() == [[0, 1, 2], [30, 31, 32]]
    with pytest.raises(DataError, match="different shapes"):
        library.batch(np.array([0, 1]))
    # Equal sizes of other shapes are other shapes.
    shapes = [(2, 3), (3, 2), (2, 3)]
    library = RaggedLibrary("x", lambda indices: {"x": Ragged.of([np.ones(shapes[i]) for i in indices])}, 3, 3)
    library.load(np.arange(3))
    assert library.plan(np.arange(3), 8).bounds == [0, 2, 3]


@pytest.mark.parametrize(
    ("values", "rule", "padded"),
    [((9, 0), None, True), ((9, None), None, False), ((9, None), "longest", True), ((None, None), "8", True)],
)
def test_a_batch_is_padded_where_every_input_has_a_value_for_it_or_by_the_users_rule(
    values: tuple[int | None, int | None], rule: str | None, padded: bool
) -> None:
    def both(indices: npt.NDArray[Any]) -> dict[str, Any]:
        samples = Ragged.of([np.full(i + 1, 7) for i in indices])
        return {"a": samples, "b": samples}

    library = RaggedLibrary("x", both, 2, 2)
    library.pad(
        {name: OpenSizes((0,), value) for name, value in zip("ab", values, strict=True)},
        Padding.of(rule) if rule else None,
    )
    library.load(np.arange(2))
    if not padded:
        with pytest.raises(DataError, match="different shapes"):
            library.batch(np.arange(2))
        assert [part.tolist() for part in library.divided(np.array([1, 0]))] == [[0], [1]]
    else:
        batch = library.batch(np.arange(2))
        assert batch["a"][0, :2].tolist() == [7, 9 if values[0] else 0]
        assert batch["b"][0, :2].tolist() == [7, 0]
        assert [part.tolist() for part in library.divided(np.array([1, 0]))] == [[1, 0]]


def test_inputs_of_other_lengths_are_padded_each_to_its_own_and_the_largest_is_the_size() -> None:
    lengths = {"a": [1, 2, 3, 2, 1], "b": [4, 1, 1, 3, 2], "c": [1, 1, 3, 2, 2]}

    def three(indices: npt.NDArray[Any]) -> dict[str, Any]:
        return {name: Ragged.of([np.full(of[i], i + 1) for i in indices]) for name, of in lengths.items()}

    library = RaggedLibrary("x", three, 5, 5, {name: OpenSizes((0,), 0) for name in lengths})
    library.load(np.arange(5))
    batch = library.batch(np.arange(5))
    for name, width in (("a", 3), ("b", 4), ("c", 3)):
        assert batch[name].tolist() == [[i + 1] * n + [0] * (width - n) for i, n in enumerate(lengths[name])]
    assert library.sizes(np.arange(5)).tolist() == [4, 2, 3, 3, 2]
    assert library.plan(np.arange(5), 5).padded.tolist() == [4] * 5


def test_an_arrangement_gets_padded_batches() -> None:
    library = texts(Padding())
    library.arrange(lambda batch: {"tokens": batch["ids"] * 2})
    assert library.batch(np.array([1, 0]))["tokens"].tolist() == [[20, 198, 198], [0, 2, 4]]


@pytest.mark.parametrize("rule", ["8", "buckets:4,8"])
def test_a_sample_longer_than_the_rule_is_refused_as_it_is_loaded(rule: str) -> None:
    with pytest.raises(DataError, match=rf"sample 4 has the size 12 in ids, more than --pad {rule} .* at least 12"):
        texts(Padding.of(rule))


def test_one_size_for_two_open_ones_is_refused() -> None:
    with pytest.raises(DataError, match="--pad 8: x has 2 open sizes"):
        RaggedLibrary("x", read, 12, 12).pad({"x": OpenSizes((1, 2), 0)}, Padding((8,)))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (Ragged.of([np.ones(2), np.ones(0)]), "sample 6 is empty"),
        (Ragged.of([np.ones(2)]), "1 samples were read for 2"),
        (Ragged.of([np.ones(2), np.ones(3)])._replace(values=np.ones(4)), "do not fit together"),
        (Ragged.of([np.ones(2), np.ones(3)])._replace(offsets=np.array([0, 3, 5])), "do not fit together"),
        (np.ones((3, 1)), "3 samples were read for 2"),
    ],
)
def test_samples_that_are_not_well_formed_are_refused(samples: Any, message: str) -> None:
    library = RaggedLibrary("x", lambda indices: {"x": samples, "y": Ragged.of([np.ones(1)] * 2)}, 9, 9)
    with pytest.raises(DataError, match=message):
        library.load(np.array([5, 6]))


def test_a_size_that_is_not_open_does_not_differ() -> None:
    library = RaggedLibrary("x", lambda indices: {"x": Ragged.of([np.ones((2, 3)), np.ones((2, 4))])}, 2, 2)
    library.pad({"x": OpenSizes((0,), 0)}, Padding())
    with pytest.raises(DataError, match="differ in a size that is not open"):
        library.load(np.arange(2))


@pytest.mark.parametrize("rule", [None, Padding(), Padding((8,))])
def test_a_size_of_one_name_is_one_in_a_sample(rule: Padding | None) -> None:
    """Each would be padded by itself."""

    def read(indices: npt.NDArray[Any]) -> dict[str, Ragged]:
        parts = ((2, 4, 3), (2, 3, 3))
        return {name: Ragged.of([np.ones(one[i]) for i in indices]) for name, one in zip("ab", parts, strict=True)}

    library = RaggedLibrary("x", read, 3, 3)
    library.pad({"a": OpenSizes((0,), 0, ("s",)), "b": OpenSizes((0,), 0, ("s",))}, rule)
    with pytest.raises(DataError, match=r"^x: sample 1 has the size s 4 in a and 3 in b: give them one$"):
        library.load(np.array([2, 1, 0]))
    for names in (("s",), ("t",)), (("",), ("",)), ((), ("s",)):
        library.pad({name: OpenSizes((0,), 0, one) for name, one in zip("ab", names, strict=True)}, rule)
        library.load(np.array([2, 1, 0]))
    assert Input("x", (None, 3, None), np.dtype("f4"), dims=("s", "", "t")).opened == OpenSizes(
        (0, 2), None, ("s", "t")
    )


@pytest.mark.parametrize("text", ["longest", "128", "buckets:16,32,64"])
def test_a_rule_is_read_and_written_alike(text: str) -> None:
    assert str(Padding.of(text)) == text


@pytest.mark.parametrize("text", ["", "0", "-1", "short", "buckets:", "buckets:8,", "buckets:0,8", "8,16", "1.5"])
def test_other_rules_are_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(DataError, match=r"^--pad [^\n]*: use longest, a size such as 128, or buckets:16,32,64$"):
        Padding.of(text)
