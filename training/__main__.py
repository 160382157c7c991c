"""``torchrun --nproc_per_node=N -m drumfire.training TASK``: one run, from the command line to an exit status.

Exit status on every rank: 0 the target was reached (or all of --steps were done), 1 it was not, 2 wrong usage or input,
130 interrupted or terminated.  Without torchrun the run has one rank.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from drumfire.loadgen import streams
from drumfire.loadgen.options import option
from drumfire.loadgen.signals import on_ending
from drumfire.training import checkpoint, coco, result
from drumfire.training.faults import INTERRUPTED, NOT_REACHED, REACHED, USAGE, InputError, LostRank, one_line
from drumfire.training.learner import PRECISIONS
from drumfire.training.mllog import Submission
from drumfire.training.options import MOST_SEED, parse
from drumfire.training.ranks import Place, Ranks, device_for, is_loss, joined
from drumfire.training.task import Task
from drumfire.training.tasks import TASKS
from drumfire.training.train import CHECKPOINT, Plan, Run, check_state

_PROGRAM = "drumfire.training"


@dataclass(frozen=True, kw_only=True)
class Options(Submission):
    """The options of a run.  Those without a default here have one that depends on the task and on the machine."""

    task: str = option(position=True, choices=tuple(TASKS), help="the benchmark")
    data_dir: Path = option(metavar="D", help="the data set (default: runs/data/TASK)")
    output: Path = option(metavar="D", help="the run's folder (default: runs/training/TASK)")
    resume: bool = option(False, help="continue from the checkpoint in --output")
    seed: int | None = option(None, least=0, most=MOST_SEED, help="0 to 2^31-1 (default: random)")
    batch_size: int = option(help="images per step, over all ranks (default: 8)")
    accumulation: int = option(1, help="parts of a rank's images of a step (default: 1)")
    eval_batch_size: int = option(4, help="images a rank evaluates at once (default: 4)")
    epochs: int = option(help="stop after N epochs without the target (default: 20)")
    steps: int | None = option(None, help="stop after N steps, to try a machine")
    workers: int = option(least=0, most=1024, help="processes per rank that read images (default: 1, with a GPU 4)")
    device: str = option("auto", choices=("auto", "cpu", "cuda"), help="what computes (default: a GPU if there is one)")
    backend: str = option("auto", choices=("auto", "gloo", "nccl"), help="library that sums gradients over ranks")
    precision: str = option(choices=tuple(PRECISIONS), help="default: fp32 on the CPU, bf16 with a GPU")
    deterministic: bool = option(False, help="use only deterministic algorithms on a GPU, which is slower")
    weights: Path | None = option(
        None, metavar="F", help="the backbone's weights (default: the task's file in --data-dir)"
    )
    from_scratch: bool = option(False, help="start with a random backbone, to try a machine")
    checkpoint_every: int | None = option(None, help="steps between checkpoints (default: one epoch)")


def main(arguments: Sequence[str] | None = None) -> int:
    place = Place(0, 1, 0)
    on_ending(signal.default_int_handler)
    try:
        place = Place.here()
        options = _options(arguments, place)
        device = device_for(place, options.device)
        with joined(place, device, options.backend) as ranks:
            return _run(options, ranks)
    except InputError as error:
        # Rank 0 prints the error that all ranks raise.  One rank alone may raise its own, such as a missing GPU.
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
        # A signal usually goes to all ranks, and one line is enough.
        said = "interrupted; --resume continues from the last checkpoint"
        return _end(place, INTERRUPTED, f"rank 0: {said}" if place.rank == 0 else "")


def _run(options: Options, ranks: Ranks) -> int:
    task = TASKS[options.task]
    ranks.agree(_unusable_output(options) if ranks.first else None)
    if (absent := coco.missing(options.data_dir)) is not None:
        absent += f": run 'python -m drumfire.training.prepare {task.data}', or give --data-dir"
    ranks.agree(absent)
    state = ranks.broadcast(_checkpoint(options) if ranks.first else None)
    if isinstance(state, InputError):
        raise state
    seed = options.seed
    if seed is None:
        seed = secrets.randbelow(MOST_SEED + 1) if state is None else state["identity"]["seed"]
    plan = _plan(task, options, ranks.broadcast(seed))
    if state is not None and state["identity"] != plan.identity():
        raise InputError(
            f"{options.output} holds a run of {_listed(state['identity'])}, not of {_listed(plan.identity())}"
        )
    if options.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    run = Run(plan, ranks, state)
    try:
        outcome = run.train()
    finally:
        run.close()
    fault = None
    if ranks.first:
        document = result.document(plan, ranks, run.hyperparameters, outcome)
        try:
            result.save(document, plan.output / result.RESULT)
        except OSError as error:
            fault = f"cannot write the result: {one_line(error)}; make room, then start again with --resume"
        print(_summary(document, plan), flush=True)
    ranks.agree(fault)
    return REACHED if outcome.finished else NOT_REACHED


def _unusable_output(options: Options) -> str | None:
    """Why the run cannot use its output folder; None if it can.  Only rank 0 writes there."""
    output = options.output
    if (output / result.RESULT).exists():
        return f"{output} already holds a finished run: choose another --output"
    if (output / CHECKPOINT).exists() and not options.resume:
        return f"{output} holds an unfinished run: give --resume to continue it, or choose another --output"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"cannot create {output}: {one_line(error)}; choose another --output"
    return None


def _checkpoint(options: Options) -> dict[str, Any] | InputError | None:
    """The checkpoint, or the error of reading it, which rank 0 sends to all; None without --resume."""
    try:
        if not options.resume:
            return None
        path = options.output / CHECKPOINT
        state = checkpoint.load(path)
        check_state(state, path, TASKS[options.task])
        return state
    except InputError as error:
        return error


def _plan(task: Task, options: Options, seed: int) -> Plan:
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
        submission=options,
    )


def _summary(document: dict[str, Any], plan: Plan) -> str:
    quality = "not evaluated"
    if document["evaluations"]:
        last = document["evaluations"][-1]
        quality = ", ".join(f"{name} {last[name]:.3f}" for name in document["target"]) + f" {plan.task.metric}"
    verdict = "reached" if document["converged"] else "NOT reached"
    return "\n".join(
        (
            f"target       {verdict}: {document['reason']} ({quality} after {document['epochs']} epochs)",
            f"time         {document['official_s']:.1f} s from run_start to run_stop, {document['wall_s']:.1f} s wall",
            f"of it        {document['training_s']:.1f} s training ({document['data_wait_s']:.1f} s waiting for data), "
            f"{document['evaluation_s']:.1f} s evaluating, {document['lost_s']:.1f} s lost to "
            f"{document['resumptions']} stops",
            f"throughput   {document['images_per_s']:.2f} images/s, {document['images_per_s_per_rank']:.2f} on each of "
            f"{document['ranks']} ranks",
            f"seed         {document['seed']}",
            f"in           {plan.output}",
        )
    )


def _options(arguments: Sequence[str] | None, place: Place) -> Options:
    options = parse(_PROGRAM, __doc__, Options, arguments, _defaults)
    at_once = place.world * options.accumulation
    if options.batch_size % at_once:
        raise _wrong(
            f"--batch-size {options.batch_size} cannot be divided by {place.world} ranks x --accumulation "
            f"{options.accumulation}: choose a multiple of {at_once}"
        )
    if options.division == "closed" and (not TASKS[options.task].closed or options.from_scratch):
        accepted = ", ".join(name for name, each in TASKS.items() if each.closed)
        raise _wrong(f"the closed division accepts only {accepted}, without --from-scratch: leave --division open")
    return options


def _defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that depend on the task and on the machine."""
    task = TASKS[values["task"]]
    gpu = values["device"] != "cpu" and torch.cuda.is_available()
    return {
        "data_dir": task.folder,
        "output": Path("runs/training") / task.name,
        "batch_size": task.batch_size,
        "epochs": task.epochs,
        "workers": 4 if gpu else 1,
        "precision": "bf16" if gpu else "fp32",
    }


def _wrong(text: str) -> InputError:
    return InputError(f"{text} (see 'python -m {_PROGRAM} --help')")


def _listed(identity: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in identity.items())


def _end(place: Place, status: int, message: str) -> int:
    """Print the message and keep the exit status: torchrun sends SIGTERM to the others once one rank has ended."""
    on_ending(signal.SIG_IGN)
    if message:
        print(f"training: {message}", file=sys.stderr, flush=True)
    if place.world > 1:
        # Exit at once: an orderly shutdown may wait forever for a rank that is gone.
        for reader in multiprocessing.active_children():
            reader.kill()
        sys.stdout.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    streams.install()
    sys.exit(main())
