"""The grammar of inputs: what is not a shape, size or range is refused in one line, and the rest means one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.sut.data.inputs import InputError
from drumfire.sut.data.lengths import Lengths
from drumfire.sut.data.options import InputOptions, Values, parse_dims, parse_inputs, parse_ranges, parse_shapes
from drumfire.sut.data.sizes import Chosen, choose
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec

TEXT = ModelInterface(
    "m",
    "",
    "",
    (
        TensorSpec("ids", "INT64", (-1,), dims=("s",)),
        TensorSpec("mask", "INT64", (-1,), dims=("s",)),
        TensorSpec("x", "FP32", (3, -1, -1), dims=("", "H", "")),
    ),
    (),
    8,
)
SERVED = replace(TEXT, inputs=tuple(replace(spec, dims=()) for spec in TEXT.inputs))


def of(*sizes: int) -> tuple[Lengths, ...]:
    return tuple(Lengths(size, size) for size in sizes)


def refused(call: Callable[[], object]) -> str:
    """The text of the error, which has to be one line."""
    with pytest.raises(InputError) as error:
        call()
    text = str(error.value)
    assert text.isprintable()
    return text


def assert_line(error: Exception) -> None:
    assert str(error).isprintable()


@given(name=st.text(min_size=1), sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=5))
def test_shapes_are_read_behind_the_last_sign(name: str, sizes: list[int]) -> None:
    assert parse_inputs([f"{name}:{','.join(map(str, sizes))}"]) == {name: of(*sizes)}
    assert parse_shapes([f"{name}={'x'.join(map(str, sizes))}"]) == {name: of(*sizes)}


def test_names_that_hold_signs() -> None:
    assert parse_inputs(["serving:x:0:3, 4", ":: :5"]) == {"serving:x:0": of(3, 4), ":: ": of(5)}
    assert parse_shapes(["a=b=8..128", "4x4=3x2"]) == {"a=b": (Lengths(8, 128),), "4x4": of(3, 2)}
    assert parse_dims(["32*h=64"]) == {"32*h": Lengths(64, 64)}
    assert parse_ranges(["a=b=-1..3", "x=.5..1e3"]) == {"a=b": Values(-1, 3), "x": Values(0.5, 1000.0)}


@pytest.mark.parametrize("parse", [parse_dims, parse_inputs, parse_ranges, parse_shapes])
@given(words=st.lists(st.text() | st.from_regex(r"\A[a:=]{0,3}[:=][-0-9,x. ]{0,6}\Z"), max_size=3))
def test_any_text_is_read_or_an_input_error(parse: Callable[[Sequence[str]], dict[str, Any]], words: list[str]) -> None:
    try:
        found = parse(words)
    except InputError as error:
        assert_line(error)
    else:
        assert len(found) == len(words)


@pytest.mark.parametrize(
    "word",
    ["", "x", "x:", ":3", *(f"x:{size}" for size in ["0", "-1", "3,,4", "1.5", "1_0", "+3", "٣", "3x4", "3..4"])],
)
def test_what_is_no_input(word: str) -> None:
    assert "NAME:SHAPE" in refused(lambda: parse_inputs([word]))


@pytest.mark.parametrize("size", ["", "0", "-1", "3x", "3,4", "9..8", "1..2..3..4", "0..4", "..4"])
def test_what_is_no_shape_or_size(size: str) -> None:
    assert "--shape" in refused(lambda: parse_shapes([f"x={size}"]))
    assert "--dim" in refused(lambda: parse_dims([f"x={size}"]))


@pytest.mark.parametrize("values", ["", "1", "2..1", "a..b", "1..", "nan..nan", "0..1e999", "1..2..3"])
def test_what_is_no_range(values: str) -> None:
    assert "NAME=LEAST..MOST" in refused(lambda: parse_ranges([f"x={values}"]))


@pytest.mark.parametrize(
    ("parse", "word", "why"),
    [
        (parse_dims, "a=8..4..128", "the median 4 must be from 8 to 127"),
        (parse_dims, "8", "it has no name"),
        (parse_shapes, "a=3x9..8", "9 is above 8"),
        (parse_shapes, "a=3x0", "a size is at least 1"),
        (parse_inputs, "a:3,8..9", "its sizes are fixed (--shape draws others)"),
        (parse_ranges, "a=2..1", "2 is above 1"),
        (parse_ranges, "a=0..1e999", "a number is too large"),
        (parse_ranges, "a=7", "'7' is not two numbers with .. between them"),
    ],
)
def test_a_refused_word_comes_with_the_reason(parse: Callable[[Sequence[str]], Any], word: str, why: str) -> None:
    assert f" {word!r}: {why}: use NAME" in refused(lambda: parse([word]))


def test_a_name_that_is_given_twice() -> None:
    assert "'x' appears twice" in refused(lambda: parse_inputs(["x:3", "x:4"]))
    both = InputOptions(input=("ids:3",), shape=("ids=3",))
    assert "--input and --shape both give the shape of 'ids'" in refused(lambda: choose(TEXT, both))


def chosen(*, served: bool = False, **options: Sequence[str]) -> Chosen:
    words = InputOptions(**{name: tuple(words) for name, words in options.items()})  # type: ignore[arg-type]
    return choose(SERVED, words) if served else choose(TEXT, words, "")


def test_a_named_size_is_that_of_every_input() -> None:
    made = chosen(dim=["s=128", "H=8..16"], shape=["x=3x8..16x5"])
    assert [str(spec) for spec in made.interface.inputs] == ["ids INT64[128]", "mask INT64[128]", "x FP32[3,H,5]"]
    assert not made.open
    # A shape gives the size its name has in other inputs too.
    assert [str(spec) for spec in chosen(shape=["ids=9"]).interface.inputs[:2]] == ["ids INT64[9]", "mask INT64[9]"]


def test_lengths_are_drawn_alike_in_inputs_that_share_a_size() -> None:
    shapes = chosen(dim=["s=8..128", "H=8..128"], shape=["x=3x8..128x8..128"]).shapes(300, 1)
    lengths = shapes["ids"][:, 0]
    assert (shapes["mask"] == shapes["ids"]).all()
    assert 8 <= lengths.min() < 20 < 110 < lengths.max() <= 128
    assert shapes["x"].shape == (300, 3)
    assert (shapes["x"][:, 0] == 3).all()
    assert (shapes["x"][:, 1] != lengths).any()
    assert (shapes["x"][:, 1] != shapes["x"][:, 2]).any()
    # On a server, where sizes have no names, those of one place and one range are alike.
    there = chosen(served=True, shape=["ids=8..128", "mask=8..128"]).shapes(300, 1)
    assert (there["ids"] == there["mask"]).all()
    assert np.array_equal(chosen(dim=["s=8..128"]).shapes(7, 1)["ids"][:, 0], lengths[:7])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dim": ["t=3"]}, "--dim t=3: the model has the open sizes s, H"),
        ({"dim": ["h=3"]}, "did you mean H?"),
        ({"shape": ["w=3"]}, "--shape w=3: the model m takes ids INT64[s]"),
        ({"input": ["w:3"]}, "--input w:3: the model m takes ids INT64[s]"),
        ({"shape": ["x=3x4x4x4"]}, "leave the batch out"),
        ({"shape": ["x=4x4x4"]}, "only open sizes can be chosen"),
        ({"shape": ["x=1..3x4x4"]}, "only open sizes can be chosen"),
        ({"shape": ["ids=3", "mask=4"]}, "--shape mask=4: s is 3"),
        ({"dim": ["s=5"], "shape": ["ids=3"]}, "--shape ids=3: s is 5"),
        ({"range": ["w=0..1"]}, "--range w=0..1: the model m takes"),
        ({"range": ["ids=0..1.5"]}, "ids takes integers"),
        ({"range": ["ids=0..99999999999999999999"]}, "INT64 has values from"),
    ],
)
def test_what_the_model_does_not_have(options: dict[str, list[str]], why: str) -> None:
    assert why in refused(lambda: chosen(**options))


def test_a_server_has_no_names_for_sizes() -> None:
    assert refused(lambda: chosen(served=True, dim=["s=3"])) == (
        "--dim s=3: a server gives sizes no names: use --shape, such as --shape ids=128 --shape mask=128 "
        "--shape x=3x224x224"
    )


def test_what_is_open_comes_with_options_that_close_it() -> None:
    made = chosen(dim=["H=8..9"])
    assert made.advice == "--dim s=128 --shape x=3x8..9x224"
    assert [spec.name for spec in made.open] == ["ids", "mask", "x"]
    closed = chosen(dim=["s=128"], shape=["x=3x8..9x224"])
    assert not closed.open
    assert closed.advice == ""
