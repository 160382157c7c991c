"""From named values to a dataclass of options, and back; values are text, as of TOML or JSON, or already of their type.

Every check of a single value is here, so that a command line, a file and a Python caller get the same errors.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from drumfire.loadgen.errors import UserError, nearest
from drumfire.loadgen.options import Choice, Option, declaration, flag, path

T = TypeVar("T")
_MOST_SHOWN = 60
"""Characters of a value."""


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
    group: str
    """The title of its group on a help page."""

    @property
    def written(self) -> str:
        """As messages and help write it."""
        return self.option.metavar if self.option.position else flag(self.name)

    @property
    def choices(self) -> Sequence[str]:
        choices = self.option.choices
        return choices() if callable(choices) else choices


def declared(options: type, kind: str | None = None) -> list[Declared]:
    """All options in the order of their declaration, with those of nested dataclasses.

    ``kind``: the value on which further options depend; None leaves them out.
    """
    found: list[Declared] = []
    for field, about, inner in _fields(options, kind):
        if inner is not None:
            found += declared(inner, kind)
        elif isinstance(about, Option):
            found.append(_declared(options, field.name))
    return found


def of_all_kinds(options: type) -> list[tuple[Declared, Sequence[str]]]:
    """All options, with those of every kind; each with the kinds that have it, of which none stands for all."""
    own = declared(options)
    known, found = {one.name for one in own}, [(one, list[str]()) for one in own]
    of_kinds: dict[tuple[str, str], tuple[Declared, list[str]]] = {}
    for kind in kinds(options):
        for one in declared(options, kind):
            if one.name not in known:
                of_kinds.setdefault((one.name, one.group), (one, []))[1].append(kind)
    return [*found, *of_kinds.values()]


def kinds(options: type) -> Sequence[str]:
    """The values of the option on which further options depend."""
    dependent = _dependent(options)
    return () if dependent is None else tuple(dependent.kinds())


def kind_of(options: type, given: Mapping[str, Any]) -> str | None:
    """That option's value; None where it is not given, or nothing depends on one.  Raises ``UserError``."""
    dependent = _dependent(options)
    if dependent is None:
        return None
    by = next(one for one in declared(options) if one.name == dependent.by)
    value = given.get(by.name, by.default)
    for one in declared(options):
        other = given.get(one.name)
        if one.option.known and other in by.choices and value in one.option.known():
            raise UserError(f"{by.written} comes before {one.written}: {other} {value}")
    return None if value is MISSING else _value(by, value)


def build(options: type[T], given: Mapping[str, Any], words: Sequence[str] = ()) -> T:
    """The dataclass from named values.  Raises ``UserError`` for values that it cannot have.

    Fields named ``given`` and ``words`` receive the option names, by which ``ineffective`` tells given values from
    defaults, and the command line.
    """
    kind = kind_of(options, given)
    known = {one.name: one for one in declared(options, kind)}
    for name in given:
        if name not in known:
            raise UserError(_not_known(name, options, kind))
    values = {name: _value(known[name], value) for name, value in given.items()}
    lacking = [one.written for one in known.values() if one.default is MISSING and one.name not in values]
    if lacking:
        raise UserError(f"{' and '.join(lacking)} must be given")
    for name, value in values.items():
        needs = known[name].option.needs
        if needs and value != known[name].default and not values.keys() & set(needs):
            raise UserError(f"{flag(name)} has no effect without {' or '.join(map(flag, needs))}: leave it out")
    return _made(options, values, kind, {"given": frozenset(values), "words": tuple(words)})


