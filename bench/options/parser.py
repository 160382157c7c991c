"""Command lines: from words to named values, and help.  The only module of the commands that knows argparse.

argparse only takes the words apart; ``values`` checks them, as it does those of files and of Python callers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, NoReturn

from drumfire.bench.options.values import Declared, declared, flag, groups, kinds, nearest
from drumfire.loadgen.errors import UserError


@dataclass(frozen=True)
class Command:
    """A command: its options, what it does, and what its help page says."""

    options: type
    """A dataclass: see ``drumfire.loadgen.options``."""
    run: Callable[[Any], int]
    """Takes an instance of ``options`` and returns an exit status."""
    description: str
    example: str = ""


@dataclass(frozen=True)
class Parsed:
    """A command line taken apart."""

    values: dict[str, Any]
    """By the option's name: text, or a list of it; True for a flag."""
    config: str | None
    """The TOML file that holds further options."""
    print_config: bool
    help: bool


_METAVARS = {int: "N", float: "F", Path: "F", str: "NAME"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def parse(command: Command, words: Sequence[str]) -> Parsed:
    """Raises ``UserError`` for words that the command does not have."""
    parser = _parser("", command, pages=False)
    namespace, rest = parser.parse_known_args(list(words))
    values = vars(namespace)
    unknown = [word for word in rest if word.startswith("-") and word not in ("-", "--")]
    if unknown:
        name = unknown[0].partition("=")[0]
        known = [flag(one.name) for _, options in _titled(command.options, None) for one in options]
        raise UserError(f"unknown option {name}{nearest(name, known)}")
    general = {name: values.pop(name, None) for name in ("config", "print_config", "help")}
    values |= _placed([word for word in rest if word != "--"], _positions(command.options))
    return Parsed(values, general["config"], bool(general["print_config"]), bool(general["help"]))


def help_page(program: str, command: Command, kind: Any) -> str:
    """``kind``: the value on which options depend, where it is known; else the options for all of its values."""
    dependent = kinds(command.options)
    if dependent is None or kind not in dependent[1]:
        kind = None
    return _parser(program, command, kind).format_help()


def overview(program: str, description: str, commands: Mapping[str, str], epilog: str = "") -> str:
    """The help page of a program with commands: each with its line."""
    parser = argparse.ArgumentParser(program, description=description, epilog=epilog, usage=f"{program} COMMAND ...")
    listed = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, line in commands.items():
        listed.add_parser(name, help=line)
    return parser.format_help()


def tree(program: str, commands: Mapping[str, tuple[str, Command | Mapping[str, Any]]]) -> argparse.ArgumentParser:
    """A parser of all commands, for what reads parsers.  ``commands``: the line of each, and it or those below it."""
    parser = argparse.ArgumentParser(program)
    _add_commands(parser, program, commands)
    return parser


def _add_commands(parser: argparse.ArgumentParser, program: str, commands: Mapping[str, Any]) -> None:
    listed = parser.add_subparsers(metavar="COMMAND")
    for name, (line, command) in commands.items():
        title = f"{program} {name}"
        if isinstance(command, Command):
            whole = _parser(title, command)
            listed.add_parser(name, help=line, parents=[whole], add_help=False)
        else:
            _add_commands(listed.add_parser(name, help=line), title, command)


def _parser(program: str, command: Command, kind: str | None = None, *, pages: bool = True) -> _Parser:
    """``kind``: None for the options of all kinds.  ``pages``: with what only help pages show."""
    positions = _positions(command.options)
    parser = _Parser(
        program,
        usage=" ".join((program, *(_place(one) for one in positions), "[OPTIONS]")),
        description=command.description,
        epilog=command.example and f"For example: {command.example}",
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    words = parser.add_argument_group("words")
    for one in positions if pages else ():
        words.add_argument(one.name, metavar=one.written, help=_help(one), nargs="*")
    added: set[str] = set()
    for title, options in _titled(command.options, kind):
        group = parser.add_argument_group(title)
        for one in options:
            if one.name not in added:  # several kinds may have an option of this name
                added.add(one.name)
                _add(group, one)
    general = parser.add_argument_group("general")
    general.add_argument("--config", metavar="F", help="a TOML file of options; those of the command line win")
    general.add_argument("--print-config", action="store_true", help="print such a file with these options, and end")
    general.add_argument("-h", "--help", action="store_true", help="show this page, and end")
    return parser


def _titled(options: type, kind: str | None) -> Iterable[tuple[str, list[Declared]]]:
    """The groups of a help page."""
    own = list(groups(options, kind))
    dependent = kinds(options)
    if dependent is not None and kind is None:
        of_kinds: dict[type, tuple[list[Declared], list[str]]] = {}
        for name, its_options in dependent[1].items():
            for home, ones in groups(its_options, name):
                of_kinds.setdefault(home, (ones, []))[1].append(name)
        own += [(home, ones) for home, (ones, _) in of_kinds.items()]
    else:
        of_kinds = {}
    for home, ones in own:
        title = getattr(home, "TITLE", "options")
        if home in of_kinds:
            title += f" ({', '.join(of_kinds[home][1])})"
        flags = [one for one in ones if not one.option.position]
        if flags:
            yield title, flags


def _add(group: argparse._ArgumentGroup, one: Declared) -> None:
    details: dict[str, Any] = {"help": _help(one)}
    if one.kind is bool:
        details["action"] = "store_true"
    else:
        details["metavar"] = one.option.metavar or _METAVARS[one.kind]
        if one.several and not one.option.separator:
            details["action"] = "append"
        elif one.option.alone is not None:
            details |= {"nargs": "?", "const": one.option.alone}
    group.add_argument(flag(one.name), dest=one.name, **details)


def _help(one: Declared) -> str:
    text = one.option.help
    default = None if one.default in (MISSING, None, False, ()) or "(default" in text else one.default
    if default is not None:
        text += f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
    return text.replace("%", "%%")


def _positions(options: type) -> list[Declared]:
    return [one for one in declared(options) if one.option.position]


def _place(one: Declared) -> str:
    name = one.written + ("..." if one.several else "")
    return name if one.default is MISSING else f"[{name}]"


def _placed(words: Sequence[str], positions: Sequence[Declared]) -> dict[str, Any]:
    """The words by the name of their position; the last position may take several."""
    values: dict[str, Any] = {}
    left = list(words)
    for one in positions:
        if one.several:
            values |= {one.name: left} if left else {}
            left = []
        elif left:
            values[one.name] = left.pop(0)
    if left:
        raise UserError(f"one word too many: {left[0]!r}")
    return values
