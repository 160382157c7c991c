"""What a network takes, and how data of one description feeds a network of another."""

from __future__ import annotations

import numpy as np
import pytest

from drumfire.sut.models.tensors import Feed, Input, Tensors, arrangement

F4, I8 = np.dtype(np.float32), np.dtype(np.int64)
IDS, MASK = Input("ids", (None,), I8), Input("mask", (None,), I8)


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((3, 224, 224), (224, 224, 3)),
        ((1, 8, 8), (8, 8, 1)),
        ((4, None, None), (None, None, 4)),
        ((5, 8, 8), (5, 8, 8)),  # too many channels for an image
        ((None, 8, 8), (None, 8, 8)),
        ((8, 8), (8, 8)),
        ((), ()),
    ],
)
def test_images_are_turned_and_nothing_else(shape: tuple[int | None, ...], last: tuple[int | None, ...]) -> None:
    turned = Input("x", shape, F4, 7).as_channels_last
    assert turned == Input("x", last, F4, 7, channels_moved=last != shape)
    assert turned.as_in_file == Input("x", shape, F4, 7)


def test_zeros_have_the_shapes_and_types() -> None:
    tensors = Tensors((IDS, Input("picture", (3, 4, 5), F4)))
    assert tensors.has_open_sizes
    batch = tensors.zeros(2, open_size=9)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "ids": ((2, 9), I8),
        "picture": ((2, 3, 4, 5), F4),
    }
    assert not any(array.any() for array in batch.values())
    assert not Tensors.of_one((3, 4)).has_open_sizes
    assert len(Tensors.of_one((3, 4)).example()["input"]) == 2


def test_the_batch_size_is_that_of_an_input_that_fixes_it() -> None:
    assert Tensors((IDS, MASK)).batch_size is None
    assert Tensors((IDS, MASK._replace(batch_size=4))).batch_size == 4


def test_the_text_names_inputs_where_there_are_several() -> None:
    assert str(Tensors((Input("x", (None, 2), F4),))) == "float32 of shape [any, 2]"
    assert str(Tensors((IDS, MASK))) == "ids int64 of shape [any], mask int64 of shape [any]"


def test_a_lone_input_is_fed_whatever_its_name() -> None:
    file = Tensors((Input("image_tensor:0", (4, 5, 3), F4),))
    assert file.feeds(Tensors.of_one((3, 4, 5))) == {"image_tensor:0": Feed("input", moves_channels=True)}
    assert file.feeds(Tensors.of_one((4, 5, 3))) == {"image_tensor:0": Feed("input", moves_channels=False)}


@pytest.mark.parametrize(
    "data",
    [
        Tensors(),
        Tensors.of_one((16,), dtype=np.int64),
        Tensors((IDS,)),
        Tensors((IDS, MASK._replace(name="types"))),
        Tensors((IDS, MASK, MASK._replace(name="types"))),
        Tensors((IDS, MASK._replace(dtype=np.dtype(np.int32)))),
        Tensors((IDS, MASK._replace(sample_shape=(16, 1)))),
    ],
)
def test_data_that_does_not_fit(data: Tensors) -> None:
    assert Tensors((IDS, MASK)).feeds(data) is None


def test_several_inputs_are_fed_by_name_each_in_its_layout() -> None:
    file = Tensors((Input("picture", (4, 5, 3), F4), IDS))
    data = Tensors((Input("ids", (16,), I8), Input("picture", (3, 4, 5), F4)))
    feeds = file.feeds(data)
    assert feeds == {"picture": Feed("picture", moves_channels=True), "ids": Feed("ids", moves_channels=False)}
    read = {"ids": np.arange(32).reshape(2, 16), "picture": np.random.default_rng(0).random((2, 3, 4, 5), np.float32)}
    batch = arrangement(feeds)(read)
    assert list(batch) == ["picture", "ids"]
    assert batch["ids"] is read["ids"]
    assert batch["picture"].flags.c_contiguous
    np.testing.assert_array_equal(batch["picture"], read["picture"].transpose(0, 2, 3, 1))
