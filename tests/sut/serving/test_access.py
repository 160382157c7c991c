"""Bearer tokens: which are taken, and what happens when their file changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drumfire.sut.serving.access import Access, TokenError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("first\n\n  second  \n")
    return path


@pytest.mark.parametrize("field", ["Bearer first", "bearer second", "BEARER  first ", "Bearer second"])
def test_any_of_the_tokens_will_do(file: Path, field: str) -> None:
    assert Access(file).allows(field)


def test_a_byte_order_mark_is_no_part_of_a_token(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbffirst\n")
    assert Access(file).allows("Bearer first")


@pytest.mark.parametrize(
    "field",
    [
        None,
        "",
        "first",
        "Bearer",
        "Bearer ",
        "Bearer firs",
        "Bearer first second",
        "Basic first",
        "Bearer \udcff",
        "Bearer é",
    ],
)
def test_nothing_else_does(file: Path, field: str | None) -> None:
    assert not Access(file).allows(field)


def test_without_a_file_everybody_may() -> None:
    assert Access(None).allows(None)
    assert not Access(None).refresh()


def test_a_changed_file_is_read_again(file: Path) -> None:
    access = Access(file)
    assert not access.refresh()
    file.write_text("third\n")
    os.utime(file, ns=(1, 1))
    assert access.refresh()
    assert not access.allows("Bearer first")
    assert access.allows("Bearer third")
    assert not access.refresh()
    assert access.refresh(always=True)


def test_a_file_that_can_not_be_used_leaves_the_tokens_as_they_are(file: Path) -> None:
    access = Access(file)
    file.write_text("\n")
    with pytest.raises(TokenError, match="has no token"):
        access.refresh(always=True)
    file.unlink()
    assert not access.refresh()
    with pytest.raises(TokenError, match="cannot be read"):
        access.refresh(always=True)
    assert access.allows("Bearer first")


def test_a_start_needs_a_token(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="cannot be read: there is no such file"):
        Access(tmp_path / "none")
    (tmp_path / "empty").write_text("")
    with pytest.raises(TokenError, match="has no token: write one per line"):
        Access(tmp_path / "empty")
