"""``drumfire ab -- WORDS-OF-A -- WORDS-OF-B``: runs of both in turns, A B B A, and then whether B is slower."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from drumfire.bench import gates, journal, statuses
from drumfire.bench.assemble import loop
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.commands import words
from drumfire.bench.commands.compare import JudgingOptions, seconds_of
from drumfire.bench.compare import doubts
from drumfire.bench.compare.comparison import compare
from drumfire.bench.compare.pairing import same_schedule
from drumfire.bench.compare.sides import opened
from drumfire.bench.compare.subject import Subject, check_figure, figure_named
from drumfire.bench.gates import ExpectOptions
from drumfire.bench.options.parser import Command
from drumfire.bench.report import junit, sessions, terminal
from drumfire.bench.session.progress import Progress
from drumfire.bench.session.session import Runs, Session, Step, about, claimed, show
from drumfire.loadgen.directory import write_json
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.options import flag, option
from drumfire.loadgen.saved import SavedRun
from drumfire.loadgen.settings import Scenario
from drumfire.loadgen.wording import counted

_LETTERS, _OF_BASE = ("A", "B"), ("the base", "B")
_TURNS = "ABBA"


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire ab``."""

    sides: tuple[str, ...] = option(
        metavar="WORDS-OF-A -- WORDS-OF-B",
        position=True,
        rest=True,
        help="what follows 'drumfire run' for either side",
    )
    runs: int = option(
        5, least=3, most=1000, help="runs a side (default: 5); more of them, with the same --output, are added"
    )
    judging: JudgingOptions = field(default_factory=JudgingOptions)
    output: Path | None = option(
        None, metavar="D", help="folder of the runs (default: a new one in ./runs); the same again resumes"
    )
    dry_run: bool = option(False, help="only show which runs there would be, and how long they take")
    json: bool = option(False, help="print one JSON object instead")
    expectations: ExpectOptions = field(default_factory=ExpectOptions)
    words: tuple[str, ...] = ()


def ab(options: Options) -> int:
    """Do the runs, print the comparison, and return its status."""
    wanted = options.expectations
    if wanted.single and wanted.base is None:
        raise UserError("--single has no effect, as each side has 3 runs or more: leave it out")
    plan = _plan(options)
    base = [] if wanted.base is None else opened(str(wanted.base))
    subject = dict(zip(_LETTERS, map(list, _split(options.sides)), strict=True))
    messages = Console(stderr=options.json, highlight=False, soft_wrap=True)
    terminal.say(messages, _foreseen(plan))
    if options.dry_run:
        show(plan, options.output, subject)
        return statuses.DONE
    with claimed(options.output, "ab") as folder:
        again = journal.resuming(options.words, options.output, folder)
        with Session(folder, subject, again, plan) as session, Progress(messages) as progress:
            finished = session.drive(lambda runs: _left(plan, runs), progress)
        if not finished:
            raise session.interruption()
        a, b = ([session.runs[step.name] for step in plan if step.name in session.runs and step.name[0] == letter]
                for letter in _LETTERS)  # fmt: skip
        found = compare([a, b], intended=True, **options.judging.arguments)
        document = found.document() | {
            "expectations": gates.judge_all(wanted, b, base or a, _OF_BASE if base else _LETTERS, intended=not base),
            "notes": list(_notes(plan, session.runs, a, b)),
            "again": again,
            "more": "" if found.verdict.runs is None else _with_runs(again, found.verdict.runs),
            "directory": str(folder),
        }
        write_json(folder / sessions.AB, document)
    status = sessions.put(sessions.AB, document, as_json=options.json)
    if wanted.junit is not None:
        junit.write_comparisons(wanted.junit, [document], a[0].result)
    return status


COMMAND = Command(
    Options,
    ab,
    "Run A and B in turns, A B B A, and tell whether B is slower than A.",
    "drumfire ab -- null digits --time 10 -- onnxruntime digits --time 10",
    kept=True,
)


