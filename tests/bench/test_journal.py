"""The command that resumes what a journal is of."""

from __future__ import annotations

from pathlib import Path

import pytest

from drumfire.bench.journal import resuming_where_it_is


@pytest.mark.parametrize(
    ("again", "now"),
    [
        ("drumfire sweep null --output s1 --seed 2", "drumfire sweep null --output 'moved here' --seed 2"),
        ("drumfire sweep null --out=s1", "drumfire sweep null '--out=moved here'"),
        ("drumfire ab --output s1 -- null a -- null b", "drumfire ab --output 'moved here' -- null a -- null b"),
        ("drumfire ab -- null --output s1 -- null", "drumfire ab -- null --output s1 -- null"),
        ("drumfire run null", "drumfire run null"),
        ("", ""),
    ],
)
def test_a_folder_that_was_moved_is_resumed_where_it_is(again: str, now: str) -> None:
    assert resuming_where_it_is(again, Path("moved here")) == now


def test_the_words_stay_where_the_folder_does(tmp_path: Path) -> None:
    again = f"drumfire sweep null  --output={tmp_path}/../{tmp_path.name}"
    assert resuming_where_it_is(again, tmp_path) == again
