"""``python -m bench`` is ``drumfire``."""

from bench.cli import program

program()
