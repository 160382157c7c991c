"""Options as data: what a kind of thing (a command, a backend, a server's protocol) lets its user choose.

A kind declares its options as a frozen dataclass in its own file, each field by ``option``.  ``drumfire.bench.options``
makes command lines, TOML files and help of them, and checks values.  Here they are only declared.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """What a field declares besides name, type and default.

    The type says how it is written: ``bool`` is a flag, a tuple takes several values, any other type takes one.
    """

    help: str
    metavar: str = ""
    """By default ``N`` for whole numbers, ``F`` for other numbers and for paths, ``NAME`` for text."""
    least: float | None = None
    """A number is at least this, in the unit that ``help`` names; by default it is above 0."""
    most: float = 1e9
    choices: Sequence[str] | Callable[[], Sequence[str]] = ()
    """Written in any case.  A function is called only when they are needed: some take long to import."""
    detail: str = ""
    """What may follow a choice and a colon, as a regular expression."""
    forms: str = ""
    """Examples of choices with that, for an error."""
    known: Callable[[], Sequence[str]] | None = None
    """Words that it can be, besides names of files."""
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Other words for a choice."""
    scenarios: Sequence[str] = ()
    """The scenarios in which it has an effect; none stands for all."""
    needs: Sequence[str] = ()
    """The names of other options: it has an effect only where one of them is given; none stands for always."""
    idle: Callable[[Mapping[str, Any]], str] | None = None
    """With the values of all options: beside which of them it has no effect; empty where it has one."""
    alone: Any = None
    """Its value when its name is written without one; None: it must have one."""
    separator: str = ""
    """Separates the values of a tuple within a word; without it, the option is repeated."""
    check: Callable[[str], object] | None = None
    """Raises ``UserError`` (in training ``ValueError``) for text that the option cannot have; such text may also be
    given as a whole number."""
    position: bool = False
    """It is written as a word of its own, without its name."""
    rest: bool = False
    """As a position, it takes all words after the first ``--`` as they are."""


@dataclass(frozen=True)
class Choice:
    """Options that depend on the value of another option, such as those of a backend."""

    by: str
    """The name of the other option."""
    kinds: Callable[[], Mapping[str, type]]
    """The dataclass of options for each of its values."""


def option(default: Any = MISSING, *, help: str, **details: Any) -> Any:  # noqa: A002
    """The field of an option, which must be given if it has no ``default``.  ``details``: see ``Option``."""
    return dataclasses.field(default=default, metadata={_KEY: Option(help, **details)})


def choice(by: str, kinds: Callable[[], Mapping[str, type]]) -> Any:
    """The field of options that depend on another option: see ``Choice``."""
    return dataclasses.field(default=None, metadata={_KEY: Choice(by, kinds)})


def flag(name: str) -> str:
    """The option's name on a command line."""
    return "--" + name.replace("_", "-")


def path(word: str) -> Path:
    """The path that a word names.  Raises ``ValueError``, whose text says why no file can have it."""
    if not word:
        raise ValueError("must not be empty")
    try:
        os.lstat(word)
    except ValueError:
        raise ValueError(f"{word!r} cannot be a path") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"the name is too long for a file: {word[:60]}...") from None
    return Path(word)


def declaration(field: dataclasses.Field[Any]) -> Option | Choice | None:
    """What a field declares; None for other fields."""
    found: Option | Choice | None = field.metadata.get(_KEY)
    return found
