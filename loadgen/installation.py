"""How this code is installed, from a checkout or as a wheel, and so which command adds to it.

Knows paths and pip's words; must not know what any extra brings.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import drumfire

ROOT = Path(drumfire.__file__).resolve().parents[1]
"""The folder that holds the package: the checkout, or site-packages."""
_REVISION = Path(__file__).with_name("revision.txt")
"""In a wheel only: written when it is built (``hatch_build.py``)."""


def command(extras: str) -> str:
    """The command that adds extras, named with commas between them, to this installation and changes nothing else.

    In a checkout the installation stays editable, and versions are those that were tested together.
    """
    if not (ROOT / "pyproject.toml").is_file():
        return f"{pip()} install {shlex.quote(f'drumfire[{extras}]')}"
    here = Path.cwd() == ROOT
    constraints = "constraints.txt" if here else str(ROOT / "constraints.txt")
    what = f"{'.' if here else ROOT}[{extras}]"
    return f"{pip()} install -c {shlex.quote(constraints)} -e {shlex.quote(what)}"


def packages_of(extra: str, requirements: list[str]) -> list[str]:
    """The distributions that an extra requires, from the metadata's requirement lines."""
    packages = []
    for line in requirements:
        requirement, _, marker = line.partition(";")
        name = re.match(r"\s*([A-Za-z0-9._-]+)", requirement)
        if name and re.search(rf"""extra\s*==\s*["']{re.escape(extra)}["']""", marker):
            packages.append(name[1])
    return packages


def lacking(packages: Mapping[str, str]) -> list[str]:
    """The packages that are not installed.  ``packages``: by name, the module that is imported of each."""
    return [package for package, module in packages.items() if importlib.util.find_spec(module) is None]


def pip() -> str:
    """What the shell calls the pip of this very environment; plain ``pip`` where it is the one on the PATH."""
    return program("pip")


def program(name: str) -> str:
    """What the shell calls a program of this environment: its name where the PATH leads to it, else its path."""
    own = Path(sysconfig.get_path("scripts"), name)
    if not own.is_file() or shutil.which(name) == str(own):
        return name
    return shlex.quote(os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own))


def built_revision() -> str | None:
    """The git revision that this wheel was built from; None in a checkout, or where it was not known."""
    try:
        return _REVISION.read_text(encoding="ascii").strip() or None
    except OSError:
        return None
