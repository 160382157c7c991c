"""``torchrun --nproc_per_node=N -m drumfire.training maskrcnn``: one run; errors are one line and a status.

Exit status on every rank: 0 the target was reached (or the asked steps were done), 1 it was not, 2 wrong usage or
input, 130 interrupted or told to end.  Without torchrun it is one rank.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from drumfire.training import checkpoint, coco, result
from drumfire.training.faults import InputError, LostRank, one_line
from drumfire.training.learner import PRECISIONS
from drumfire.training.mllog import Submission
from drumfire.training.ranks import Place, Ranks, device_for, is_loss, joined
from drumfire.training.tasks import TASKS
from drumfire.training.train import CHECKPOINT, Plan, Run

REACHED, NOT_REACHED, USAGE, INTERRUPTED = 0, 1, 2, 130
DATA = Path("runs/data")
"""Where the data sets are by default, each in a folder of its task's name."""


def main(arguments: Sequence[str] | None = None) -> int:
    place = Place(0, 1, 0)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        place = Place.here()
        options = _options(arguments, place)
        device = device_for(place, options.device)
        with joined(place, device, options.backend) as ranks:
            return _run(options, ranks)
    except InputError as error:
        # The ranks agree on what is wrong, and one tells it; but a rank may lack a device of its own.
        return _end(place, USAGE, str(error) if place.rank == 0 or error.local else "")
    except LostRank as error:
        return _end(place, NOT_REACHED, f"rank {place.rank}: another rank is gone ({error}); start again with --resume")
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            gone = "a process that reads images is gone"
        elif is_loss(error):
            gone = "another rank is gone"
        else:
            raise
        return _end(place, NOT_REACHED, f"rank {place.rank}: {gone} ({one_line(error)}); start again with --resume")
    except KeyboardInterrupt:
        return _end(place, INTERRUPTED, f"rank {place.rank}: interrupted; --resume goes on from the last checkpoint")


def _run(options: argparse.Namespace, ranks: Ranks) -> int:
    ranks.agree(_unusable(options) if ranks.first else None)
    ranks.agree(coco.missing(options.data_dir) and f"{coco.missing(options.data_dir)}: {_prepare(options.task)}")
    state = ranks.from_first(_checkpoint(options) if ranks.first else None)
    if isinstance(state, InputError):
        raise state
    drawn = secrets.randbelow(2**31) if state is None else state["identity"]["seed"]
    plan = _plan(options, ranks.from_first(drawn if options.seed is None else options.seed))
    if state is not None and state["identity"] != plan.identity():
        raise InputError(f"{options.output} holds a run of {_told(state['identity'])}, not of {_told(plan.identity())}")
    if options.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    run = Run(plan, ranks, state)
    try:
        outcome = run.train()
    finally:
        run.close()
    fault = None
    if ranks.first:
        found = result.document(plan, ranks, run.hyperparameters, outcome)
        try:
            result.save(found, plan.output / result.RESULT)
        except OSError as error:
            fault = f"cannot write the result: {one_line(error)}; make room, then start again with --resume"
        print(_summary(found, plan.output), flush=True)
    ranks.agree(fault)
    return REACHED if outcome.finished else NOT_REACHED


def _unusable(options: argparse.Namespace) -> str | None:
    """What is wrong with the output folder, which only rank 0 writes to."""
    output: Path = options.output
    if (output / result.RESULT).exists():
        return f"{output} already holds a finished run: choose another --output"
    if (output / CHECKPOINT).exists() and not options.resume:
        return f"{output} holds an unfinished run: give --resume to go on with it, or choose another --output"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"cannot make {output}: {one_line(error)}; choose another --output"
    return None


def _checkpoint(options: argparse.Namespace) -> dict[str, Any] | InputError | None:
    """What to resume from, or why that can not be had: rank 0 reads it for all."""
    try:
        return checkpoint.load(options.output / CHECKPOINT) if options.resume else None
    except InputError as error:
        return error


def _plan(options: argparse.Namespace, seed: int) -> Plan:
    task = TASKS[options.task]
    weights = options.weights or (options.data_dir / task.weights if task.weights else None)
    return Plan(
        task=task,
        data=options.data_dir,
        output=options.output,
        seed=seed,
        batch_size=options.batch_size,
        accumulation=options.accumulation,
        evaluation_batch=options.eval_batch_size,
        epochs=options.epochs,
        steps=options.steps,
        workers=options.workers,
        precision=options.precision,
        weights=None if options.from_scratch else weights,
        checkpoint_every=options.checkpoint_every,
        submission=Submission(options.division, options.org, options.platform, options.status),
    )


