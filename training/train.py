"""One run: from its start or a checkpoint until it reaches the target or the last epoch.

The methods stand in the order of a run.  Only the seed, the epoch and the step decide what a rank does, so a resumed
run continues as if it had never stopped.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen.schema import fault
from drumfire.training import checkpoint, coco, evaluation
from drumfire.training.clock import Clock, now_ms, process_start_ms
from drumfire.training.coco import Annotations, Pictures, Shown
from drumfire.training.evaluation import RankDetections
from drumfire.training.faults import Diverged, InputError, one_line
from drumfire.training.journal import Journal
from drumfire.training.learner import Learner, Step
from drumfire.training.loader import Loader
from drumfire.training.mllog import Submission, SubmissionLog
from drumfire.training.ranks import Ranks
from drumfire.training.sampler import Indices, Share, epoch_batches, evaluation_share, shares
from drumfire.training.task import Task

CHECKPOINT, EVENTS, MLLOG = "checkpoint.pt", "events.jsonl", "mlperf.log"
"""Files in a run's folder, beside its result."""


@dataclass(frozen=True)
class Plan:
    """The settings of a run."""

    task: Task
    data: Path
    output: Path
    seed: int
    batch_size: int
    """Images per step, over all ranks."""
    accumulation: int
    """Parts in which a rank processes its images of a step, one after the other."""
    evaluation_batch: int
    """Images that a rank evaluates at a time."""
    epochs: int
    steps: int | None
    """Stop after this number of steps, even without the target."""
    workers: int
    """Processes per rank that read images."""
    precision: str
    weights: Path | None
    checkpoint_every: int | None
    """Steps between checkpoints within an epoch; an epoch always ends with one."""
    submission: Submission

    def identity(self) -> dict[str, Any]:
        """What must be the same when a run is resumed."""
        return {
            "task": self.task.name,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "accumulation": self.accumulation,
            "precision": self.precision,
        }


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    converged: bool
    finished: bool
    """Whether it reached the target, or did all of ``Plan.steps``."""
    reason: str
    epochs: int
    """Epochs begun."""
    evaluations: list[dict[str, float]]
    """``epoch``, ``since_start_s`` (official time), and each quality of the task"""
    clock: Clock


def check_state(state: Mapping[str, Any], path: Path, task: Task) -> None:
    """Check what was read from the checkpoint at ``path``.  ``InputError`` if no run of this version wrote it.

    Of another task than ``task``, its evaluations may be of other qualities.
    """
    position = state.get("position")
    plain: dict[str, Any] = {name: state.get(name) for name in _STATE["properties"]}
    plain["position"] = list(position) if isinstance(position, tuple) else position
    wrong = fault(plain, _STATE, whole=True)
    if wrong is None:
        try:
            clock = Clock(**plain["clock"])
            epoch, step, iteration = plain["position"]
        except (TypeError, ValueError):
            wrong = "it has other parts"
        else:
            whole = (step, iteration, *plain["journals"].values(), plain["identity"]["seed"])
            numbers = (*asdict(clock).values(), *(value for one in plain["evaluations"] for value in one.values()))
            are_right = epoch >= 1 and min(whole) >= 0 and all(0 <= each <= sys.float_info.max for each in numbers)
            needed = {"epoch", "since_start_s", *task.targets} if plain["identity"].get("task") == task.name else set()
            if plain["journals"].keys() != {EVENTS, MLLOG}:
                wrong = "it has other journals"
            elif not are_right:
                wrong = "a number is out of range"
            elif not all(needed <= one.keys() for one in plain["evaluations"]):
                wrong = f"an evaluation lacks one of {', '.join(sorted(needed))}"
    if wrong is not None:
        raise InputError(f"{path} is not a checkpoint of this version ({wrong}); {checkpoint.ANOTHER}")


NUMBERS = {"type": "object", "additionalProperties": {"type": "number"}}
_STATE: dict[str, Any] = {
    "properties": {
        "identity": {"type": "object", "properties": {"seed": {"type": "integer"}}},
        "clock": NUMBERS,
        "position": {"type": "array", "items": {"type": "integer"}},
        "evaluations": {"type": "array", "items": NUMBERS},
        "journals": {"type": "object", "additionalProperties": {"type": "integer"}},
    }
}


