"""From the words of a training program to its dataclass of options.  The only module of training that knows argparse.

Each program declares its options in its own file, by ``drumfire.loadgen.options.option``.
"""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, TypeVar

from drumfire.loadgen.options import Option, declaration, flag, path
from drumfire.training.faults import InputError

T = TypeVar("T")

MOST_SEED = 2**31 - 1
"""For options that are seeds."""


def parse(
    program: str,
    about: str | None,
    options: type[T],
    words: Sequence[str] | None,
    late: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> T:
    """The options from words, by default this process's.  Raises ``InputError``.

    ``late`` gives defaults of options that have none, by name, from the values of all; without it, they must be given.
    """
    values = vars(_parser(program, about, options, required=late is None).parse_args(words))
    if late is not None:
        values |= {name: default for name, default in late(values).items() if values[name] is None}
    return options(**values)


def parse_some(program: str, about: str | None, options: type[T], words: Sequence[str] | None) -> tuple[T, list[str]]:
    """The options, and the words that are not among them.  Raises ``InputError``."""
    parser = _parser(program, about, options)
    parser.allow_abbrev = False  # the beginning of an option here may be a whole option of a run
    found, others = parser.parse_known_args(words)
    return options(**vars(found)), others


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removeprefix('argument ')} (see '{self.prog} --help')")


def _parser(program: str, about: str | None, options: type, *, required: bool = True) -> _Parser:
    parser = _Parser(f"python -m {program}", description=about)
    types = typing.get_type_hints(options)
    for field in fields(options):
        option = declaration(field)
        assert isinstance(option, Option)
        (kind,) = [part for part in typing.get_args(types[field.name]) or (types[field.name],) if part is not NoneType]
        details: dict[str, Any] = {"help": option.help}
        if kind is bool:
            details["action"] = "store_true"
        else:
            metavar = option.metavar or ("N" if kind is int else None)
            read = _number(option) if kind is int else _checked(option, path if kind is Path else _text)
            details |= {"type": read, "choices": option.choices or None, "metavar": metavar}
        if option.position:
            parser.add_argument(field.name, **details)
        elif field.default is MISSING:
            parser.add_argument(flag(field.name), required=required, **details)
        else:
            parser.add_argument(flag(field.name), default=field.default, **details)
    return parser


def _checked(option: Option, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """``read`` raises ``ValueError`` with a text for the user; so does the option's own check."""

    def value(word: str) -> Any:
        try:
            found = read(word)
            if option.check is not None:
                option.check(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return found

    return value


def _text(word: str) -> str:
    if not word:
        raise ValueError("must not be empty")
    if not word.isprintable():
        raise ValueError(f"{word!r} cannot be shown")
    return word


def _number(option: Option) -> Callable[[str], int]:
    least = 1 if option.least is None else option.least

    def number(word: str) -> int:
        try:
            value = int(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word[:60]!r} is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least:.0f}, not {word[:60]}")
        if value > option.most:
            raise argparse.ArgumentTypeError(f"must be at most {option.most:.0f}, not {word[:60]}")
        return value

    return number