def _summary(found: dict[str, Any], output: Path) -> str:
    last = found["evaluations"][-1] if found["evaluations"] else None
    quality = f"box {last['box']:.3f}, mask {last['mask']:.3f} mAP" if last else "not evaluated"
    verdict = "reached" if found["converged"] else "NOT reached"
    return "\n".join(
        (
            f"target       {verdict}: {found['reason']} ({quality} after {found['epochs']} epochs)",
            f"time         {found['official_s']:.1f} s from run_start to run_stop, {found['wall_s']:.1f} s wall",
            f"of it        {found['training_s']:.1f} s training ({found['data_wait_s']:.1f} s waiting for data), "
            f"{found['evaluation_s']:.1f} s evaluating, {found['lost_s']:.1f} s lost to {found['resumptions']} stops",
            f"throughput   {found['images_per_s']:.2f} images/s, {found['images_per_s_per_rank']:.2f} on each of "
            f"{found['ranks']} ranks",
            f"seed         {found['seed']}",
            f"in           {output}",
        )
    )


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see 'python -m drumfire.training --help')")


def _options(arguments: Sequence[str] | None, place: Place) -> argparse.Namespace:
    parser = _Parser(prog="python -m drumfire.training", description=__doc__)
    option = parser.add_argument
    option("task", choices=TASKS)
    option("--data-dir", type=Path, metavar="D", help="the data set (default: runs/data/TASK)")
    option("--output", type=Path, metavar="D", help="the run's folder (default: runs/training/TASK)")
    option("--resume", action="store_true", help="go on from the checkpoint in --output")
    option("--seed", type=int, metavar="N", help="0 to 2^31-1 (default: drawn)")
    option("--batch-size", type=int, metavar="N", help="images of a step, over all ranks (default: 8)")
    option("--accumulation", type=int, default=1, metavar="N", help="parts of a rank's images of a step (default: 1)")
    option(
        "--eval-batch-size", type=int, default=4, metavar="N", help="images evaluated at a time, a rank (default: 4)"
    )
    option("--epochs", type=int, metavar="N", help="give up after so many (default: 20)")
    option("--steps", type=int, metavar="N", help="stop after so many steps, to try a machine")
    option("--workers", type=int, metavar="N", help="processes that read images, a rank (default: 1, with a GPU 4)")
    option("--device", choices=("auto", "cpu", "cuda"), default="auto")
    option("--backend", choices=("auto", "gloo", "nccl"), default="auto", help="what gradients travel over")
    option("--precision", choices=PRECISIONS, help="default: fp32 on the CPU, bf16 with a GPU")
    option("--deterministic", action="store_true", help="only deterministic algorithms on a GPU: slower")
    option("--weights", type=Path, metavar="F", help="the backbone's (default: R-50.pkl in --data-dir)")
    option("--from-scratch", action="store_true", help="start from a random backbone, to try a machine")
    option("--checkpoint-every", type=int, metavar="N", help="steps between checkpoints (default: an epoch's)")
    option("--division", choices=("open", "closed"), default="open", help="what the log claims (default: open)")
    option("--org", default="drumfire")
    option("--platform", default="local")
    option("--status", choices=("cloud", "onprem", "preview", "research"), default="research")
    options = parser.parse_args(arguments)
    task = TASKS[options.task]
    gpu = options.device != "cpu" and torch.cuda.is_available()
    defaults = {
        "data_dir": DATA / task.name,
        "output": Path("runs/training") / task.name,
        "batch_size": task.batch_size,
        "epochs": task.epochs,
        "workers": 4 if gpu else 1,
        "precision": "bf16" if gpu else "fp32",
    }
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    _check(parser, options, place)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace, place: Place) -> None:
    for name in ("batch_size", "accumulation", "eval_batch_size", "epochs", "steps", "checkpoint_every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    if options.workers < 0:
        parser.error(f"--workers must be at least 0, not {options.workers}")
    if options.seed is not None and not 0 <= options.seed < 2**31:
        parser.error(f"--seed must be 0 to 2^31-1, not {options.seed}")
    at_once = place.world * options.accumulation
    if options.batch_size % at_once:
        parser.error(
            f"--batch-size {options.batch_size} can not be divided by {place.world} ranks x --accumulation "
            f"{options.accumulation}: choose a multiple of {at_once}"
        )
    if options.division == "closed" and (options.task != "maskrcnn" or options.from_scratch):
        parser.error("the closed division knows only maskrcnn with the given weights: leave --division open")


def _prepare(task: str) -> str:
    return f"run 'python -m drumfire.training.prepare {'coco' if task == 'maskrcnn' else task}', or give --data-dir"


def _told(identity: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in identity.items())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end(place: Place, status: int, told: str) -> int:
    """Tell, and see that the status is ours: torchrun sends SIGTERM to the others as soon as one rank has ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if told:
        print(f"training: {told}", file=sys.stderr, flush=True)
    if place.world > 1:
        # At once: taking down what is shared with other ranks may wait for one that is gone, without end.
        for reader in multiprocessing.active_children():
            reader.kill()
        sys.stdout.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