def plain(options: Any) -> dict[str, Any]:
    """The values by name, as JSON or TOML can hold them; ``build`` makes equal options of them.  Paths are absolute."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            found |= plain(value)
        elif value is not None and declaration(field) is not None:
            found[field.name] = _plain(value)
    return found


def words(options: Any) -> list[str]:
    """The words of a command line with the given options."""
    values = plain(options)
    found, after = list[str](), list[str]()
    for one in declared(type(options), kind_of(type(options), values)):
        value = values.get(one.name)
        if one.name not in options.given or value is None or value is False:
            continue
        texts = [str(part) for part in value] if one.several else [str(value)]
        if one.option.rest:
            after = ["--", *texts]
        elif one.option.position:
            found += texts
        elif value is True or value == one.option.alone:
            found.append(flag(one.name))
        else:
            for text in [one.option.separator.join(texts)] if one.option.separator else texts:
                found += [flag(one.name), text]
    return found + after


def ineffective(options: Any) -> list[str]:
    """A line for each given option that has no effect in the chosen scenario, or beside the other options."""
    values, lines = plain(options), []
    for one in declared(type(options), kind_of(type(options), values)):
        about, why = one.option, ""
        if about.scenarios and (kind := _kind_of_run(values)) not in about.scenarios:
            why = f"in {kind}, only in {' and '.join(about.scenarios)}"
        elif about.idle is not None:
            why = about.idle(values)
        if why and one.name in options.given:
            lines.append(f"{one.written} has no effect {why}")
    return lines


def _kind_of_run(values: Mapping[str, Any]) -> str:
    from drumfire.loadgen.settings import CLOSED_LOOP, Loop  # which help pages do without

    return CLOSED_LOOP if values.get("loop") == Loop.CLOSED.value else str(values["scenario"])


_types = functools.cache(typing.get_type_hints)
"""The types of a class's fields, by name."""


@functools.cache
def _declared(options: type, name: str) -> Declared:
    """One of a class's own options.  It never changes, and a command line asks for it a hundred times."""
    field = next(one for one in dataclasses.fields(options) if one.name == name)
    home = next(one for one in options.__mro__ if name in inspect.get_annotations(one))
    kind, several = _taken_apart(_types(options)[name])
    about = declaration(field)
    assert isinstance(about, Option)
    return Declared(name, kind, several, field.default, about, getattr(home, "TITLE", "options"))


def _fields(
    options: type, kind: str | None
) -> Iterator[tuple[dataclasses.Field[Any], Option | Choice | None, type | None]]:
    """The fields, each with what it declares, and the dataclass that is nested in it, if any."""
    types = _types(options)
    for field in dataclasses.fields(options):
        about = declaration(field)
        if isinstance(about, Choice):
            yield field, about, None if kind is None else about.kinds()[kind]
        else:
            nested = about is None and dataclasses.is_dataclass(types[field.name])
            yield field, about, types[field.name] if nested else None


def _dependent(options: type) -> Choice | None:
    """The first field of options that depend on another option."""
    for _, about, inner in _fields(options, None):
        found = about if isinstance(about, Choice) else _dependent(inner) if inner is not None else None
        if found is not None:
            return found
    return None


def _taken_apart(annotation: Any) -> tuple[type, bool]:
    """The type of a value, and whether there are several: of ``X``, ``X | None`` and ``tuple[X, ...]``."""
    parts = [part for part in typing.get_args(annotation) if part not in (NoneType, Ellipsis)]
    return parts[0] if parts else annotation, typing.get_origin(annotation) is tuple


def _made(options: type[T], values: Mapping[str, Any], kind: str | None, context: Mapping[str, Any]) -> T:
    arguments: dict[str, Any] = {}
    for field, about, inner in _fields(options, kind):
        if inner is not None:
            arguments[field.name] = _made(inner, values, kind, context)
        elif about is None and field.name in context:
            arguments[field.name] = context[field.name]
        elif about is not None and field.name in values:
            arguments[field.name] = values[field.name]
    return options(**arguments)


def _not_known(name: str, options: type, kind: str | None) -> str:
    others = [other for one, its_kinds in of_all_kinds(options) for other in its_kinds if one.name == name]
    if others:
        return f"{flag(name)} has no effect with {kind}, only with {', '.join(others)}: leave it out"
    flags = [flag(one.name) for one in declared(options, kind) if not one.option.position]
    return f"unknown option {flag(name)}{nearest(flag(name), flags)}"


