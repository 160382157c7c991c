"""Suppression keeps what a plain loop over all pairs keeps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drumfire.sut.models.boxes import _BLOCK, suppressed


def overlap(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Intersection and union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared, areas[0] + areas[1] - shared


def plainly(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, most_overlap: float, most: int) -> list[int]:
    kept: list[int] = []
    for at in sorted(range(len(scores)), key=lambda at: -scores[at]):
        doubles = (overlap(boxes[at], boxes[other]) for other in kept if labels[other] == labels[at])
        if not any(shared > most_overlap * union for shared, union in doubles):
            kept.append(at)
    return kept[:most]


@given(
    corners=hnp.arrays(np.int64, st.tuples(st.integers(0, 30), st.just(4)), elements=st.integers(0, 12)),
    data=st.data(),
    most=st.integers(1, 10),
)
def test_it_is_the_plain_loop(corners: np.ndarray, data: st.DataObject, most: int) -> None:
    count = len(corners)
    sizes = corners[:, 2:] + 1
    boxes = np.concatenate((corners[:, :2], corners[:, :2] + sizes), axis=1).astype(np.float32)
    scores = data.draw(hnp.arrays(np.float32, count, elements=st.sampled_from([0.25, 0.5, 0.75, 1.0])))
    labels = data.draw(hnp.arrays(np.int64, count, elements=st.integers(0, 2)))
    kept = suppressed(boxes, scores, labels, 0.5, most)
    assert kept.tolist() == plainly(boxes, scores, labels, 0.5, most)


def test_again_changes_nothing() -> None:
    draws = np.random.default_rng(1)
    low = draws.random((200, 2))
    boxes = np.concatenate((low, low + draws.random((200, 2)) * 0.4), axis=1)
    scores, labels = draws.random(200), draws.integers(0, 4, 200)
    kept = suppressed(boxes, scores, labels, 0.4, 1000)
    assert 4 < len(kept) < 200
    again = suppressed(boxes[kept], scores[kept], labels[kept], 0.4, 1000)
    assert again.tolist() == list(range(len(kept)))


def test_candidates_beyond_a_block_and_more_than_are_kept() -> None:
    draws = np.random.default_rng(2)
    place, size = draws.random((300, 2)), draws.random((300, 2)) * 0.5 + 0.1
    boxes = np.concatenate((place, place + size), axis=1).astype(np.float32)
    scores, labels = draws.random(300), draws.integers(0, 2, 300)
    kept = plainly(boxes, scores, labels, 0.5, 1000)
    assert _BLOCK < len(kept) < 300
    for most in (1, _BLOCK, len(kept) - 1, 1000):
        assert suppressed(boxes, scores, labels, 0.5, most).tolist() == kept[:most]


def test_a_long_chain_is_settled_from_its_front() -> None:
    """Each box overlaps its neighbours alone, so every other one is kept."""
    left = np.arange(100) * 0.5
    boxes = np.stack((left, left * 0, left + 1, left * 0 + 1), axis=1)
    kept = suppressed(boxes, -left, np.zeros(100), 0.3, 1000)
    assert kept.tolist() == list(range(0, 100, 2))
