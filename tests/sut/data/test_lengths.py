from __future__ import annotations

import numpy as np
import pytest

from drumfire.sut.data import DataError
from drumfire.sut.data.lengths import Lengths


@pytest.mark.parametrize("text", ["8", "8..128", "8..24..128", "8..8..128"])
def test_a_text_is_read_and_written_alike(text: str) -> None:
    assert str(Lengths.of(text)) == text


@pytest.mark.parametrize("text", ["", "-8", "8..", "..8", "8...9", "8..9..10..11", f"{10**12}", "8.5", "x", "٣", "8\n"])
def test_what_is_not_a_size_is_shown(text: str) -> None:
    with pytest.raises(DataError) as error:
        Lengths.of(text)
    assert str(error.value).startswith(f"{text!r} is not a size")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0", "a size is at least 1"),
        ("0..8", "a size is at least 1"),
        ("8..7", "8 is above 7"),
        ("8..4..128", "the median 4 must be from 8 to 127"),
        ("8..128..128", "the median 128 must be from 8 to 127"),
    ],
)
def test_sizes_that_make_no_range_are_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(DataError) as error:
        Lengths.of(text)
    assert str(error.value) == why


def test_one_length_is_drawn_always() -> None:
    assert Lengths.of("5").draw(3, 1).tolist() == [5, 5, 5]


def test_a_uniform_distribution_has_each_length_as_often() -> None:
    drawn = Lengths.of("8..17").draw(20_000, 1)
    counts = np.bincount(drawn, minlength=18)[8:]
    assert counts.sum() == 20_000  # none outside
    assert 1_800 < counts.min() <= counts.max() < 2_200


def test_a_log_normal_distribution_has_its_median_and_a_long_tail() -> None:
    drawn = Lengths.of("8..24..128").draw(20_000, 1)
    assert (drawn.min(), np.median(drawn)) == (8, 24)
    assert 100 < drawn.max() <= 128
    assert 27 < drawn.mean() < 29
    # A standard deviation of the logarithm is a third of the way to the most.
    assert abs(np.quantile(drawn, 0.8413) - 24 * (128 / 24) ** (1 / 3)) <= 1


@pytest.mark.parametrize("text", ["8..128", "8..24..128"])
def test_draws_depend_on_the_seed_and_the_name_but_not_on_the_count(text: str) -> None:
    lengths = Lengths.of(text)
    drawn = lengths.draw(100, 1, "sequence").tolist()
    assert lengths.draw(1_000, 1, "sequence")[:100].tolist() == drawn
    assert lengths.draw(100, 2, "sequence").tolist() != drawn
    assert lengths.draw(100, 1, "height").tolist() != drawn