def _value(one: Declared, value: Any) -> Any:
    known = [known for known in (one.default, one.option.alone) if known is not None]
    if value is one.default or any(type(value) is type(each) and value == each for each in known):
        return value
    if not one.several:
        return _single(one, value)
    if isinstance(value, str) and one.option.separator:
        value = value.split(one.option.separator)
    return tuple(_single(one, part) for part in (value if isinstance(value, list | tuple) else [value]))


def _single(one: Declared, value: Any) -> Any:
    try:
        text = str(value)
    except ValueError:  # Python's limit of 4300 digits
        raise UserError(f"{one.written}: no number has so many digits") from None
    if one.choices:
        return _chosen(one, value)
    if one.kind is bool:
        if isinstance(value, bool):
            return value
        raise UserError(f"{one.written}: must be true or false, not {_shown(value, repr)}")
    if one.kind is int or one.kind is float:
        return _number(one, value)
    if type(value) is int and one.option.check is not None:
        value = text
    if not isinstance(value, (str, one.kind)):
        raise UserError(f"{one.written}: must be text, not {_shown(value, repr)}")
    if not text:
        raise UserError(f"{one.written}: must not be empty")
    return _path(one, text) if one.kind is Path else _text(one, text)


_UNIT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?[a-z/%]{1,4}")
"""A number with what is no part of it."""


def _number(one: Declared, value: Any) -> int | float:
    what = "a whole number" if one.kind is int else "a number"
    try:
        if isinstance(value, bool) or (one.kind is int and isinstance(value, float)):
            raise ValueError
        number: int | float = one.kind(value)
    except (ValueError, TypeError, OverflowError):
        unit = _UNIT.fullmatch(value) if isinstance(value, str) else None
        plain = f": write it without a unit, as {unit[1]}" if unit else ""
        raise UserError(f"{one.written}: {_shown(value, repr)} is not {what}{plain}") from None
    least, most = one.option.least, one.option.most
    if least is None and not number > 0:
        raise UserError(f"{one.written}: must be above 0, not {_shown(value)}")
    if least is not None and not number >= least:
        raise UserError(f"{one.written}: must be at least {_digits(least)}, not {_shown(value)}")
    if number > most:
        raise UserError(f"{one.written}: must be at most {_digits(most)}, not {_shown(value)}")
    return number


def _digits(bound: float) -> str:
    return f"{bound:,.9f}".rstrip("0").rstrip(".")


def _shown(value: object, form: Callable[[object], str] = str) -> str:
    """As in an error's line, which an absurd value must not fill."""
    text = form(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _text(one: Declared, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{one.written}: {_shown(value, repr)} is not UTF-8") from None
    if one.option.check is not None:
        one.option.check(value)
    return value


def _path(one: Declared, value: str) -> Path:
    try:
        return path(value)
    except ValueError as error:
        raise UserError(f"{one.written}: {error}") from None


def _chosen(one: Declared, value: Any) -> str:
    value = value.name if isinstance(value, enum.Enum) else value
    by_any_case = {choice.casefold(): choice for choice in one.choices}
    by_any_case |= {alias.casefold(): choice for alias, choice in one.option.aliases.items()}
    text = str(value).casefold()
    word, colon, detail = text.partition(":") if one.option.detail else (text, "", "")
    found = by_any_case.get(word)
    if found is not None and colon and re.fullmatch(one.option.detail, detail, re.ASCII):
        return f"{found}:{detail}"
    if found is None or colon:
        near = nearest(str(value)[:_MOST_SHOWN], one.choices)
        forms = f", or write {one.option.forms}" if one.option.forms else ""
        choices = ", ".join(one.choices)
        raise UserError(f"{one.written}: unknown {_shown(value, repr)}{near}; choose one of {choices}{forms}")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return [_plain(part) for part in value] if isinstance(value, tuple) else value
