"""What must be the same in all processes of a run, and a table of the differences.

Facts are texts by name, which can be sent and compared.  Does not depend on processes.
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
from drumfire.loadgen.environment import git_revision, versions
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.version import VERSION

Facts = Mapping[str, str]

_PACKAGES = ("loadgen", "sut", "bench")
_DISTRIBUTIONS = ("numpy", "uvloop", "hdrhistogram", "hpack")
_SHOWN = 22
"""Columns of a value in the table of differences; longer values, such as digests, are cut."""


def facts(digests: Mapping[str, str]) -> dict[str, str]:
    """The facts of this process; ``digests`` are those of the model and the data."""
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
    """What may differ and stands in the result: host name, kernel, cores."""
    return {"host": platform.node(), "kernel": platform.release(), "cores": len(os.sched_getaffinity(0))}


def differences(ours: Facts, others: Mapping[str, Facts]) -> list[str]:
    """The lines of a table of the facts that differ in ``others``, by process name; empty where all agree."""
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
    """A digest of the code: a revision does not show uncommitted changes."""
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
