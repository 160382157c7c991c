"""Drawn pages are the same for a seed, and their boxes are where the ink is."""

import numpy as np
import pytest

from drumfire.sut.data import pages
from tests.support.packages import need


@pytest.mark.parametrize("seed", range(4))
def test_a_page_and_its_boxes(seed: int) -> None:
    need("PIL")
    page = pages.draw(320, 256, np.random.default_rng(seed))
    again = pages.draw(320, 256, np.random.default_rng(seed))
    assert page.pixels.tobytes() == again.pixels.tobytes()
    assert (page.pixels.shape, page.pixels.dtype) == ((256, 320, 3), np.uint8)
    assert len(page.boxes) >= 2
    paper = np.median(page.pixels.reshape(-1, 3), axis=0)
    ink = np.abs(page.pixels - paper).max(2) > 30
    covered = np.zeros(ink.shape, bool)
    for x1, y1, x2, y2 in page.boxes.astype(int):
        inside = ink[y1:y2, x1:x2]
        assert all(edge.any() for edge in (inside[:, :2], inside[:, -2:], inside[:2], inside[-2:]))
        covered[y1:y2, x1:x2] = True
    assert not (ink & ~covered).any()
    assert (page.boxes[1:, 1] > page.boxes[:-1, 3]).all()  # lines follow one another
