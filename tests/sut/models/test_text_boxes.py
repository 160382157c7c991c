"""Boxes of text: parts of a mask, the growth of cores, and matches with the true boxes."""

import numpy as np
import pytest

from drumfire.sut.models import text_boxes
from drumfire.sut.models.text_boxes import Matches


def flooded(mask: np.ndarray) -> list[list[int]]:
    """The boxes of the parts, in the order of their first pixels, pixel by pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    boxes = []
    for start in sorted(left):
        if start not in left:
            continue
        part, edge = {start}, [start]
        left.discard(start)
        while edge:
            y, x = edge.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            part |= near
            edge += near
        ys, xs = zip(*part, strict=True)
        boxes.append([min(xs), min(ys), max(xs) + 1, max(ys) + 1])
    return boxes


def test_parts_of_random_masks() -> None:
    draws = np.random.default_rng(0)
    for _ in range(150):
        mask = draws.random(draws.integers(1, 16, 2)) < draws.random()
        assert text_boxes.components(mask).tolist() == flooded(mask)


def test_parts_that_meet_late() -> None:
    """The arms of a W, a spiral, and rows whose runs end where those of the next row begin."""
    drawings = [
        ["#.#.#", "#.#.#", "#####"],
        ["#####", "....#", "###.#", "#...#", "#####"],
        ["##..", "..##"],
        ["##..", "...#"],
        ["#..#", ".##."],
    ]
    for drawing in drawings:
        mask = np.array([[cell == "#" for cell in row] for row in drawing])
        assert text_boxes.components(mask).tolist() == flooded(mask)
    assert len(text_boxes.components(np.array([[True, True, False, False], [False, False, False, True]]))) == 2


def test_a_core_grows_by_its_area_over_its_perimeter() -> None:
    page = np.zeros((100, 200), np.float32)
    page[40:60, 50:150] = 0.9
    margin = 20 * 100 * 1.6 / (2 * (20 + 100))
    expected = [50 - margin, 40 - margin, 150 + margin, 60 + margin, 0.9]
    np.testing.assert_allclose(text_boxes.found(page), [expected], rtol=1e-6)


def test_what_is_left_out_and_the_order() -> None:
    page = np.zeros((100, 200), np.float32)
    page[10:20, 10:60] = 0.6
    page[40:50, 10:60] = 0.95
    page[70:72, 10:60] = 0.95  # two pixels high
    page[80:90, 10:60] = 0.4  # a low score
    boxes = text_boxes.found(page)
    np.testing.assert_allclose(boxes[:, 4], [0.95, 0.6], rtol=1e-6)
    assert boxes.dtype == np.float32
    page[:] = 0.8
    assert text_boxes.found(page)[:, :4].tolist() == [[0, 0, 200, 100]]  # no further than the page
    assert text_boxes.found(np.zeros((32, 32), np.float32)).shape == (0, 5)


def test_each_true_box_matches_once() -> None:
    true = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    assert text_boxes.matched(true, true) == 2
    assert text_boxes.matched(true[[0, 0]], true) == 1
    assert text_boxes.matched(true + 6, true) == 0  # a quarter is shared: 16 of 184
    assert text_boxes.matched(np.array([[0, 0, 10, 5]], np.float32), true) == 1  # one half, exactly
    assert text_boxes.matched(np.array([[0, 0, 10, 4.9]], np.float32), true) == 0
    nothing = np.empty((0, 4), np.float32)
    assert text_boxes.matched(nothing, true) == text_boxes.matched(true, nothing) == 0


def test_the_mean_of_precision_and_recall() -> None:
    score = Matches(3, 4, 6)
    assert (score.precision, score.recall) == (0.75, 0.5)
    assert score.mean == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert (Matches(0, 0, 0).precision, Matches(0, 0, 0).recall, Matches(0, 0, 0).mean) == (0, 0, 0)
