"""``python -m drumfire.training.benchmark``: several seeded runs, each in fresh processes, and their olympic mean.

The same command goes on with what an earlier one left: finished runs are kept, an unfinished one is resumed.  Options
that are not told here go to every run (see ``python -m drumfire.training --help``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from drumfire.training import figure, pictures, prepare, submission
from drumfire.training.faults import InputError, one_line
from drumfire.training.mllog import Submission
from drumfire.training.progress import Progress, Tail
from drumfire.training.result import RESULT, save
from drumfire.training.score import Score, olympic
from drumfire.training.tasks import TASKS
from drumfire.training.train import CHECKPOINT, EVENTS, MLLOG

REACHED, NOT_REACHED, USAGE, INTERRUPTED = 0, 1, 2, 130
_ASKED, _OUTPUT = "benchmark.json", "output.log"
_LOOK_S = 0.25


class RunFailed(Exception):
    """A run ended without a result.  ``status``: what to end with."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def main(arguments: Sequence[str] | None = None) -> int:
    options, rest = _parser().parse_known_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        folder = options.output or _new_folder(f"{options.task}-{options.nproc_per_node}")
        if options.task == "shapes" and not any(option.startswith("--data-dir") for option in rest):
            prepare.generated(Path("runs/data/shapes"), pictures.SHAPES)
        seeds = _seeds(folder, options, rest)
        results: list[dict[str, Any]] = []
        for number, seed in enumerate(seeds):
            title = f"{options.task}, {options.nproc_per_node} ranks"
            run = _Run(folder / f"run-{number}", options.task, seed, options.nproc_per_node, rest)
            results.append(run.result() or _drive(run, Progress(title, len(seeds), results), console))
        return _report(folder, options, rest, results, console)
    except RunFailed as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return error.status
    except (InputError, OSError) as error:
        print(f"benchmark: {one_line(error)}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("benchmark: interrupted; the same command goes on where it was", file=sys.stderr)
        return INTERRUPTED


def _new_folder(name: str) -> Path:
    """The last one of this name, if it is unfinished; otherwise the next."""
    folder, number = Path("runs/training") / name, 1
    while (folder / RESULT).exists():
        number += 1
        folder = folder.with_name(f"{name}-{number}")
    return folder


class _Run:
    """One run's folder and the command that makes it."""

    def __init__(self, folder: Path, task: str, seed: int, ranks: int, rest: Sequence[str]) -> None:
        self.folder = folder
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        resume = ["--resume"] if (folder / CHECKPOINT).exists() else []
        asked = [task, "--seed", str(seed), "--output", str(folder), *resume, *rest]
        self._command = [sys.executable, *launcher, "-m", "drumfire.training", *asked]

    def result(self) -> dict[str, Any] | None:
        path = self.folder / RESULT
        return json.loads(path.read_text()) if path.exists() else None

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """The processes, which are ended if we are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # More threads than one a rank compete with the processes that read images.
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
        """What the run said.  torchrun has a status of its own, and tells its ranks' in its report."""
        lines = (self.folder / _OUTPUT).read_text(errors="replace").splitlines()
        told = [line.partition(": ")[2] for line in lines if line.startswith("training: ")]
        wrong_input = status == USAGE or any(re.search(r"exitcode\s*: 2\b", line) for line in lines[-60:])
        reason = told[-1] if told else f"it ended with status {status}"
        return RunFailed(f"{reason} (see {self.folder / _OUTPUT})", USAGE if wrong_input else NOT_REACHED)


def _drive(run: _Run, progress: Progress, console: Console) -> dict[str, Any]:
    """Make one run while showing it; its result, or ``RunFailed``."""
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
                time.sleep(_LOOK_S)
    found = run.result()
    if found is None:
        raise run.failure(process.returncode)
    return found


def _seeds(folder: Path, options: argparse.Namespace, rest: Sequence[str]) -> list[int]:
    """The runs' seeds: those of the benchmark that is in the folder already, or new ones, which are then kept there."""
    asked = {"task": options.task, "runs": options.runs, "ranks": options.nproc_per_node, "options": list(rest)}
    path = folder / _ASKED
    if path.exists():
        found = json.loads(path.read_text())
        if found["asked"] != asked or options.seed not in (None, found["seeds"][0]):
            raise InputError(f"{folder} holds another benchmark: repeat its command, or choose another --output")
        seeds: list[int] = found["seeds"]
        return seeds
    first = options.seed if options.seed is not None else secrets.randbelow(2**31 - options.runs)
    seeds = list(range(first, first + options.runs))
    folder.mkdir(parents=True, exist_ok=True)
    save({"asked": asked, "seeds": seeds}, path)
    return seeds


def _report(
    folder: Path, options: argparse.Namespace, rest: Sequence[str], results: list[dict[str, Any]], console: Console
) -> int:
    """Score the runs, leave the result, the figure and a submission's folder, and show the figures."""
    score = olympic([result["official_s"] if result["converged"] else None for result in results])
    counted = [results[run] for run in score.counted]
    wall_s = sum(result["wall_s"] for result in counted) / len(counted) if counted else None
    logs = [folder / f"run-{number}" / MLLOG for number in range(len(results))]
    organisation = submission.write(folder / "package", logs, _submission(rest), results)
    checked = {rules: sum(submission.accepts(log, rules) for log in logs) for rules in submission.RULESETS}
    found = {
        "note": "MLPerf-style, not an MLPerf result",
        "task": options.task,
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
    save(found, folder / RESULT)
    figure.save(results, f"{options.task}, {options.nproc_per_node} ranks", folder / "map.png")
    _show(found, score, results, folder, console)
    return REACHED if score.seconds is not None else NOT_REACHED


def _throughput(results: Sequence[Mapping[str, Any]]) -> float:
    """Images a second of training time, evaluations apart, over all runs."""
    training_s = sum(result["training_s"] for result in results)
    return sum(result["images"] for result in results) / training_s if training_s else 0.0


def _show(
    found: Mapping[str, Any], score: Score, results: Sequence[Mapping[str, Any]], folder: Path, console: Console
) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)  # fits 80 columns
    for name in ("seed", "target", "epochs", "box", "mask", "official", "wall", "images/s", "counted"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("target", "counted") else "right")
    for number, result in enumerate(results):
        last = result["evaluations"][-1] if result["evaluations"] else {"box": 0.0, "mask": 0.0}
        table.add_row(
            str(result["seed"]),
            "reached" if result["converged"] else "MISSED",
            str(result["epochs"]),
            f"{last['box']:.3f}",
            f"{last['mask']:.3f}",
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
            f"to run_stop; {found['olympic_mean_wall_s']:.1f} s of wall time, model build and all, in the same runs"
        )
    console.print(
        f"[bold]throughput[/]     {found['images_per_s']:.2f} images/s, {found['images_per_s_per_rank']:.2f} on each "
        f"of {found['ranks']} ranks, without the {found['evaluation_s']:.1f} s of evaluations"
    )
    accepted = [f"{count} of {len(results)} by ruleset {rules}" for rules, count in found["accepted_logs"].items()]
    console.print(f"[bold]logs accepted[/]  {', '.join(accepted)}")
    console.print(f"[bold]in[/]             {folder}: {RESULT}, map.png, package/")


def _submission(rest: Sequence[str]) -> Submission:
    """As the runs log it."""
    parser = argparse.ArgumentParser(add_help=False)
    for name, default in vars(Submission()).items():
        parser.add_argument(f"--{name}", default=default)
    return Submission(**vars(parser.parse_known_args(rest)[0]))


def _parser() -> argparse.ArgumentParser:
    # allow_abbrev: an abbreviation of ours may be a whole option of a run's
    parser = argparse.ArgumentParser(
        prog="python -m drumfire.training.benchmark", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="how many (default: 5, as the rules say)")
    parser.add_argument("--nproc-per-node", type=int, default=1, metavar="N", help="ranks of a run (default: 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="the first run's, the others count on (default: drawn)")
    parser.add_argument("--output", type=Path, metavar="D", help="default: runs/training/TASK-RANKS, then -2, -3, ...")
    return parser


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
