"""``python -m drumfire.training.benchmark``: several seeded runs, each in new processes, and their olympic mean.

Repeat an interrupted command to resume it: finished runs are kept, and the unfinished run continues from its
checkpoint.  Options that are not listed here go to every run (see ``python -m drumfire.training --help``).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from drumfire.loadgen import streams
from drumfire.loadgen.options import option
from drumfire.loadgen.signals import on_ending
from drumfire.training import figure, prepare, submission
from drumfire.training.faults import INTERRUPTED, NOT_REACHED, REACHED, USAGE, InputError, one_line
from drumfire.training.mllog import Submission
from drumfire.training.options import MOST_SEED, parse_some
from drumfire.training.progress import Progress, Tail
from drumfire.training.result import NOTE, RESULT, load, read, save
from drumfire.training.score import Score, olympic
from drumfire.training.tasks import TASKS
from drumfire.training.train import CHECKPOINT, EVENTS, MLLOG

_COMMAND, _OUTPUT = "benchmark.json", "output.log"
_SAVED = {"properties": {"asked": {"type": "object"}, "seeds": {"type": "array", "items": {"type": "integer"}}}}
_POLL_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of several runs; others are each run's own."""

    task: str = option(position=True, choices=tuple(TASKS), help="the benchmark")
    runs: int = option(5, most=1000, help="default: 5, as the rules require")
    nproc_per_node: int = option(1, most=1024, help="ranks per run (default: 1)")
    seed: int | None = option(
        None, least=0, most=MOST_SEED, help="of the first run; the others count up (default: random)"
    )
    output: Path | None = option(None, metavar="D", help="default: runs/training/TASK-RANKS, then -2, -3, ...")


class RunFailed(Exception):
    """A run ended without a result.  ``status``: the exit status of the benchmark."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def main(arguments: Sequence[str] | None = None) -> int:
    console = Console(highlight=False, soft_wrap=True)
    on_ending(signal.default_int_handler)
    try:
        options, rest = parse_some("drumfire.training.benchmark", __doc__, Options, arguments)
        task = TASKS[options.task]
        folder = options.output or _new_folder(f"{task.name}-{options.nproc_per_node}")
        if task.data in prepare.RECIPES and not any(option.startswith("--data-dir") for option in rest):
            prepare.generate(task.folder, prepare.RECIPES[task.data])
        seeds = _seeds(folder, options, rest)
        results: list[dict[str, Any]] = []
        for number, seed in enumerate(seeds):
            run = _Run(folder / f"run-{number}", task.name, seed, options.nproc_per_node, rest)
            results.append(run.result() or _drive(run, Progress(task, _title(options), len(seeds), results), console))
        return _report(folder, options, rest, results, console)
    except RunFailed as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return error.status
    except (InputError, OSError) as error:
        print(f"benchmark: {one_line(error)}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("benchmark: interrupted; run the same command again to resume", file=sys.stderr)
        return INTERRUPTED


def _new_folder(name: str) -> Path:
    """The last folder with this name if its benchmark is unfinished, otherwise the next."""
    folder, number = Path("runs/training") / name, 1
    while (folder / RESULT).exists():
        number += 1
        folder = folder.with_name(f"{name}-{number}")
    return folder


def _title(options: Options) -> str:
    return f"{options.task}, {options.nproc_per_node} ranks"


class _Run:
    """One run: its folder and its command."""

    def __init__(self, folder: Path, task: str, seed: int, ranks: int, rest: Sequence[str]) -> None:
        self.folder = folder
        program = ["drumfire.training.launch", "--ranks", str(ranks)] if ranks > 1 else ["drumfire.training"]
        resume = ["--resume"] if (folder / CHECKPOINT).exists() else []
        arguments = [task, "--seed", str(seed), "--output", str(folder), *resume, *rest]
        self._command = [sys.executable, "-m", *program, *arguments]

    def result(self) -> dict[str, Any] | None:
        path = self.folder / RESULT
        return load(path) if path.exists() else None

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start the processes, and end them on exit."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # A second thread per rank would compete with the processes that read images.
        environment = {"OMP_NUM_THREADS": "1"} | os.environ
        with (self.folder / _OUTPUT).open("ab") as output:
            process = subprocess.Popen(self._command, stdout=output, stderr=output, env=environment)
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()
                process.wait()

    def failure(self, status: int) -> RunFailed:
        """The reason that the run printed."""
        lines = (self.folder / _OUTPUT).read_text(errors="replace").splitlines()
        reasons = [line.partition(": ")[2] for line in lines if line.startswith("training: ")]
        reason = reasons[-1] if reasons else f"the run ended with status {status}"
        return RunFailed(f"{reason} (see {self.folder / _OUTPUT})", USAGE if status == USAGE else NOT_REACHED)


def _drive(run: _Run, progress: Progress, console: Console) -> dict[str, Any]:
    """Start one run and show it until it ends.  Returns its result; raises ``RunFailed`` if there is no result."""
    live = Live(progress, console=console, refresh_per_second=4, transient=True)
    events = Tail(run.folder / EVENTS)
    showing = live if console.is_terminal else contextlib.nullcontext()
    with run.started() as process, contextlib.closing(events), showing:
        ended = False
        while not ended:
            ended = process.poll() is not None
            for event in events:
                progress.take(event)
                if event["kind"] == "accuracy" and not console.is_terminal:
                    console.print(progress.line())
            if not ended:
                time.sleep(_POLL_S)
    result = run.result()
    if result is None:
        raise run.failure(process.returncode)
    return result


def _seeds(folder: Path, options: Options, rest: Sequence[str]) -> list[int]:
    """The seeds of the runs: those of an earlier start in this folder, or new ones, which are saved there."""
    command = {"task": options.task, "runs": options.runs, "ranks": options.nproc_per_node, "options": list(rest)}
    path = folder / _COMMAND
    if path.exists():
        saved = read(path, _SAVED)
        seeds: list[int] = saved["seeds"]
        if saved["asked"] != command or len(seeds) != options.runs or options.seed not in (None, seeds[0]):
            raise InputError(f"{folder} holds another benchmark: repeat its command, or choose another --output")
        return seeds
    first = options.seed if options.seed is not None else secrets.randbelow(MOST_SEED + 1 - options.runs)
    seeds = list(range(first, first + options.runs))
    folder.mkdir(parents=True, exist_ok=True)
    save({"asked": command, "seeds": seeds}, path)
    return seeds


def _report(
    folder: Path, options: Options, rest: Sequence[str], results: list[dict[str, Any]], console: Console
) -> int:
    """Score the runs, write the result, the figure and a submission's folder, and print the figures."""
    task = TASKS[options.task]
    score = olympic([result["official_s"] if result["converged"] else None for result in results])
    counted = [results[run] for run in score.counted]
    wall_s = sum(result["wall_s"] for result in counted) / len(counted) if counted else None
    logs = [folder / f"run-{number}" / MLLOG for number in range(len(results))]
    submitted, _ = parse_some("drumfire.training", None, Submission, rest)
    organisation = submission.write(folder / "package", task.benchmark, logs, submitted, results[0])
    checked = {rules: sum(submission.accepts(log, rules) for log in logs) for rules in task.rulesets}
    document = {
        "note": NOTE,
        "task": task.name,
        "ranks": options.nproc_per_node,
        "valid": score.seconds is not None,
        "reason": score.reason,
        "olympic_mean_s": score.seconds,
        "olympic_mean_wall_s": wall_s,
        "counted_runs": score.counted,
        "converged_runs": sum(result["converged"] for result in results),
        "images_per_s": _throughput(results),
        "images_per_s_per_rank": _throughput(results) / options.nproc_per_node,
        "evaluation_s": sum(result["evaluation_s"] for result in results),
        "accepted_logs": checked,
        "package": str(organisation),
        "runs": results,
    }
    save(document, folder / RESULT)
    figure.save(results, _title(options), task.metric, folder / "map.png")
    _show(document, score, folder, console)
    return REACHED if score.seconds is not None else NOT_REACHED


