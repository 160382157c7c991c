"""The program ``drumfire``: finds the command, runs it with its options, and turns errors into a line and a status.

Imports only the standard library at first, so that ``drumfire --help`` is quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from drumfire.bench import commands, interrupts, statuses
from drumfire.loadgen import streams
from drumfire.loadgen.errors import UnsavedError, UserError, one_line, printable
from drumfire.loadgen.limits import check_addresses, on_limit

PROGRAM = "drumfire"
_TRACEBACK = "DRUMFIRE_TRACEBACK"
"""An environment variable; 1 shows where an error comes from."""


def program() -> NoReturn:
    """Run the process ``drumfire``: ``main``, and end with its exit status."""
    interrupts.install()
    streams.install()
    status = main()
    interrupts.leave()
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default this process's own, and return the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    path: list[str] = []
    try:
        status = _main(words, path)
        if streams.complain():
            status = statuses.worst(status, statuses.UNSAVED)
    except KeyboardInterrupt as error:
        return _failed(str(error) or "interrupted, and nothing was saved", [], statuses.INTERRUPTED)
    except _Misused as error:
        return _failed(f"{error} (see '{' '.join([PROGRAM, *path])} --help')", path, statuses.USAGE)
    except UserError as error:
        return _failed(str(error), [], statuses.USAGE)
    except UnsavedError as error:
        return _failed(str(error), [], statuses.UNSAVED)
    except Exception as error:
        if (limit := on_limit(error)) is not None:
            return _failed(limit, [], statuses.USAGE)
        text = f"a fault of drumfire: {type(error).__name__}: {one_line(error)} ({_TRACEBACK}=1 shows where)"
        return _failed(text, [], statuses.CRASH)
    return status


class _Misused(Exception):
    """Words that no command or option has."""


def _failed(text: str, path: Sequence[str], status: int) -> int:
    if os.environ.get(_TRACEBACK) == "1":
        traceback.print_exc()
    lines = f"{' '.join([PROGRAM, *path])}: {text}".split("\n")  # more than one where generators differ: a table
    print("\n".join(map(printable, lines)), file=sys.stderr)
    return status


def _main(words: list[str], path: list[str]) -> int:
    """``path`` becomes the words of the chosen command's name."""
    while below := commands.below(path):
        if words[len(path) :][:1] == ["help"]:
            words[len(path) :] = [*words[len(path) + 1 :], "--help"]
        word = words[len(path)] if len(words) > len(path) else "--help"
        if commands.runs(path) and word not in below:
            break
        if word in ("-h", "--help"):
            print(_overview(path), end="")
            return statuses.DONE
        if words[-1:] == ["--version"] and len(words) <= 2:
            from drumfire.loadgen.version import VERSION

            print(f"{PROGRAM} {VERSION}")
            return statuses.DONE
        if not path and word in commands.ALSO:
            words[:1] = commands.ALSO[word].split()
            continue
        if word not in below:
            from drumfire.loadgen.errors import nearest

            raise _Misused(f"unknown command {word!r}{nearest(word, below)}")
        path.append(word)
    return _run(path, words)


def _run(path: Sequence[str], words: list[str]) -> int:
    """Run the command at ``path`` with the words after it."""
    check_addresses()
    from drumfire.bench.options import files, parser, values

    command = commands.load(" ".join(path))
    try:
        parsed = parser.parse(command, words[len(path) :])
        given = (files.read(Path(parsed.config)) if parsed.config is not None else {}) | parsed.values
        if parsed.help:
            kind = values.kind_of(command.options, given)
            print(parser.help_page(" ".join([PROGRAM, *path]), command, kind), end="")
            return statuses.DONE
        options: Any = values.build(command.options, given, words)
    except UserError as error:
        raise _Misused(error) from None
    if parsed.print_config:
        print(files.text(options, given), end="")
        return statuses.DONE
    status = command.run(options)
    if command.kept:
        streams.complain()
    return status


def _overview(path: Sequence[str]) -> str:
    """The help page of commands."""
    from drumfire.bench.options import parser

    about, epilog = "An MLPerf-style benchmark: exact traffic, honest latency, any model.", ""
    if path:
        about = commands.COMMANDS[" ".join(path)]
    else:
        held = "; ".join(f"{status} {meaning}" for status, meaning in sorted(statuses.MEANINGS.items()))
        epilog = f"Exit status: {held}."
    return parser.overview(" ".join([PROGRAM, *path]), about, commands.below(path), epilog)