class Run:
    """One run on this rank.  The constructor is the rules' initialisation and does not touch the data."""

    def __init__(self, plan: Plan, ranks: Ranks, state: dict[str, Any] | None) -> None:
        """``state``: the checkpoint to continue from."""
        self._plan, self._ranks = plan, ranks
        self._resumed = state is not None
        self._clock = Clock(process_start_ms()) if state is None else Clock(**state["clock"])
        position: tuple[int, int, int] = (1, 0, 0) if state is None else state["position"]
        self._epoch, self._step, self._iteration = position
        self._evaluations: list[dict[str, float]] = [] if state is None else state["evaluations"]
        self._unrecorded: _Unrecorded | None = None
        kept = {EVENTS: 0, MLLOG: 0} if state is None else state["journals"]
        self._journals = {name: self._journal(name, size) for name, size in kept.items()}
        self._events = self._journals[EVENTS]
        self._log = SubmissionLog(self._journals[MLLOG], plan.task)
        at_a_time = math.ceil(plan.batch_size / (ranks.world * plan.accumulation))
        self.hyperparameters = plan.task.hyperparameters(plan.batch_size, at_a_time)
        if not self._resumed:  # the log of a resumed run has these lines already, and its clock is running
            cleared = not ranks.first_on_host or coco.drop_from_cache(plan.data)
            self._log.init_start(plan.submission, caches_cleared=all(ranks.all_gather(cleared)))
            self._log.hyperparameters(self.hyperparameters, plan.accumulation, plan.seed)
        self._learner = Learner(
            plan.task,
            ranks,
            seed=plan.seed,
            precision=plan.precision,
            candidates_per_image=max(self.hyperparameters.image_candidates // at_a_time, 1),
            weights=plan.weights,
            initialised=(lambda _: None) if self._resumed else self._log.weights_initialization,
        )
        if state is not None:
            try:
                self._learner.restore(state)
            except Exception as error:  # what other tensors make torch raise can be nearly anything
                path = plan.output / CHECKPOINT
                what = one_line(error)[:200]
                raise InputError(f"{path} has other parts than this model ({what}); {checkpoint.ANOTHER}") from None
        ranks.barrier()
        if not self._resumed:
            self._log.init_stop()

    def train(self) -> Outcome:
        """Train until the run ends.  All ranks raise ``InputError`` if one has a fault, ``LostRank`` if one is gone."""
        if self._resumed:
            self._clock.resume()
            self._events.record("resumed", iteration=self._iteration, lost_s=self._clock.lost_s)
        else:
            self._start_clock()
        self._read_data()
        plan = self._plan
        while self._epoch <= plan.epochs:
            try:
                whole = self._train_epoch()
            except Diverged as error:
                return self._stop(str(error))
            if not whole:
                return self._stop(f"stopped after {self._iteration} steps, as asked", finished=True)
            if plan.task.reached(self._evaluate()):
                return self._stop("the target was reached", converged=True, finished=True)
            self._epoch, self._step = self._epoch + 1, 0
        return self._stop(f"the target was not reached in {plan.epochs} epochs")

    def close(self) -> None:
        for journal in self._journals.values():
            journal.close()

    def _start_clock(self) -> None:
        self._clock.run_start_ms = now_ms()
        self._log.run_start(self._clock.run_start_ms)
        self._events.record("start", run=self._plan.identity(), world=self._ranks.world, epochs=self._plan.epochs)
        self._save()  # from here on a resumed run keeps the official start

    def _read_data(self) -> None:
        plan = self._plan
        with self._ranks.agreeing():
            self._train_set, self._truth = (coco.read(plan.data, part) for part in (coco.TRAIN, coco.VALIDATION))
            self._pictures = self._train_set.trainable()
            _check(self._train_set, self._truth, len(self._pictures), plan)
        self._tall = np.array([picture.height > picture.width for picture in self._pictures])
        shown = Pictures(self._pictures, self._train_set.categories, plan.seed)
        self._loader = Loader(shown, self._training_order(), plan.workers, self._ranks.device)
        self._loaded = iter(self._loader)  # for all epochs, so that it reads ahead across their ends
        self._evaluation_loader = Loader(
            Pictures(self._truth.pictures, self._truth.categories),
            self._evaluation_order(),
            plan.workers,
            self._ranks.device,
        )
        if not self._resumed:
            self._log.samples(len(self._pictures), len(self._truth.pictures))

    def _train_epoch(self) -> bool:
        """Train on the rest of the epoch.  False if ``Plan.steps`` ended it early."""
        plan, loader = self._plan, self._loader
        batches = self._batches(self._epoch)
        if self._step == len(batches):  # resumed after the last step: only the evaluation remains
            return True
        if plan.steps is not None and self._iteration >= plan.steps:
            return False
        if self._step == 0:
            self._log.epoch_start(self._epoch)
            self._events.record("epoch", epoch=self._epoch, steps=len(batches))
        left = batches[self._step :]
        if plan.steps is not None:
            left = left[: plan.steps - self._iteration]
        began = time.monotonic()
        for batch in left:
            waited_s, cpu_s = loader.waited_s, time.process_time()
            rate = self.hyperparameters.learning_rate(self._iteration)
            step = self._learner.step(self._shares(batch), self._loaded, rate, self._fault())
            self._record_step()  # the step before: its figures have left the GPU, so reading them does not wait
            self._step, self._iteration = self._step + 1, self._iteration + 1
            ended = time.monotonic()
            self._unrecorded = _Unrecorded(
                step, rate, len(batch), ended - began, loader.waited_s - waited_s, time.process_time() - cpu_s
            )
            due = plan.checkpoint_every and self._iteration % plan.checkpoint_every == 0
            if due and self._step < len(batches):
                self._save()
                ended = time.monotonic()
            began = ended
        self._record_step()
        if self._step < len(batches):
            return False
        self._log.epoch_stop(self._epoch)
        self._save()
        return True

    def _batches(self, epoch: int) -> list[Indices]:
        return epoch_batches(self._tall, self._plan.batch_size, self._plan.seed, epoch)

    def _shares(self, batch: Indices) -> list[Share]:
        return shares(batch, self._plan.accumulation, self._ranks.rank, self._ranks.world)

    def _training_order(self) -> Iterator[list[Shown]]:
        """The pictures that this rank loads from here to the last epoch, share by share."""
        first = self._step
        for epoch in range(self._epoch, self._plan.epochs + 1):
            for batch in self._batches(epoch)[first:]:
                for share in self._shares(batch):
                    yield [(epoch, index) for index in share.indices.tolist()]
            first = 0

    def _evaluation_order(self) -> list[list[Shown]]:
        share = evaluation_share(len(self._truth.pictures), self._ranks.rank, self._ranks.world)
        size = self._plan.evaluation_batch
        return [[(0, index) for index in share[at : at + size]] for at in range(0, len(share), size)]

    def _record_step(self) -> None:
        """Read and record the last step, if any.  All ranks raise ``Diverged`` if its figures are not finite."""
        last, self._unrecorded = self._unrecorded, None
        if last is None:
            return
        (loss,) = self._ranks.totals([float(last.step.loss)], self._fault())
        norm = float(last.step.gradient_norm)
        self._clock.train_s += last.took_s
        self._clock.data_wait_s += last.waited_s
        self._clock.images += last.images
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"step {self._iteration} has a loss of {loss} and a gradient of {norm}: try another --seed")
        self._events.record(
            "step",
            epoch=self._epoch,
            iteration=self._iteration,
            loss=loss,
            rate=last.rate,
            images=last.images,
            took_s=last.took_s,
            waited_s=last.waited_s,
            cpu_s=last.cpu_s,
        )

    def _evaluate(self) -> Mapping[str, float]:
        """Each rank detects in its share of the images; rank 0 scores all detections and sends the accuracy to all."""
        ranks = self._ranks
        began = time.monotonic()
        self._log.eval_start(self._epoch)
        self._events.record("evaluation", epoch=self._epoch)
        detected = RankDetections([], [])
        fault = self._fault()
        for batch in self._evaluation_loader:
            fault = fault or batch.fault
            if batch.fault is None:
                detected.images.extend(batch.picture_ids)
                outputs = self._learner.detect(batch)
                detected.detections.extend(evaluation.detections(batch.picture_ids, outputs, self._truth.categories))
        ranks.agree(fault)
        of_ranks = ranks.gather(detected)
        accuracy: Mapping[str, float] = ranks.broadcast(
            evaluation.score(self._truth.file, of_ranks) if ranks.first else None
        )
        self._clock.evaluation_s += time.monotonic() - began
        record = {"epoch": self._epoch, "since_start_s": self._clock.since_start_s, **accuracy}
        self._evaluations.append(record)
        self._log.eval_accuracy(self._epoch, accuracy)
        self._log.eval_stop(self._epoch)
        self._events.record("accuracy", **record)
        return accuracy

    def _stop(self, reason: str, *, converged: bool = False, finished: bool = False) -> Outcome:
        self._ranks.barrier()
        self._clock.run_stop_ms = now_ms()
        self._log.run_stop(self._clock.run_stop_ms, success=converged)
        self._events.record("stop", reason=reason, converged=converged)
        self._ranks.agree(self._fault())
        begun = self._epoch if self._step else self._epoch - 1
        return Outcome(converged, finished, reason, begun, self._evaluations, self._clock)

    def _save(self) -> None:
        """Write a checkpoint, on rank 0."""
        self._record_step()
        with self._ranks.agreeing(self._fault()):
            if self._ranks.first:
                state = {
                    "identity": self._plan.identity(),
                    "clock": self._clock.state(),
                    "position": (self._epoch, self._step, self._iteration),
                    "evaluations": self._evaluations,
                    "journals": {name: journal.size for name, journal in self._journals.items()},
                    **self._learner.state(),
                }
                checkpoint.save(state, self._plan.output / CHECKPOINT)

    def _journal(self, name: str, keep: int) -> Journal:
        """This rank's journal, which is a file only on rank 0."""
        with self._ranks.agreeing():
            return Journal(self._plan.output / name if self._ranks.first else None, keep)

    def _fault(self) -> str | None:
        return next((journal.fault for journal in self._journals.values() if journal.fault), None)


@dataclass(frozen=True)
class _Unrecorded:
    """A step whose figures are still on the device."""

    step: Step
    rate: float
    images: int
    took_s: float
    waited_s: float
    cpu_s: float
    """CPU time of this process, without those that read images."""


def _check(train: Annotations, validation: Annotations, trainable: int, plan: Plan) -> None:
    """``InputError`` if the task cannot train on this data."""
    task = plan.task
    for part in (train, validation):
        if len(part.categories) != task.classes:
            raise InputError(f"{part.file} has {len(part.categories)} categories, {task.name} needs {task.classes}")
    if train.categories != validation.categories:
        raise InputError(f"{train.file} and {validation.file} list different categories")
    if trainable < plan.batch_size:
        raise InputError(f"{train.file} has {trainable} images to train on: lower --batch-size ({plan.batch_size})")