def _throughput(results: Sequence[Mapping[str, Any]]) -> float:
    """Images per second of training time over all runs, without evaluations."""
    training_s = sum(result["training_s"] for result in results)
    return sum(result["images"] for result in results) / training_s if training_s else 0.0


def _show(document: Mapping[str, Any], score: Score, folder: Path, console: Console) -> None:
    results = document["runs"]
    qualities = results[0]["target"]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)  # fits 80 columns
    for name in ("seed", "target", "epochs", *qualities, "official", "wall", "images/s", "counted"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("target", "counted") else "right")
    for number, result in enumerate(results):
        last = result["evaluations"][-1] if result["evaluations"] else dict.fromkeys(qualities, 0.0)
        table.add_row(
            str(result["seed"]),
            "reached" if result["converged"] else "MISSED",
            str(result["epochs"]),
            *(f"{last[quality]:.3f}" for quality in qualities),
            f"{result['official_s']:.1f} s",
            f"{result['wall_s']:.1f} s",
            f"{result['images_per_s']:.2f}",
            "yes" if number in score.counted else "no",
        )
    console.print(table)
    if score.seconds is None:
        console.print(f"[bold red]no valid score[/]: {score.reason}")
    else:
        console.print(
            f"[bold]time to train[/]  {score.seconds:.1f} s ({score.seconds / 60:.3f} min), olympic mean of run_start "
            f"to run_stop; {document['olympic_mean_wall_s']:.1f} s of wall time, model build and all, in the same runs"
        )
    console.print(
        f"[bold]throughput[/]     {document['images_per_s']:.2f} images/s, {document['images_per_s_per_rank']:.2f} on "
        f"each of {document['ranks']} ranks, without the {document['evaluation_s']:.1f} s of evaluations"
    )
    accepted = [f"{count} of {len(results)} by ruleset {rules}" for rules, count in document["accepted_logs"].items()]
    console.print(f"[bold]logs accepted[/]  {', '.join(accepted)}")
    console.print(f"[bold]in[/]             {folder}: {RESULT}, map.png, package/")


if __name__ == "__main__":
    streams.install()
    sys.exit(main())
