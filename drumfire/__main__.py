"""``python -m drumfire`` is the command line."""

from drumfire.bench.cli import program

program()
