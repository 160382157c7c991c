"""Drawn shapes are where their boxes say, and differ from the background."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drumfire.sut.data import scenes


@settings(max_examples=40, deadline=None)
@given(width=st.integers(40, 200), height=st.integers(40, 200), count=st.integers(0, 5), seed=st.integers(0, 2**32))
def test_boxes_hold_the_shapes(width: int, height: int, count: int, seed: int) -> None:
    scene = scenes.draw(width, height, count, np.random.default_rng(seed))
    again = scenes.draw(width, height, count, np.random.default_rng(seed))
    assert np.array_equal(scene.pixels, again.pixels)
    assert scene.pixels.shape == (height, width, 3)
    assert len(scene.boxes) == len(scene.kinds) <= count
    for x1, y1, x2, y2 in scene.boxes:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height


@pytest.mark.parametrize("seed", range(12))
def test_one_shape_changes_pixels_in_its_box_only(seed: int) -> None:
    shown = scenes.draw(120, 90, 1, np.random.default_rng(seed))
    (x1, y1, x2, y2) = shown.boxes[0]
    background = np.median(shown.pixels.reshape(-1, 3), axis=0)
    different = (np.abs(shown.pixels - background) > 45).any(axis=2)  # noise and slope stay below
    rows, columns = np.nonzero(different)
    assert rows.size
    assert columns.min() >= x1 - 1
    assert columns.max() <= x2 + 1
    assert rows.min() >= y1 - 1
    assert rows.max() <= y2 + 1
    # And the box is no larger than the shape.
    assert columns.max() - columns.min() > 0.8 * (x2 - x1) - 2
    assert rows.max() - rows.min() > 0.8 * (y2 - y1) - 2
