"""``drumfire sweep RUN-WORDS --over qps=100:20000:log8``: a run at each value, and which is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from drumfire.bench import gates, journal, statuses
from drumfire.bench.assemble import loop
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.commands import words
from drumfire.bench.compare.sides import opened
from drumfire.bench.compare.subject import Run
from drumfire.bench.gates import Expectation, ExpectOptions
from drumfire.bench.options import values
from drumfire.bench.options.parser import Command
from drumfire.bench.report import junit, sessions, sweep_page, sweeps, terminal
from drumfire.bench.report.sweeps import Outcome
from drumfire.bench.session import axes
from drumfire.bench.session.points import Sweep
from drumfire.bench.session.progress import Progress
from drumfire.bench.session.session import Session, Step, about, claimed, show
from drumfire.loadgen.directory import PAGE, write_json
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.options import flag, option
from drumfire.loadgen.wording import counted


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire sweep``, beside those of a run."""

    over: tuple[str, ...] = option(
        (),
        metavar="AXIS",
        check=axes.parse,
        help="an option of a run that takes a number, and its values, as qps=100:20000:log8, concurrency=1,2,4 or "
        "qps=100:800:lin8; given twice, all combinations",
    )
    repeats: int = option(1, most=1000, help="runs at each point, whose medians count (default: 1)")
    seed: int = option(1, least=0, help="draws the order of the runs (default: 1)")
    bound: tuple[str, ...] = option(
        (),
        metavar="E",
        check=gates.parse,
        help="name the point of most throughput at which this holds, in quotes as 'p99<20ms'; may be repeated. Status "
        "3 where there is none",
    )
    dry_run: bool = option(False, help="only show which runs there would be, and how long they take")
    run: RunOptions = field(kw_only=True)


def sweep(options: Options) -> int:
    """Do the runs, print what was found, and return its status."""
    run = options.run
    wanted = run.expectations
    gates.check(wanted, scenario=loop.name(run.traffic), accuracy=False, folder=run.result.output, runs=options.repeats)
    base = [] if wanted.base is None else opened(str(wanted.base))
    made, plan = _plan(options)
    subject = {"words": _common(run, [])}
    messages = Console(stderr=run.result.json, highlight=False, soft_wrap=True)
    terminal.say(messages, _foreseen(made, plan))
    if options.dry_run:
        show(plan, run.result.output, subject)
        return statuses.DONE
    with claimed(run.result.output, f"sweep-{run.backend}-{Path(run.model).stem}") as folder:
        again = journal.resuming(run.words, run.result.output, folder)
        with Session(folder, subject, again, plan) as session:

            def outcome(*, finished: bool) -> Outcome:
                points = made.points(session.runs)
                return Outcome(
                    axes=[axis.label for axis in made.axes],
                    load=made.load,
                    repeats=options.repeats,
                    seed=options.seed,
                    bounds=[bound.text for bound in made.bounds],
                    finished=finished,
                    stopped=session.stopped or "",
                    again=again,
                    points=points,
                    named=made.named(points),
                    directory=str(folder),
                )

            with Progress(messages, lambda: [sweeps.table(outcome(finished=False))]) as progress:
                finished = session.drive(lambda runs: made.left(plan, runs), progress)
        found = outcome(finished=finished)
        best = [] if found.chosen is None else [session.runs[name] for name in found.chosen.runs]
        if finished:
            found = replace(found, expectations=_judged(wanted, best, base))
        if finished and run.result.report:
            found = replace(found, page=str(folder / PAGE))
            sweep_page.write(found, session.runs, folder / PAGE)
        document = found.document()
        write_json(folder / sessions.SWEEP, document)
    status = sessions.put(sessions.SWEEP, document, as_json=run.result.json)
    if not finished:
        raise session.interruption()
    if wanted.junit is not None:
        _write_junit(wanted.junit, found, best or list(session.runs.values()))
    return status


COMMAND = Command(
    Options,
    sweep,
    "Do a run at each of several values of an option, and tell which is best: how far does a system go?",
    "drumfire sweep onnxruntime digits --scenario Server --time 10 --over qps=100:20000:log8 --bound 'p99<20ms'",
    kept=True,
)


def _plan(options: Options) -> tuple[Sweep, list[Step]]:
    """The sweep and its runs in their order.  Raises ``UserError`` before anything is measured."""
    run = options.run
    wanted = axes.of_options(options.over, values.declared(RunOptions, run.backend), run.given)
    made = Sweep(wanted, options.repeats, options.seed, _bounds(options))
    order = made.order()
    if len(order) > axes.MOST_POINTS:
        raise UserError(f"{len(order):,} runs are too many: give fewer values or repeats, {axes.MOST_POINTS:,} at most")
    words.check_system(run)
    common = _common(run, [axis.name for axis in wanted])
    lines = {place: (*common, *axes.words(wanted, place)) for place in axes.places(wanted)}
    seconds = {}
    for place, line in lines.items():
        point = words.checked(line)
        for text in values.ineffective(point):
            if text.split()[0] in [flag(axis.name) for axis in wanted]:
                raise UserError(f"--over: {text}")
        seconds[place] = words.expected_s(point)
    return made, [Step(name, lines[place], seconds[place]) for name, place in order]


def _bounds(options: Options) -> list[Expectation]:
    """The bounds of the sweep.  Raises ``UserError`` for those that no run of it can be judged by."""
    found = [gates.parse(text) for text in options.bound]
    for bound in found:
        if bound.is_relative:
            raise UserError(f"--bound {bound.text!r} needs a limit of its own, and no base: use --expect for that")
        gates.check_measured(bound, loop.name(options.run.traffic), accuracy=False)
    return found


def _common(run: RunOptions, swept: Sequence[str]) -> list[str]:
    """The words that all runs share."""
    return values.words(replace(run, given=run.given - {*words.OWN, *swept}))


def _foreseen(made: Sweep, plan: Sequence[Step]) -> str:
    over = " and ".join(str(axis).replace(",", ", ") for axis in made.axes)
    return f"{counted(len(plan), 'run')}{about(plan)}: {over}; in an order by --seed {made.seed}"


def _judged(wanted: ExpectOptions, best: Sequence[Run], base: Sequence[Run]) -> list[dict[str, Any]]:
    """Expectations are of the best point; without one, none is met."""
    if best:
        return gates.judge_all(wanted, best, base)
    return [
        gates.JudgedExpectation(gates.parse(text), None, False, "there is no best point").document()
        for text in wanted.expect
    ]


def _write_junit(path: Path, found: Outcome, runs: Sequence[Run]) -> None:
    verdict = "INVALID" if found.chosen is None else "VALID"
    reasons = [f"no point holds {' and '.join(found.bounds) or 'the run rules'}"] if found.chosen is None else []
    more = {"validity": verdict, "reasons": reasons, "expectations": found.expectations}
    junit.write_run(path, runs[0].result | more)
