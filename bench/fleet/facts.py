"""What must be the same in all processes of a run, and how to tell in which it is not.

Facts are text by name, so that they travel and compare; nothing here knows processes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import drumfire
from drumfire.loadgen import VERSION
from drumfire.loadgen.environment import git_revision, versions
from drumfire.loadgen.installation import ROOT

Facts = Mapping[str, str]

_PACKAGES = ("loadgen", "sut", "bench")
_DISTRIBUTIONS = ("numpy", "uvloop", "hdrhistogram", "hpack")
_SHOWN = 22
"""Columns of a value in a table of differences; digests are longer and need not be read whole."""


def facts(digests: Mapping[str, str]) -> dict[str, str]:
    """Of this process; ``digests`` are the model's and the data's."""
    installed = {name: version or "none" for name, version in versions(_DISTRIBUTIONS).items()}
    return {
        "drumfire": VERSION,
        "revision": git_revision() or "none",
        "source": _source(),
        "constraints": _digest(ROOT / "constraints.txt"),
        "python": platform.python_version(),
        **installed,
        **digests,
    }


def machine() -> dict[str, Any]:
    """What may differ and is told in the result: host name, kernel, cores."""
    return {"host": platform.node(), "kernel": platform.release(), "cores": len(os.sched_getaffinity(0))}


def differences(ours: Facts, others: Mapping[str, Facts]) -> list[str]:
    """A table, a line each, of the facts that are not the same in ``others`` (by name); empty where all agree."""
    differing = {who: facts for who, facts in others.items() if facts != ours}
    if not differing:
        return []
    names = [name for name in ours if any(facts.get(name) != ours[name] for facts in differing.values())]
    names += sorted({name for facts in differing.values() for name in facts} - set(ours))
    rows = [["", "here", *differing]]
    rows += [[name, ours.get(name, "-"), *(facts.get(name, "-") for facts in differing.values())] for name in names]
    cut = [[cell if len(cell) <= _SHOWN else cell[: _SHOWN - 1] + "…" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cut]


@functools.cache
def _source() -> str:
    """Of the code itself: what a revision does not tell of a checkout that was changed."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        folder = Path(drumfire.__file__).parent / package
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(folder)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "none"
