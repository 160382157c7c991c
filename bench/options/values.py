"""From named values to a dataclass of options, and back; values are text, as of TOML or JSON, or already of their type.

Every check of a single value is here, so that a command line, a file and a Python caller get the same errors.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.options import Choice, Option, declaration

T = TypeVar("T")


@dataclass(frozen=True)
class Declared:
    """An option of a dataclass, or of one that is nested in it."""

    name: str
    kind: type
    """The type of its value, or of each value where it takes several."""
    several: bool
    default: Any
    """``MISSING`` where it must be given."""
    option: Option
    home: type
    """The class that declares it, whose options are a group of the help page."""

    @property
    def written(self) -> str:
        """As messages and help write it."""
        return self.option.metavar if self.option.position else flag(self.name)

    @property
    def choices(self) -> Sequence[str]:
        choices = self.option.choices
        return choices() if callable(choices) else choices


def flag(name: str) -> str:
    """The option's name on a command line."""
    return "--" + name.replace("_", "-")


def declared(options: type, kind: str | None = None) -> list[Declared]:
    """All options in the order of their declaration, with those of nested dataclasses.

    ``kind``: the value on which further options depend; None leaves them out.
    """
    types, homes = typing.get_type_hints(options), _homes(options)
    found: list[Declared] = []
    for field in dataclasses.fields(options):
        about = declaration(field)
        if isinstance(about, Option):
            found.append(
                Declared(field.name, *_taken_apart(types[field.name]), field.default, about, homes[field.name])
            )
        elif isinstance(about, Choice):
            found += declared(about.kinds()[kind], kind) if kind is not None else []
        elif dataclasses.is_dataclass(types[field.name]):
            found += declared(types[field.name], kind)
    return found


def kinds(options: type) -> tuple[str, Mapping[str, type]] | None:
    """The option on which further options depend, and their dataclass for each of its values."""
    types = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        about = declaration(field)
        if isinstance(about, Choice):
            return about.by, about.kinds()
        if about is None and dataclasses.is_dataclass(types[field.name]) and (found := kinds(types[field.name])):
            return found
    return None


def build(options: type[T], given: Mapping[str, Any], words: Sequence[str] = ()) -> T:
    """The dataclass from named values.  Raises ``UserError`` for values that it cannot have.

    Fields that are no options get, where they are called so, ``words`` and ``given``: the names, so that
    ``ineffective`` can tell given values from defaults.
    """
    dependent, kind = kinds(options), None
    if dependent is not None:
        by = next(one for one in declared(options) if one.name == dependent[0])
        kind = _value(by, given.get(by.name, by.default))
    known = {one.name: one for one in declared(options, kind)}
    for name in given:
        if name not in known:
            raise UserError(_not_known(name, known.values(), kind, dependent))
    values = {name: _value(known[name], value) for name, value in given.items()}
    lacking = [one.written for one in known.values() if one.default is MISSING and one.name not in values]
    if lacking:
        raise UserError(f"{' and '.join(lacking)} must be given")
    return _made(options, values, kind, {"given": frozenset(values), "words": tuple(words)})


