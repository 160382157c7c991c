"""The page of options is what the program writes that reads them from the code."""

from __future__ import annotations

import re

from docs import options
from drumfire.bench import commands
from drumfire.bench.options.values import flag, of_all_kinds


def test_the_page_is_the_programs() -> None:
    assert options.PAGE.read_text(encoding="utf-8") == options.page(), "run: python docs/options.py"


def test_the_page_has_every_option() -> None:
    text = options.PAGE.read_text(encoding="utf-8")
    for name, command in commands.everything().items():
        section = text.partition(f"## drumfire {name}\n")[2].partition("\n## ")[0]
        assert section
        for one, _ in of_all_kinds(command.options):
            assert f"`{one.written}" in section or "As with [`drumfire run`]" in section
            assert one.option.position or f"`{flag(one.name)}" in text


def test_every_row_of_a_table_has_two_cells() -> None:
    rows = [line for line in options.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert any("&#124;" in row for row in rows)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}
