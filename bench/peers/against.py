"""This checkout beside an older revision, measured in turns in the same run: has anything become slower?

Only what is stable between revisions is used, the command line and its JSON, and no module of the older revision is
imported, so the two may differ in layout.  The older revision gets a git worktree and an environment in the cache
folder.  A pair is a measurement of each, right after each other.  The order changes from pair to pair (ABBA), so
neither a machine that slows down steadily nor the place within a pair favours a side.  ``RULE`` says how the pairs are
judged.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drumfire.bench import statuses
from drumfire.bench.peers import results
from drumfire.bench.peers.goal import Figure, Round, number, times_better
from drumfire.bench.peers.process import PROGRAM, MeasurementError, say
from drumfire.bench.peers.program import Program
from drumfire.bench.peers.rounds import Measure, run_rounds
from drumfire.loadgen.installation import ROOT
from drumfire.sut.cache import cache_folder
from drumfire.sut.environments import EnvironmentFailed, made

ROUNDS = 8
"""The fewest pairs that ``interval`` can judge."""
SECONDS = 2.0
BEFORE = "before"
RULE = (
    "Each pair gives a ratio, turned so that above 1 is better now. The spread is an interval of pair ratios around\n"
    "their median, by rank, that holds the true median in at least 99 % of cases (the sign test inverted; with 8\n"
    "to 11 pairs it is the least to the greatest). A measure is *slower* where the whole spread is below 1 and the\n"
    "median is more than 2 % below it, *faster* likewise above. *Within spread* means no more than that:\n"
    "a difference as large as the spread can hide in it."
)
STATUSES = (
    "0 nothing is slower, 1 a measure is slower, 2 the older revision cannot be made or a measure has no pair, as one\n"
    "of its sides always failed, 130 interrupted: what was measured until then is printed"
)
_DOUBT = 0.01
_NOTICEABLE = 0.02
"""Smaller differences come from where code and data lie in memory, which differs between two folders."""
_OWN = {"drumfire", "pip", "setuptools"}
_SLOWER, _FASTER, _NOT_MEASURED = "slower", "faster", "not measured"


@dataclass(frozen=True)
class Case:
    """A measurement that is the same for both revisions."""

    name: str
    figures: tuple[Figure, ...]
    run: Callable[[Program, float], dict[str, float]]
    """Turns a revision's program and a length in seconds into figures.  Raises ``MeasurementError``."""
    extra: str = ""
    """What to install with the older revision; no extra if empty."""

    def measure(self, older: Program) -> Measure:
        return Measure(self.name, self.figures, partial(self.run, PROGRAM), {BEFORE: partial(self.run, older)})


# Judging.


def interval(ratios: Sequence[float]) -> tuple[float, float] | None:
    """The spread as ``RULE`` defines it; None for too few pairs.

    The median lies outside ranks k + 1 and n - k of n with probability 2 P(X <= k), X binomial (n, 1/2): Conover,
    Practical Nonparametric Statistics, 3rd ed., 3.2.  k is the greatest that keeps this within 1 %.
    """
    count, left_out, outside = len(ratios), -1, 0.0
    while count and (outside := outside + 2 * math.comb(count, left_out + 1) / 2**count) <= _DOUBT:
        left_out += 1
    ordered = sorted(ratios)
    return None if left_out < 0 else (ordered[left_out], ordered[-1 - left_out])


def verdict(ratios: Sequence[float]) -> str:
    spread, middle = interval(ratios), statistics.median(ratios)
    if spread is None:
        return f"too few rounds (at least {ROUNDS})"
    if spread[0] <= 1 <= spread[1]:
        return "within spread"
    if 1 - _NOTICEABLE <= middle <= 1 + _NOTICEABLE:
        return f"within {_NOTICEABLE:.0%}"
    return _SLOWER if middle < 1 else _FASTER


def row(figure: Figure, rounds: Iterable[Round]) -> tuple[str, ...]:
    """The cells of a figure, the verdict last.  A round in which a side failed is not a pair."""
    name = figure.ours
    pairs = [(r.ours[name], r.theirs[BEFORE][name]) for r in rounds if name in r.ours and name in r.theirs[BEFORE]]
    if not pairs:
        return figure.label, "", "", "", "", "0", _NOT_MEASURED
    now, before = (statistics.median(side) / figure.per_unit for side in zip(*pairs, strict=True))
    values = (f"{number(value)} {figure.unit}".rstrip() for value in (before, now))
    ratios = [times_better(*pair, more_is_better=figure.more_is_better) for pair in pairs]
    least, most = interval(ratios) or (min(ratios), max(ratios))
    spread = f"{_digits(least)} to {_digits(most)}"
    return figure.label, *values, f"{_digits(statistics.median(ratios))}x", spread, str(len(pairs)), verdict(ratios)


