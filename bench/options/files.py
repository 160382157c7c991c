"""TOML files of options, with the names of the command line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drumfire.bench.options.values import Declared, declared, kind_of, plain
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import check_file


def read(path: Path) -> dict[str, Any]:
    """The values by the option's name.  Raises ``UserError``."""
    check_file(path, "--config")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"--config {path} is nested too deep") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise UserError(f"--config {path} is not TOML: {error}") from None
    found: dict[str, Any] = {}
    for name, value in values.items():
        plain_name = name.replace("-", "_")
        if plain_name in found:
            raise UserError(f"--config {path}: {name} is there twice, with - and with _: leave one out")
        found[plain_name] = value
    return found


def text(options: Any, given: Mapping[str, Any]) -> str:
    """The options as TOML, in their groups: those given, and as comments all others with their defaults.

    Raises ``UserError`` for a path that is not UTF-8, which no TOML file can hold.
    """
    values, groups = plain(options), dict[str, list[str]]()
    for one in declared(type(options), kind_of(type(options), values)):
        lines = groups.setdefault(one.group, [f"## {one.group}"])
        if one.name in given:
            _check_utf8(one, values[one.name])
        value = f"{one.name.replace('_', '-')} = {_toml(values[one.name]) if one.name in values else ''}".rstrip()
        lines += [f"# {one.option.help}", value if one.name in given else f"# {value}"]
    return "\n\n".join("\n".join(lines) for lines in groups.values()) + "\n"


def _check_utf8(one: Declared, value: Any) -> None:
    try:
        _toml(value).encode()
    except UnicodeEncodeError:
        raise UserError(f"{one.written}: {value!r} is not UTF-8, as a TOML file must be: give it without one") from None


def _toml(value: Any) -> str:
    """A value of ``plain``.  TOML writes these as JSON does, but for the character DEL in text."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
