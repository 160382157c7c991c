"""Words fit their numbers: ``1 query``, and never ``1 queries``."""

from __future__ import annotations

import pytest

from drumfire.loadgen.wording import counted, each_is


@pytest.mark.parametrize(
    ("count", "noun", "words"),
    [(0, "query", "0 queries"), (1, "query", "1 query"), (2000, "sample", "2,000 samples"), (3, "batch", "3 batches"),
     (1, "more size", "1 more size"), (2, "GPU", "2 GPUs"), (2, "day", "2 days"), (2, "process", "2 processes"),
     (2, "box", "2 boxes"), (2, "dish", "2 dishes")],
)  # fmt: skip
def test_counted(count: int, noun: str, words: str) -> None:
    assert counted(count, noun) == words


def test_the_verb() -> None:
    assert [each_is(count) for count in (0, 1, 2)] == ["are", "is", "are"]
    assert [each_is(count, "were") for count in (0, 1, 2)] == ["were", "was", "were"]
