"""Command lines: from words to named values, and help.  The only module of the commands that knows argparse.

argparse only takes the words apart; ``values`` checks them, as it does those of files and of Python callers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, NoReturn

from drumfire.bench.options.values import Declared, declared, of_all_kinds
from drumfire.loadgen.errors import UserError, nearest
from drumfire.loadgen.options import flag


@dataclass(frozen=True)
class Command:
    """A command: its options, what it does, and what its help page says."""

    options: type
    """A dataclass: see ``drumfire.loadgen.options``."""
    run: Callable[[Any], int]
    """Takes an instance of ``options`` and returns an exit status."""
    description: str
    example: str = ""
    kept: bool = False
    """Whether what it prints is in a folder too, so that its status does not change where nobody can read it."""


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
    line, after = list(words), None
    if (raw := _raw(command.options)) is not None and "--" in line:
        at = line.index("--")
        line, after = line[:at], line[at + 1 :]
    namespace, rest = _parser("", command, pages=False).parse_known_args(line)
    values = vars(namespace)
    for word in rest:
        if word.startswith("-") and word not in ("-", "--"):
            name = word.partition("=")[0]
            known = [flag(one.name) for options in titled(command.options).values() for one in options]
            raise UserError(f"unknown option {name}{nearest(name, known)}")
    general = {name: values.pop(name, None) for name in ("config", "print_config", "help")}
    config = general["config"] or [None]
    if len(config) > 1:
        raise UserError("--config is given twice: put all options into one file")
    placed = [one for one in positions(command.options) if not one.option.rest]
    values |= _placed([word for word in rest if word != "--"], placed, raw)
    if raw is not None and after:
        values[raw.name] = after
    return Parsed(values, config[0], bool(general["print_config"]), bool(general["help"]))


def help_page(program: str, command: Command, kind: str | None) -> str:
    """``kind``: the value on which options depend; None for the options of all its values."""
    return _parser(program, command, kind).format_help()


def overview(program: str, description: str, commands: Mapping[str, str], epilog: str = "") -> str:
    """The help page of a program with commands: each with its line."""
    parser = argparse.ArgumentParser(program, description=description, epilog=epilog, usage=f"{program} COMMAND ...")
    listed = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, line in commands.items():
        listed.add_parser(name, help=line)
    return parser.format_help()


def tree(program: str, lines: Mapping[str, str], commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """A parser of all commands, for what reads parsers.  ``lines``: by name, those of groups before their commands."""
    parsers, listed = {"": argparse.ArgumentParser(program)}, {}
    for name, line in lines.items():
        group, _, own = name.rpartition(" ")
        if group not in listed:
            listed[group] = parsers[group].add_subparsers(metavar="COMMAND")
        parents = [_parser(name, commands[name])] if name in commands else []
        parsers[name] = listed[group].add_parser(own, help=line, parents=parents, add_help=not parents)
    return parsers[""]


def titled(options: type, kind: str | None = None) -> dict[str, list[Declared]]:
    """The options that have flags, by the title of their group; without ``kind``, those of all kinds."""
    every = of_all_kinds(options) if kind is None else [(one, ()) for one in declared(options, kind)]
    groups: dict[str, list[Declared]] = {}
    for one, its_kinds in every:
        if not one.option.position:
            title = f"{one.group} ({', '.join(its_kinds)})" if its_kinds else one.group
            groups.setdefault(title, []).append(one)
    return groups


def positions(options: type) -> list[Declared]:
    """The options that are words of their own, in their order."""
    return [one for one in declared(options) if one.option.position]


def _raw(options: type) -> Declared | None:
    """The position that takes the words after ``--``."""
    return next((one for one in positions(options) if one.option.rest), None)


def usage(program: str, options: type) -> str:
    """How the command is written."""
    placed = positions(options)
    before, after = ([_place(one) for one in placed if one.option.rest is rest] for rest in (False, True))
    return " ".join((program, *before, "[OPTIONS]", *(f"-- {word}" for word in after)))


def metavar(one: Declared) -> str:
    """What stands for the option's value; empty for a flag."""
    return "" if one.kind is bool else one.option.metavar or _METAVARS[one.kind]


def help_text(one: Declared) -> str:
    """What the option is for, and its default."""
    text, default = one.option.help, one.default
    if default in (MISSING, None, False, (), "") or "(default" in text:
        return text
    return f"{text} (default: {f'{default:g}' if isinstance(default, float) else default})"


def _parser(program: str, command: Command, kind: str | None = None, *, pages: bool = True) -> _Parser:
    """``kind``: None for the options of all kinds.  ``pages``: with what is shown but not parsed: words, choices."""
    parser = _Parser(
        program,
        usage=usage(program, command.options),
        description=command.description,
        epilog=command.example and f"For example: {command.example}",
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    if pages and positions(command.options):
        words = parser.add_argument_group("arguments")
        for one in positions(command.options):
            nargs = "*" if one.several else None if one.default is MISSING else "?"
            words.add_argument(one.name, metavar=one.written, nargs=nargs, help=_escaped(one), **_choices(one))
    added: set[str] = set()
    for title, options in titled(command.options, kind).items():
        group = parser.add_argument_group(title)
        for one in options:
            if one.name not in added:  # several kinds may have an option of this name
                added.add(one.name)
                group.add_argument(flag(one.name), dest=one.name, **_details(one), **(_choices(one) if pages else {}))
            elif pages:  # it is only shown: argparse takes no name twice
                namesake = argparse.ArgumentParser(add_help=False)
                group._group_actions.append(namesake.add_argument(flag(one.name), dest=one.name, **_details(one)))
    general = parser.add_argument_group("general")
    general.add_argument(
        "--config", metavar="F", action="append", help="a TOML file of options; those of the command line win"
    )
    general.add_argument("--print-config", action="store_true", help="print such a file with these options, and end")
    general.add_argument("-h", "--help", action="store_true", help="show this page, and end")
    return parser


def _details(one: Declared) -> dict[str, Any]:
    """How argparse takes the option, and what it shows of it."""
    if one.kind is bool:
        return {"help": _escaped(one), "action": "store_true"}
    details: dict[str, Any] = {"help": _escaped(one), "metavar": metavar(one)}
    if one.several and not one.option.separator:
        details["action"] = "append"
    elif one.option.alone is not None:
        details |= {"nargs": "?", "const": one.option.alone}
    return details


def _choices(one: Declared) -> dict[str, Any]:
    return {"choices": one.choices} if one.choices else {}


def _escaped(one: Declared) -> str:
    return help_text(one).replace("%", "%%")


def _place(one: Declared) -> str:
    name = one.written + ("..." if one.several and not one.option.rest else "")
    return name if one.default is MISSING else f"[{name}]"


def _placed(words: Sequence[str], positions: Sequence[Declared], raw: Declared | None) -> dict[str, Any]:
    """The words by the name of their position; the last position may take several."""
    values: dict[str, Any] = {}
    left = list(words)
    for one in positions:
        if one.several:
            values |= {one.name: left} if left else {}
            left = []
        elif left:
            values[one.name] = left.pop(0)
    if left and raw is not None:
        raise UserError(f"{left[0]!r} must come after --: write -- {raw.written}")
    if left:
        raise UserError(f"one word too many: {left[0]!r}")
    return values
