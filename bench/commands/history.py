"""``drumfire history``: lists the runs and audits in a folder and in those below it, the newest first.

The runs of an ``ab`` or a ``sweep`` follow a line of their session.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from rich.console import Console

from drumfire.bench import statuses
from drumfire.bench.commands import prune
from drumfire.bench.history import Found, grouped, moment_of, runs_in
from drumfire.bench.options.parser import Command
from drumfire.bench.report.listing import header, line
from drumfire.loadgen.claim import RUNS
from drumfire.loadgen.errors import printable
from drumfire.loadgen.options import option


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire history``."""

    folder: Path = option(RUNS, metavar="FOLDER", position=True, help="where to look (default: runs)")
    model: str | None = option(None, help="only runs of this model: its name, or that of its file")
    backend: str | None = option(None, help="only runs of this backend")
    scenario: str | None = option(None, help="only runs of this scenario")
    since: str | None = option(
        None, metavar="T", check=moment_of, help="only runs that began at this time or later: 2026-11-30, or 30d ago"
    )
    until: str | None = option(None, metavar="T", check=moment_of, help="only runs that began before this time")
    valid: bool = option(False, help="only runs that are VALID, and audits that PASS")
    limit: int | None = option(None, help="only the newest N of them")
    json: bool = option(False, help="print one JSON object instead")


def show(options: Options) -> int:
    """Print the list."""
    every = runs_in(options.folder)
    found = list(_chosen(options, every))[: options.limit]
    if options.json:
        print(json.dumps({"folder": str(options.folder), "runs": [asdict(one) for one in found]}))
        return statuses.DONE
    width = Console().width if sys.stdout.isatty() else sys.maxsize
    if found:
        print(header())
    for one, runs in grouped(found):
        print(line(one, width))
        for run in runs:
            if run.folder != one.folder:  # a session without a run
                print(line(replace(run, folder=f"  {Path(run.folder).relative_to(one.folder)}"), width))
    if not found:
        such = f"none of the {len(every)} runs in {options.folder} is of this kind" if every else ""
        print(printable(such or f"no runs in {options.folder}"))
    return statuses.DONE


COMMAND = Command(
    Options,
    show,
    "List the runs and audits in a folder, the newest first; 'drumfire history prune' removes some.",
    "drumfire history --model digits --since 30d",
)
COMMANDS = {"prune": prune.COMMAND}


def _chosen(options: Options, found: Sequence[Found]) -> Iterator[Found]:
    since, until = (None if text is None else moment_of(text) for text in (options.since, options.until))
    for one in found:
        if _is_of(one, options) and _is_between(one.began, since, until):
            yield one


def _is_of(one: Found, options: Options) -> bool:
    model = one.system.get("model", "")
    return (
        _is(options.model, model, Path(model).name, Path(model).stem)
        and _is(options.backend, one.system.get("backend", ""))
        and _is(options.scenario, one.scenario)
        and (not options.valid or one.state in ("VALID", "PASS"))
    )


def _is(wanted: str | None, *names: str) -> bool:
    return wanted is None or wanted.casefold() in map(str.casefold, names)


def _is_between(began: datetime, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or began >= since) and (until is None or began < until)
