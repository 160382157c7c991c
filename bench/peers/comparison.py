"""A comparison as a command: its options, its rounds, then its section of RESULTS.md and the raw rounds in its folder.

Does not depend on what is measured.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from drumfire.bench.peers import against, results
from drumfire.bench.peers.goal import Figure, Round, Row, number
from drumfire.bench.peers.process import say
from drumfire.bench.peers.rounds import OURS, Measure, Rounds, family, run_rounds
from drumfire.loadgen.errors import UserError

_OUTPUT = Path(__file__).resolve().parent / "RESULTS.md"


Ready = tuple[Sequence[Measure], Sequence[str]]
"""Measures that can be run, and notes on what is left out."""


@dataclass(frozen=True)
class Comparison:
    """Drumfire beside other tools."""

    name: str
    """The name of its module in ``drumfire.bench.peers``, its folder and its markers."""
    tools: tuple[str, ...]
    """The other tools.  Ratios that have a goal are to the first."""
    distributions: tuple[str, ...]
    """Packages whose versions in this environment are reported."""
    method: str
    """How it is measured: Markdown, after the machine."""
    seconds: float
    """The default length of a plain run, s."""
    revisions: tuple[str, ...] = ()
    """The measures of ``--against``, which is refused where there are none."""

    @property
    def module(self) -> str:
        return f"drumfire.bench.peers.{self.name}"

    def options(self, arguments: Sequence[str] | None, measures: Iterable[str]) -> argparse.Namespace:
        """The parsed options, of the process where ``arguments`` is None.

        ``measures``: their names, which ``--only`` takes, as it takes the names of their families.
        """
        words = sys.argv[1:] if arguments is None else arguments
        names = {part for name in measures for part in (name, family(name))}
        parser = argparse.ArgumentParser(
            prog=f"python -m {self.module}",
            description=f"Measure {OURS} beside {' and '.join(self.tools)}, or beside an older revision, in turns.",
            epilog=f"--against: {against.RULE} Exit status: {against.STATUSES}.",
        )
        parser.add_argument(
            "--against", metavar="REV",
            help="measure an older revision of this checkout instead of other tools: it gets a git worktree and an "
            "environment of its own in the cache folder, and the table is printed",
        )  # fmt: skip
        parser.add_argument(
            "--rounds", type=int, metavar="N",
            help=f"rounds of every measure (default: 5; with --against {against.ROUNDS}, the fewest to judge by)",
        )  # fmt: skip
        parser.add_argument(
            "--time", type=float, metavar="S",
            help=f"length of a plain run in seconds (default: {self.seconds:g}, with --against {against.SECONDS:g}); "
            "longer ones grow with it",
        )  # fmt: skip
        parser.add_argument(
            "--only", nargs="+", metavar="NAME",
            help=f"these measures only: {', '.join(sorted(names))}; with --against {', '.join(self.revisions)}",
        )  # fmt: skip
        parser.add_argument(
            "--output", type=Path, metavar="F",
            help="the Markdown file (default: bench/peers/RESULTS.md; with --against none)",
        )  # fmt: skip
        options = parser.parse_args(words)
        if options.against is not None and not self.revisions:
            parser.error(f"--against: {self.name} has no measure that compares revisions")
        rounds, seconds = (5, self.seconds) if options.against is None else (against.ROUNDS, against.SECONDS)
        options.rounds = rounds if options.rounds is None else options.rounds
        options.time = seconds if options.time is None else options.time
        if options.rounds < 1 or not options.time > 0:
            parser.error("--rounds and --time must be above 0")
        known = names if options.against is None else set(self.revisions)
        if unknown := sorted(set(options.only or ()) - known):
            parser.error(f"--only: unknown {', '.join(unknown)} (choose from {', '.join(sorted(known))})")
        options.command = shlex.join(["python", "-m", self.module, *words])
        return options

    def main(
        self,
        arguments: Sequence[str] | None,
        names: Iterable[str],
        ready: Callable[[Sequence[str]], AbstractContextManager[Ready]],
        cases: Callable[[], AbstractContextManager[Sequence[against.Case]]] = lambda: nullcontext(()),
    ) -> int:
        """The whole command; returns the exit status, 2 where a tool or a server is missing.

        ``names``: of all measures.  ``ready``: takes the names of ``--only`` (all if it is empty) and gives what is
        measured, while its servers run.  ``cases``: those of ``--against``.
        """
        options = self.options(arguments, names)
        try:
            if options.against is not None:
                with cases() as of_revisions:
                    return against.compare(self.name, options, of_revisions)
            with ready(options.only or ()) as (measures, notes):
                for line in notes:
                    say(line)
                method = "\n".join((self.method, *(f"{line}." for line in notes)))
                replace(self, method=method).carry_out(options, measures)
        except UserError as error:
            say(f"{self.module}: {error}")
            return 2
        return 0

    def carry_out(self, options: argparse.Namespace, measures: Sequence[Measure]) -> None:
        """Run the measures that ``options`` name and write the files."""
        load = os.getloadavg()
        chosen = [m for m in measures if not options.only or {m.name, family(m.name)} & set(options.only)]
        rounds = run_rounds(chosen, options.rounds, options.time)
        machine = results.machine(self.distributions, load)
        section = self.section(chosen, rounds, options.command, machine)
        results.put(options.output or _OUTPUT, self.name, section, rounds)

    def section(self, chosen: Sequence[Measure], rounds: Rounds, command: str, machine: str) -> str:
        """The Markdown of the comparison."""
        rows = [(m, figure.row(rounds[m.name], self.tools)) for m in chosen for figure in m.figures]
        lost = [f"* {m.name}, {row.figure.label}: {text}.{_noise(row)}" for m, row in rows for text in row.missed()]
        notes = [f"* {m.note(_medians(rounds[m.name]))}" for m in chosen if m.note and rounds[m.name][0].ours]
        beside = [cell for tool in self.tools for cell in (tool, "times better")]
        parts = [
            f"## Beside {' and '.join(self.tools)}",
            f"{machine}\n* command: `{command}`",
            f"{self.method}\n"
            f"Raw rounds: `{self.name}/rounds.json`. *Times better* is the median of the rounds' ratios.",
            results.table(("measure", OURS, *beside, "goal", "met"), [_cells(row) for _, row in rows]),
            "### What lost and why",
            "\n".join(lost) or "Nothing: every goal was met.",
        ]
        if notes:
            parts += ["### Where it goes", "\n".join(notes)]
        return "\n\n".join(parts)


def _cells(row: Row) -> tuple[str, ...]:
    figure = row.figure

    def value(of_side: float | None) -> str:
        return "" if of_side is None else f"{number(of_side)} {figure.unit}".rstrip()

    beside = [
        cell for one in row.beside for cell in (value(one.value), "" if one.ratio is None else f"{number(one.ratio)}x")
    ]
    met = {True: "yes", False: "**no**", None: ""}[row.met]
    return figure.label, value(row.ours), *beside, _goal(figure), met


def _goal(figure: Figure) -> str:
    goals = []
    if figure.goal is not None:
        goals.append(f"{'≥' if figure.more_is_better else '≤'} {number(figure.goal)} {figure.unit}".rstrip())
    if figure.goal_ratio is not None:
        goals.append(f"≥ {number(figure.goal_ratio)}x")
    return ", ".join(goals)


def _noise(row: Row) -> str:
    """The spread of the rounds: a difference within it proves little."""
    first = row.beside[0]
    if not (row.ours_spread or first.spread):
        return ""
    text = f" The rounds spread over {row.ours_spread:.0%} of the median"
    if first.value is not None:
        text += f", the other side's over {first.spread:.0%}"
    return f"{text}."


def _medians(of_measure: Sequence[Round]) -> dict[str, float]:
    measured = [r.ours for r in of_measure if r.ours]
    return {name: statistics.median(figures[name] for figures in measured) for name in measured[0]}
