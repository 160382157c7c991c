"""Errors become lines that a terminal can show."""

from __future__ import annotations

import pytest

from drumfire.loadgen.errors import one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\n lines\t", "two lines"),
        ('"\x7fi8" is no \x1b[2J type', '"\\x7fi8" is no \\x1b[2J type'),
        ("", "ValueError"),
    ],
)
def test_an_error_of_another_library_is_a_line_that_a_terminal_can_show(text: str, line: str) -> None:
    assert one_line(ValueError(text)) == line
    assert one_line(ValueError(text), 9) == line[:9] if text else "ValueError"
