"""RESULTS.md: a section for each comparison, between markers with its name.

Handles Markdown and the machine's description.  Does not depend on what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drumfire.bench.peers.rounds import Rounds, compact
from drumfire.loadgen import environment
from drumfire.loadgen.files import in_one_step

_TITLE = "# Drumfire beside other tools\n"


def put(path: Path, name: str, section: str, rounds: Rounds) -> None:
    """Write the section into its Markdown file, and the raw rounds into a folder of the section's name beside it."""
    put_section(path, name, section)
    raw = path.parent / name / "rounds.json"
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_text(compact(rounds), encoding="utf-8")


def put_section(path: Path, name: str, section: str) -> None:
    """Replace the section of that name, or add it at the end; all other text stays."""
    text = path.read_text(encoding="utf-8") if path.exists() else _TITLE
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_one_step(path) as file:
        file.write(with_section(text, name, section).encode())


def with_section(text: str, name: str, section: str) -> str:
    """``text`` with the named section replaced or added.  Raises ``ValueError`` where a marker is missing."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    marked = f"{begin}\n{section.strip()}\n{end}"
    if begin not in text and end not in text:
        return f"{text.rstrip()}\n\n{marked}\n".lstrip()
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"the markers {begin} and {end} must both be there, in this order")
    return f"{before}{marked}{after}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def machine(distributions: Iterable[str], load: Sequence[float]) -> str:
    """Date, machine and versions as a list; ``load`` is the machine's load average before anything was measured."""
    return described(
        environment.describe(distributions), datetime.now().astimezone().isoformat(timespec="seconds"), load
    )


def described(here: Mapping[str, Any], date: str, load: Sequence[float]) -> str:
    """As ``machine``, of what ``environment.describe`` said then."""
    named = ", ".join(f"{name} {version}" for name, version in here["versions"].items() if version is not None)
    memory = "unknown memory" if here["memory_bytes"] is None else f"{here['memory_bytes'] / 2**30:.0f} GiB"
    return "\n".join(
        (
            f"* date: {date}",
            f"* machine: {'; '.join((*here['gpus'], here['cpu']))}, {here['cores']} cores, {memory}",
            f"* system: {here['system']}, python {here['python']}",
            f"* versions: {named}; revision {here['git_revision']}",
            f"* load average at the start (1, 5, 15 minutes): {', '.join(f'{value:.2f}' for value in load)}",
        )
    )
