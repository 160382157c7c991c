"""``drumfire completion``: prints the script by which a shell completes the words of ``drumfire``."""

from __future__ import annotations

from dataclasses import dataclass

import shtab

from drumfire.bench import cli, commands, statuses
from drumfire.bench.options.parser import Command, tree
from drumfire.loadgen.options import option


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire completion``."""

    shell: str = option(metavar="SHELL", position=True, choices=shtab.SUPPORTED_SHELLS, help="bash, zsh or tcsh")


def completion(options: Options) -> int:
    """Print the script, and return the exit status."""
    print(shtab.complete(tree(cli.PROGRAM, commands.COMMANDS, commands.everything()), options.shell))
    return statuses.DONE


COMMAND = Command(
    Options, completion, "Print a completion script for a shell.", "drumfire completion bash >> ~/.bash_completion"
)
