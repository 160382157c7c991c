"""``drumfire completion``: prints the script by which a shell completes the words of ``drumfire``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shtab

from drumfire.bench import cli, commands, statuses
from drumfire.bench.options.parser import Command, tree
from drumfire.bench.options.values import of_all_kinds
from drumfire.loadgen.options import option


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire completion``."""

    shell: str = option(
        metavar="SHELL", position=True, choices=shtab.SUPPORTED_SHELLS, help=", ".join(shtab.SUPPORTED_SHELLS)
    )


def completion(options: Options) -> int:
    """Print the script, and return the exit status."""
    everything = commands.everything()
    parser = tree(cli.PROGRAM, commands.COMMANDS, everything)
    for name, command in everything.items():
        _add_files(parser, name.split(), command)
    print(shtab.complete(parser, options.shell))
    return statuses.DONE


def _add_files(parser: Any, path: Sequence[str], command: Command) -> None:
    """Let the words that can be files be completed as such, and those that have known words by these too."""
    for word in path:
        parser = next(action.choices[word] for action in parser._actions if isinstance(action.choices, dict))
    known = {one.name: one.option.known for one, _ in of_all_kinds(command.options)}
    files = {one.name for one, _ in of_all_kinds(command.options) if one.kind is Path} | {"config"}
    for action in parser._actions:
        if words := known.get(action.dest):
            action.choices = [*words(), shtab.Choice("file")]
        elif action.dest in files:
            action.complete = shtab.DIRECTORY if action.metavar == "D" else shtab.FILE


COMMAND = Command(
    Options, completion, "Print a completion script for a shell.", "drumfire completion bash >> ~/.bash_completion"
)
