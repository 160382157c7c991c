"""``drumfire history prune``: removes runs, audits and sessions by rule, or what is large of them.

It shows first what it would remove.  A session, the runs of an ``ab`` or a ``sweep``, is removed whole or not at all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from drumfire.bench import removal, statuses
from drumfire.bench.history import Found, age_of, grouped, runs_in
from drumfire.bench.options.parser import Command
from drumfire.bench.report.listing import line, size
from drumfire.loadgen.claim import RUNS
from drumfire.loadgen.directory import RESULT
from drumfire.loadgen.errors import UserError, one_line, printable
from drumfire.loadgen.options import option
from drumfire.loadgen.wording import counted


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire history prune``."""

    folder: Path = option(RUNS, metavar="FOLDER", position=True, help="where the runs are (default: runs)")
    older_than: str | None = option(
        None, metavar="AGE", check=age_of, help="runs that began longer ago than 30d, 12h or 2w; a number alone is days"
    )
    keep: int | None = option(
        None, least=0, help="all but the newest N runs of the folder; those of an ab or a sweep count as one"
    )
    invalid: bool = option(False, help="runs that are INVALID, and audits that FAIL")
    unfinished: bool = option(
        False, help="runs that ended before they were saved; no search, ab or sweep that can be resumed"
    )
    columns: bool = option(
        False,
        help="remove only what has a row for each sample, columns, series and logs: result, report, settings and "
        "histograms remain. 'drumfire compare' then has no intervals of such a run alone, only of several a side",
    )
    keep_results: bool = option(False, help="as --columns, and the histograms too")
    yes: bool = option(False, help="remove it without a question; elsewhere than on a terminal, nothing else removes")

    @property
    def wanted(self) -> Sequence[str]:
        """The parts of a run to remove, in this order."""
        return removal.LARGE if self.keep_results else removal.ROWS if self.columns else removal.ALL


def prune(options: Options) -> int:
    """Remove the runs for which every rule holds, and print what was removed; the status says whether all of it was."""
    if options.older_than is None and options.keep is None and not options.invalid and not options.unfinished:
        raise UserError("say which runs: --older-than AGE, --keep N, --invalid, --unfinished, or several of them")
    chosen = _chosen(options)
    count, failed = _each(chosen, options, remove=options.yes)
    if count and not options.yes and sys.stdin.isatty() and sys.stdout.isatty() and _agreed():
        now = {(one.folder, one.state) for one in _chosen(options)}
        same = [one for one in chosen if (one.folder, one.state) in now]
        for one in chosen:
            if one not in same:
                print(printable(f"kept {one.folder}: it has changed since the question"), file=sys.stderr)
        _, failed = _each(same, options, remove=True)
    return statuses.FAILED if failed else statuses.DONE


COMMAND = Command(
    Options,
    prune,
    "Remove runs by rule, or what is large of them; first, show what would be removed.",
    "drumfire history prune --older-than 30d --keep 10",
)


def _each(chosen: Sequence[Found], options: Options, *, remove: bool) -> tuple[int, bool]:
    """Remove each, or say what it would free; returns how many, and whether one could not be removed."""
    freed, count, failed = 0, 0, False
    done, whole = "removed" if remove else "would remove", RESULT in options.wanted
    part = "" if whole else "what is large of "
    for one in chosen:
        try:
            bytes_of_run = removal.remove(Path(one.folder), options.folder, options.wanted, really=remove)
        except (removal.KeptError, UserError, OSError) as error:
            failed = failed or isinstance(error, OSError)
            print(printable(f"kept {one.folder}: {one_line(error)}"), file=sys.stderr)
            continue
        if bytes_of_run or whole:
            freed, count = freed + bytes_of_run, count + 1
            print(f"{done} {part} {line(replace(one, bytes=bytes_of_run), sys.maxsize)}")
    more = "; to do so, add --yes" if count and not remove else ""
    print(f"{done} {part}{counted(count, 'run')}, {size(freed)}{more}")
    return count, failed


def _agreed() -> bool:
    """Whether the person at the terminal agrees; an empty line and the end of the input mean no."""
    try:
        return input("remove that now? [y/N] ").strip().casefold() in ("y", "yes")
    except EOFError:
        print()
        return False
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted, and nothing was removed") from None


def _chosen(options: Options) -> Sequence[Found]:
    """The runs in the folder for which every rule that was given holds, the newest first."""
    return list(_holding(options, [one for one, _ in grouped(runs_in(options.folder))]))


def _holding(options: Options, found: Sequence[Found]) -> Iterator[Found]:
    states = {
        "INVALID": options.invalid,
        "FAIL": options.invalid,
        "unfinished": options.unfinished,
        "running": options.unfinished,
    }
    before = None if options.older_than is None else datetime.now(UTC) - age_of(options.older_than)
    for number, one in enumerate(found):
        if options.keep is not None and number < options.keep:
            continue
        if before is not None and one.began >= before:
            continue
        if any(states.values()) and not states.get(one.state, False):
            continue
        yield one
