"""A journal: what is measured by several runs, and a line for each that has ended, on the disk before the next starts.

What was interrupted or killed resumes from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drumfire.loadgen.errors import UserError, printable
from drumfire.loadgen.files import parse_json, read_bytes
from drumfire.loadgen.schema import Schema, fault


@dataclass(frozen=True)
class Begun:
    """The content of a journal."""

    subject: Mapping[str, Any]
    again: str
    """The command that resumes it; empty where an earlier version began it."""
    lines: list[Any]
    """Whole ones, in JSON."""
    cut: int
    """Bytes of an incomplete last line."""


def read(path: Path, kind: str, subject: Schema) -> Begun | None:
    """Read a journal; None where it has no whole line.  Raises ``UserError`` for a file that is no journal.

    ``kind``: of what, a word; ``subject``: what it says of what is measured.
    """
    try:
        text = read_bytes(path)
    except UserError as error:
        raise UserError(f"{error}; choose another --output") from None
    *whole, incomplete = text.split(b"\n")
    if not whole:
        return None
    try:
        head = checked(parse_json(whole[0]), {kind: subject, "again": {"type": "string"}})
        lines = [parse_json(line) for line in whole[1:]]
        return Begun(head[kind], head.get("again", ""), lines, len(incomplete))
    except (ValueError, TypeError, KeyError):
        raise no_journal(path, kind) from None


def no_journal(path: Path, kind: str) -> UserError:
    return UserError(f"{path} is not the journal of a {kind}: choose another --output, or remove it")


def check_same(path: Path, kind: str, begun: Begun, subject: Mapping[str, Any]) -> None:
    """Raise ``UserError`` where ``begun`` is of another subject."""
    named = {**begun.subject, **subject}
    wanted = json.loads(json.dumps(subject))
    if differs := [name for name in named if begun.subject.get(name) != wanted.get(name)]:
        listed = printable(", ".join(sorted(differs)))[:200]
        raise UserError(
            f"{path} is of another {kind} (it differs in {listed}): give the options of that {kind} to resume it, "
            "or choose another --output"
        )


def checked(value: Any, parts: Mapping[str, Schema], *, whole: bool = False) -> Any:
    """The object, which has the types of ``parts``; if ``whole``, it has all of them.  Raises ``ValueError``."""
    if (wrong := fault(value, {"type": "object", "properties": parts}, whole=whole)) is not None:
        raise ValueError(wrong)
    return value


def resuming(words: Sequence[str], output: Path | None, folder: Path) -> str:
    """The command that resumes in ``folder``: ``words``, with the option where they leave it out, as ``output`` says.

    It comes before a ``--``, after which no word is an option.
    """
    at = words.index("--") if "--" in words else len(words)
    option = ["--output", str(folder)] if output is None else []
    return shlex.join(["drumfire", *words[:at], *option, *words[at:]])


def resuming_where_it_is(again: str, folder: Path) -> str:
    """The command ``again`` with ``folder`` as its --output: that of a folder that was moved would begin a new one."""
    words = shlex.split(again)
    options = words[: words.index("--")] if "--" in words else words
    for at, word in enumerate(options):
        name, equals, value = word.partition("=")
        if len(name) > len("--") and "--output".startswith(name):  # an abbreviation too
            here = at if equals else at + 1
            value = value if equals else "".join(words[here : here + 1])
            with contextlib.suppress(OSError):
                if os.path.samefile(value, folder):
                    return again
            words[here : here + 1] = [f"{name}={folder}" if equals else str(folder)]
            return shlex.join(words)
    return again


class Journal:
    """A file with a line for the subject, then one for each run; an incomplete last line is dropped."""

    def __init__(self, path: Path, kind: str, begun: Begun | None, subject: Mapping[str, Any], again: str) -> None:
        """Create the file, or open that of ``begun``.  Raises ``UserError`` if this is of another subject.

        ``again``: the command that resumes it.
        """
        self._path = path
        if begun is None:
            self.write({kind: dict(subject), "again": again}, "w")
            return
        check_same(path, kind, begun, subject)
        if begun.cut:
            os.truncate(path, path.stat().st_size - begun.cut)

    def write(self, line: Mapping[str, Any], mode: str = "a") -> None:
        with open(self._path, mode, encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
