"""Write docs/options.md: every command with its options, from their declarations.

python docs/options.py
"""

import re
from collections.abc import Sequence
from pathlib import Path

from drumfire.bench import cli, commands, statuses
from drumfire.bench.options.parser import Command, help_text, metavar, positions, titled, usage
from drumfire.bench.options.values import Declared, flag

PAGE = Path(__file__).with_suffix(".md")
HEAD = """\
<!-- Written by docs/options.py from the options' declarations. -->
# Options

`drumfire COMMAND --help` shows the same in a terminal; with the backend's name, as in `drumfire run triton --help`, it
shows only what has an effect there. The beginning of an option's name is enough. Choices are written in any case.

An option that can have no effect is refused, or a note at the start of the run says so.

## Options in a file

`--print-config` writes the options of a command line as TOML, with all others as comments, and does nothing else.
`--config` reads such a file. The command line wins:

```text
drumfire run onnxruntime digits cpu --scenario Server --qps 500 --time 10 --print-config > run.toml
drumfire run --config run.toml --time 60
```

## Completion

`drumfire completion bash` prints a script by which the shell completes commands, options, choices, models and files. It
has scripts for `zsh`, `tcsh`, `fish` and `powershell` too:

```text
drumfire completion bash >> ~/.bash_completion
```

## Exit status

Where several hold, the one further up wins. `DRUMFIRE_TRACEBACK=1` in the environment shows where an error comes from.

| status | meaning |
|---|---|
"""


def page() -> str:
    """The whole page."""
    meanings = "".join(f"| {status} | {meaning} |\n" for status, meaning in statuses.MEANINGS.items())
    written: dict[str, tuple[str, Sequence[Declared]]] = {}
    everything = commands.everything().items()
    sections = [_section(f"{cli.PROGRAM} {name}", command, written) for name, command in everything]
    return "\n".join([HEAD + meanings, *sections])


def _section(name: str, command: Command, written: dict[str, tuple[str, Sequence[Declared]]]) -> str:
    """``written``: the groups on the page so far, each with its command; they are not repeated."""
    parts = [f"## {name}\n\n{command.description}\n\n```text\n{usage(name, command.options)}\n```\n"]
    if words := positions(command.options):
        parts.append(_table("word", [(one.written, _text(one)) for one in words]))
    again: dict[str, list[str]] = {}
    for title, options in titled(command.options).items():
        if title in written and written[title][1] == options:
            again.setdefault(written[title][0], []).append(title)
            continue
        written[title] = name, options
        heading = "" if title == "options" else f"**{title[0].upper()}{title[1:]}**\n\n"
        parts.append(heading + _table("option", [(_written(one), _text(one)) for one in options]))
    for other, titles in again.items():
        parts.append(f"As with [`{other}`](#{other.replace(' ', '-')}): {', '.join(titles)}.\n")
    return "\n".join(parts)


def _table(what: str, rows: Sequence[tuple[str, str]]) -> str:
    # A | in code: GitHub would begin a cell there, and the site's renderer would show the backslash of \|.
    lines = (f"| `{name.replace('|', '`&#124;`')}` | {text} |\n" for name, text in rows)
    return f"| {what} | what it is |\n|---|---|\n{''.join(lines)}"


def _written(one: Declared) -> str:
    value = metavar(one) if one.option.alone is None else f"[{metavar(one)}]"
    return f"{flag(one.name)} {value}".strip()


def _text(one: Declared) -> str:
    text = help_text(one).replace("|", "\\|")
    if not all(name in text for name in one.option.scenarios):
        text += f"; only in {' and '.join(one.option.scenarios)}"
    if one.option.needs:
        text += f"; only with {' or '.join(map(flag, one.option.needs))}"
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*[a-z])", r"`\1`", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