def _split(sides: Sequence[str]) -> list[tuple[str, ...]]:
    """The words of A and of B."""
    found: list[tuple[str, ...]] = [()]
    for word in sides:
        if word == "--":
            found.append(())
        else:
            found[-1] += (word,)
    if len(found) != len(_LETTERS) or not all(found):
        raise UserError(
            "the words of two runs must be given, each after --: "
            "drumfire ab -- onnxruntime digits --time 10 -- pytorch digits --time 10"
        )
    return found


def _plan(options: Options) -> list[Step]:
    """The runs in turns.  Raises ``UserError`` for words of no run, or of two that cannot be compared."""
    sides = _split(options.sides)
    runs = []
    for letter, line in zip(_LETTERS, sides, strict=True):
        try:
            runs.append(words.checked(line, words.OWN))
            words.check_system(runs[-1])
        except UserError as error:
            raise UserError(f"{letter}: {error}") from None
    kinds = [loop.name(one.traffic) for one in runs]
    if kinds[0] != kinds[1]:
        raise UserError(f"A is {kinds[0]} and B {kinds[1]}, which have no figure in common: give both the same")
    if options.judging.figure is not None:
        check_figure(kinds[0], figure_named(options.judging.figure))
    _check_skip(seconds_of(options.judging.skip), runs)
    wanted = options.expectations
    gates.check(wanted, has_base=True, scenario=kinds[0], accuracy=False, folder=options.output, runs=options.runs)
    turns = [_TURNS[number % len(_TURNS)] for number in range(2 * options.runs)]
    names = [f"{letter}/{turns[: number + 1].count(letter)}" for number, letter in enumerate(turns)]
    seconds = dict(zip(_LETTERS, map(words.expected_s, runs), strict=True))
    lines = dict(zip(_LETTERS, sides, strict=True))
    return [Step(name, lines[name[0]], seconds[name[0]]) for name in names]


def _check_skip(skip_s: float, runs: Sequence[RunOptions]) -> None:
    """Refuse now what the comparison would refuse after the runs.  Raises ``UserError``."""
    if skip_s and loop.name(runs[0].traffic) == Scenario.Offline.name:
        raise UserError("--skip has no meaning in Offline, which is one query: leave it out")
    for letter, seconds in zip(_LETTERS, map(words.sends_s, runs), strict=True):
        if seconds and skip_s >= seconds:
            raise UserError(f"--skip {skip_s:g} leaves nothing of {letter}, which sends for {seconds:g} s: skip less")


def _with_runs(command: str, runs: int) -> str:
    """The command with this --runs in place of its own."""
    own, mark, sides = command.partition(" -- ")
    words = shlex.split(own)
    for at, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name.startswith("--r") and flag("runs").startswith(name):  # an abbreviation too
            words[at : at + (1 if equals else 2)] = []
            break
    return f"{shlex.join([*words, flag('runs'), str(runs)])}{mark}{sides}"


def _foreseen(plan: Sequence[Step]) -> str:
    order = " ".join(step.name[0] for step in plan[:8]) + (" ..." if len(plan) > 8 else "")
    return f"{len(plan)} runs, {order}" + about(plan)


def _left(plan: Sequence[Step], runs: Runs) -> list[Step]:
    """The steps that are still to be done: none where too much of a side failed for a comparison."""
    sides = {name[0] for name, run in runs.items()}
    broken = any(doubts.is_meaningless(Subject(run, name)) for name, run in runs.items())
    return [] if broken and len(sides) == len(_LETTERS) else [step for step in plan if step.name not in runs]


def _notes(plan: Sequence[Step], runs: Runs, a: Sequence[SavedRun], b: Sequence[SavedRun]) -> Iterator[str]:
    if len(runs) < len(plan):
        yield f"ended after {len(runs)} of {len(plan)} runs: no further one could change the verdict"
    subjects = [Subject(run, str(run.folder)) for run in (*a, *b)]
    if all(one.on_schedule and one.has_rows for one in subjects):
        first, *others = subjects
        differ = sum(one.queries != first.queries or not same_schedule(first, one) for one in others)
        if differ:
            yield f"the schedules differ: that of {differ} of {counted(len(subjects), 'run')} is not that of A's first"