def _digits(ratio: float) -> str:
    """A ratio with one digit more than elsewhere near 1, as the verdict depends on it."""
    return f"{ratio:.3f}" if 0.1 <= ratio < 10 else number(ratio)


# Measuring.


def compare(name: str, options: argparse.Namespace, cases: Sequence[Case]) -> int:
    """Measure, then print the table.  Returns the exit status (see ``STATUSES``)."""
    chosen = [case for case in cases if not options.only or case.name in options.only]
    load, rounds, interrupted = os.getloadavg(), dict[str, list[Round]](), False
    try:
        revision = commit(options.against)
        older = environment(revision, sorted({case.extra for case in chosen if case.extra}))
        about = "\n".join((results.machine((), load), *_sides(revision, older), f"* command: `{options.command}`"))
        measures = [case.measure(drumfire(older)) for case in chosen]
    except MeasurementError as error:
        print(f"drumfire.bench.peers.{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"drumfire.bench.peers.{name}: interrupted before anything was measured", file=sys.stderr)
        return statuses.INTERRUPTED
    try:
        run_rounds(measures, options.rounds, options.time, ours="now", rounds=rounds)
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted: what was measured so far", file=sys.stderr)
    table = [row(figure, rounds.get(case.name, ())) for case in chosen for figure in case.figures]
    section = "\n\n".join(
        (
            f"## {name}: now beside {options.against}",
            about,
            RULE,
            results.table(("measure", BEFORE, "now", "times better", "spread", "pairs", "verdict"), table),
        )
    )
    print(section)
    if options.output is not None:
        results.put(options.output, f"{name}-against", section, rounds)
    if interrupted:
        return statuses.INTERRUPTED
    verdicts = {cells[-1] for cells in table}
    return 2 if _NOT_MEASURED in verdicts else int(_SLOWER in verdicts)


def _sides(revision: str, older: Path) -> Iterable[str]:
    changed = ", with uncommitted changes, which are measured too" if _git(ROOT, "status", "--porcelain") else ""
    yield f"* now: {_git(ROOT, 'rev-parse', '--short=10', 'HEAD')}{changed}"
    yield f"* before: {_git(ROOT, 'show', '--no-patch', '--format=%h %cs %s', '--abbrev=10', revision)}"
    here = _packages(sys.path)
    before = _packages(map(str, older.glob("lib/python*/site-packages")))
    differ = [name for name in sorted(before.keys() & here.keys() - _OWN) if before[name] != here[name]]
    if differ:
        yield f"* packages that differ: {', '.join(f'{one} {before[one]} before, {here[one]} now' for one in differ)}"


def _packages(path: Iterable[str]) -> dict[str, str]:
    return {found.name.lower(): found.version for found in importlib.metadata.distributions(path=list(path))}


# The older revision.


def commit(revision: str) -> str:
    """The full hash of a commit of this checkout.  Raises ``MeasurementError``."""
    if not (ROOT / ".git").exists():
        raise MeasurementError(f"{ROOT} is not a git checkout: --against needs one")
    try:
        return _git(ROOT, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except MeasurementError as error:
        raise MeasurementError(f"no such revision: {revision}{f' ({error})' if str(error) else ''}") from None


def environment(revision: str, extras: Sequence[str] = ()) -> Path:
    """The folder of an environment with only that commit and these extras of it, made on first use.

    Raises ``MeasurementError``.
    """
    cache = cache_folder().absolute() / "against"
    tree = cache / revision[:12]
    try:
        if not _is_checkout(tree, revision):
            shutil.rmtree(tree, ignore_errors=True)
            say(f"checking out {revision[:12]} into {tree}")
            _git(ROOT, "worktree", "add", "--quiet", "--force", "--detach", str(tree), revision)
        constraints = tree / "constraints.txt"
        options = ["--constraint", str(constraints)] if constraints.exists() else []
        requirement = f"{tree}[{','.join(extras)}]" if extras else str(tree)
        return made(cache, tree.name, [requirement], say, options=[*options, "--editable"])
    except (EnvironmentFailed, OSError) as error:
        raise MeasurementError(str(error)) from None


def drumfire(environment: Path) -> Program:
    """The console script of an environment; isolated (-I), so that PYTHONPATH cannot put this checkout first."""
    return [str(environment / "bin" / "python"), "-I", str(environment / "bin" / "drumfire")]


def _is_checkout(tree: Path, revision: str) -> bool:
    """Whether the folder holds exactly that commit, unchanged."""
    try:
        return _git(tree, "rev-parse", "HEAD") == revision and not _git(tree, "status", "--porcelain")
    except MeasurementError:
        return False


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise MeasurementError(f"git cannot be started: {error}") from None
    if done.returncode:
        raise MeasurementError(done.stderr.strip().rpartition("\n")[2])
    return done.stdout.strip()