def plain(options: Any) -> dict[str, Any]:
    """The values by name, as JSON or TOML can hold them; ``build`` makes equal options of them.  Paths are absolute."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value, about = getattr(options, field.name), declaration(field)
        if isinstance(about, Option):
            found[field.name] = _plain(value)
        elif dataclasses.is_dataclass(value):
            found |= plain(value)
    return {name: value for name, value in found.items() if value is not None}


def ineffective(options: Any) -> list[str]:
    """A line for each given option that has no effect in the chosen scenario."""
    values, dependent = plain(options), kinds(type(options))
    kind = None if dependent is None else values[dependent[0]]
    scenario = values["scenario"]
    return [
        f"{one.written} has no effect in {scenario}, only in {' and '.join(one.option.scenarios)}"
        for one in declared(type(options), kind)
        if one.name in options.given and one.option.scenarios and scenario not in one.option.scenarios
    ]


def nearest(word: str, words: Iterable[str]) -> str:
    """`` (did you mean …?)`` with the most similar of the words; empty where none is."""
    found = difflib.get_close_matches(word, words, 1)
    return f" (did you mean {found[0]}?)" if found else ""


def _homes(options: type) -> dict[str, type]:
    return {name: one for one in reversed(options.__mro__) for name in inspect.get_annotations(one)}


def _taken_apart(annotation: Any) -> tuple[type, bool]:
    """The type of a value, and whether there are several: of ``X``, ``X | None`` and ``tuple[X, ...]``."""
    parts = [part for part in typing.get_args(annotation) or (annotation,) if part not in (NoneType, Ellipsis)]
    if typing.get_origin(annotation) is tuple:
        return parts[0], True
    return _taken_apart(parts[0]) if parts[0] is not annotation else (annotation, False)


def _made(options: type[T], values: Mapping[str, Any], kind: str | None, context: Mapping[str, Any]) -> T:
    types = typing.get_type_hints(options)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        about = declaration(field)
        if isinstance(about, Choice):
            arguments[field.name] = _made(about.kinds()[str(kind)], values, kind, context)
        elif isinstance(about, Option):
            if field.name in values:
                arguments[field.name] = values[field.name]
        elif dataclasses.is_dataclass(types[field.name]):
            arguments[field.name] = _made(types[field.name], values, kind, context)
        elif field.name in context:
            arguments[field.name] = context[field.name]
    return options(**arguments)


def _not_known(
    name: str, known: Iterable[Declared], kind: str | None, dependent: tuple[str, Mapping[str, type]] | None
) -> str:
    if dependent is not None:
        others = [
            other for other, options in dependent[1].items() if name in {one.name for one in declared(options, other)}
        ]
        if others:
            return f"{flag(name)} has no effect with {kind}, only with {', '.join(others)}: leave it out"
    flags = [one.written for one in known if not one.option.position]
    return f"unknown option {flag(name)}{nearest(flag(name), flags)}"


def _value(one: Declared, value: Any) -> Any:
    if value is one.default or (one.option.alone is not None and value == one.option.alone):
        return value
    if not one.several:
        return _single(one, value)
    if isinstance(value, str) and one.option.separator:
        value = value.split(one.option.separator)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UserError(f"{one.written}: must be a list, not {value!r}")
    return tuple(_single(one, part) for part in value)


def _single(one: Declared, value: Any) -> Any:
    if one.choices:
        return _chosen(one, value)
    if one.kind is bool:
        if isinstance(value, bool):
            return value
        raise UserError(f"{one.written}: must be true or false, not {value!r}")
    if one.kind is int or one.kind is float:
        return _number(one, value)
    if isinstance(value, one.kind):
        return value
    if not isinstance(value, str):
        raise UserError(f"{one.written}: must be text, not {value!r}")
    if not value:
        raise UserError(f"{one.written}: must not be empty")
    return one.kind(value)


def _number(one: Declared, value: Any) -> int | float:
    what = "a whole number" if one.kind is int else "a number"
    try:
        if isinstance(value, bool) or (one.kind is int and isinstance(value, float)):
            raise ValueError
        number: int | float = one.kind(value)
    except (ValueError, TypeError):
        raise UserError(f"{one.written}: {value!r} is not {what}") from None
    about = one.option
    bounds = [
        f"{words} {bound:g}"
        for words, bound, kept in (
            ("above", 0, about.least is not None or number > 0),
            ("at least", about.least, about.least is None or number >= about.least),
            ("at most", about.most, about.most is None or number <= about.most),
        )
        if not kept
    ]
    if bounds or not math.isfinite(number):
        raise UserError(f"{one.written}: must be {' and '.join(bounds) or 'a finite number'}, not {value}")
    return number


def _chosen(one: Declared, value: Any) -> str:
    by_any_case = {choice.casefold(): choice for choice in one.choices}
    by_any_case |= {alias.casefold(): choice for alias, choice in one.option.aliases.items()}
    found = by_any_case.get(str(value).casefold())
    if found is None:
        near = nearest(str(value).casefold(), by_any_case)
        raise UserError(f"{one.written}: unknown {value!r}{near}; choose from {', '.join(one.choices)}")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


def groups(options: type, kind: str | None = None) -> Iterator[tuple[type, list[Declared]]]:
    """The options by the class that declares them."""
    of: dict[type, list[Declared]] = {}
    for one in declared(options, kind):
        of.setdefault(one.home, []).append(one)
    yield from of.items()
