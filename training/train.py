"""One run: from its start or from a checkpoint, until the target is reached or the epochs are over.

Reads top to bottom as a run goes.  What a rank does follows from the seed, the epoch and the step alone, so a resumed
run goes on as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.training import checkpoint, coco, evaluation
from drumfire.training.clock import Clock, now_ms, process_start_ms
from drumfire.training.coco import Annotations, Pictures, Shown
from drumfire.training.evaluation import Accuracy, Answers
from drumfire.training.faults import Diverged, InputError
from drumfire.training.journal import Journal
from drumfire.training.learner import Learner, Step
from drumfire.training.loader import Loader
from drumfire.training.mllog import Submission, SubmissionLog
from drumfire.training.ranks import Ranks
from drumfire.training.sampler import Indices, Share, epoch_batches, evaluation_share, shares
from drumfire.training.tasks import Task

CHECKPOINT, EVENTS, MLLOG = "checkpoint.pt", "events.jsonl", "mlperf.log"
"""What a run leaves in its folder, beside its result."""


@dataclass(frozen=True)
class Plan:
    """What is asked of a run."""

    task: Task
    data: Path
    output: Path
    seed: int
    batch_size: int
    """Images of a step, over all ranks."""
    accumulation: int
    """Parts in which a rank takes its images of a step, one after the other."""
    evaluation_batch: int
    """Images that a rank evaluates at a time."""
    epochs: int
    steps: int | None
    """Stop after so many steps, whatever was reached."""
    workers: int
    """Processes that read images, a rank."""
    precision: str
    weights: Path | None
    checkpoint_every: int | None
    """Steps between checkpoints within an epoch; there is always one at its end."""
    submission: Submission

    def identity(self) -> dict[str, Any]:
        """What must be the same where a run is resumed."""
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
    """Whether it did what was asked: reached the target, or the asked number of steps."""
    reason: str
    epochs: int
    """Begun."""
    evaluations: list[dict[str, float]]
    """epoch, since_start_s (official time), box, mask"""
    clock: Clock


class Run:
    """One run on this rank.  Building it is the rules' initialisation: the data is not touched."""

    def __init__(self, plan: Plan, ranks: Ranks, state: dict[str, Any] | None) -> None:
        """``state``: the checkpoint to go on from."""
        self._plan, self._ranks = plan, ranks
        self._resumed = state is not None
        self._clock = Clock(process_start_ms()) if state is None else Clock(**state["clock"])
        position: tuple[int, int, int] = (1, 0, 0) if state is None else state["position"]
        self._epoch, self._step, self._iteration = position
        self._evaluations: list[dict[str, float]] = [] if state is None else state["evaluations"]
        self._unsettled: _Unsettled | None = None
        kept = {EVENTS: 0, MLLOG: 0} if state is None else state["journals"]
        self._journals = {name: self._journal(name, size) for name, size in kept.items()}
        self._events = self._journals[EVENTS]
        self._log = SubmissionLog(self._journals[MLLOG])
        at_a_time = math.ceil(plan.batch_size / (ranks.world * plan.accumulation))
        self.hyperparameters = plan.task.hyperparameters(plan.batch_size, at_a_time)
        if not self._resumed:  # a resumed run's clock is running: it initialises on it, and the log has these lines
            cleared = not ranks.first_on_host or coco.drop_from_cache(plan.data)
            self._log.init_start(plan.submission, caches_cleared=all(ranks.everyones(cleared)))
            self._log.hyperparameters(self.hyperparameters, plan.accumulation, plan.task.image_sizes, plan.seed)
        self._learner = Learner(
            plan.task,
            ranks,
            seed=plan.seed,
            precision=plan.precision,
            candidates_per_image=max(self.hyperparameters.image_candidates // at_a_time, 1),
            weights=plan.weights,
            initialised=_nobody if self._resumed else self._log.weights_initialization,
        )
        if state is not None:
            self._learner.restore(state)
        ranks.meet()
        if not self._resumed:
            self._log.init_stop()

    def train(self) -> Outcome:
        """Go on to the target.  ``InputError`` on all ranks for a fault of any; ``LostRank`` where one is gone."""
        if self._resumed:
            self._clock.go_on()
            self._events.record("resumed", iteration=self._iteration, lost_s=self._clock.lost_s)
        else:
            self._start_clock()
        self._read_data()
        while self._epoch <= self._plan.epochs:
            try:
                whole = self._train_epoch()
            except Diverged as error:
                return self._stop(str(error))
            if not whole:
                return self._stop(f"stopped after {self._iteration} steps, as asked", finished=True)
            if self._evaluate().reached:
                return self._stop("the target was reached", converged=True, finished=True)
            self._epoch, self._step = self._epoch + 1, 0
        return self._stop(f"the target was not reached in {self._plan.epochs} epochs")

    def close(self) -> None:
        for journal in self._journals.values():
            journal.close()

    def _start_clock(self) -> None:
        self._clock.run_start_ms = now_ms()
        self._log.run_start(self._clock.run_start_ms)
        self._events.record("start", run=self._plan.identity(), world=self._ranks.world, epochs=self._plan.epochs)
        self._save()  # so that the official clock is kept from here on, whatever comes

    def _read_data(self) -> None:
        plan, fault = self._plan, None
        try:
            self._train_set, self._truth = (coco.read(plan.data, part) for part in (coco.TRAIN, coco.VALIDATION))
            self._pictures = self._train_set.trainable()
            fault = _unfit(self._train_set, self._truth, len(self._pictures), plan)
        except InputError as error:
            fault = str(error)
        self._ranks.agree(fault)
        self._tall = np.array([picture.height > picture.width for picture in self._pictures])
        shown = Pictures(self._pictures, self._train_set.categories, plan.seed)
        self._loader = Loader(shown, self._wanted(), plan.workers, self._ranks.device)
        self._coming = iter(self._loader)  # one for all epochs, so that it reads ahead over their ends
        self._evaluated = Loader(
            Pictures(self._truth.pictures, self._truth.categories),
            self._wanted_to_evaluate(),
            plan.workers,
            self._ranks.device,
        )
        if not self._resumed:
            self._log.samples(len(self._pictures), len(self._truth.pictures))

    def _train_epoch(self) -> bool:
        """Train on what is left of the epoch.  False where the asked number of steps came before its end."""
        plan, loader = self._plan, self._loader
        batches = self._batches(self._epoch)
        if self._step == len(batches):  # resumed after its last step: only the evaluation is left
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
            step = self._learner.step(self._shares(batch), self._coming, rate, self._fault())
            self._settle()  # the step before: its figures are on the host by now, this one's need not be waited for
            self._step, self._iteration = self._step + 1, self._iteration + 1
            ended = time.monotonic()
            self._unsettled = _Unsettled(
                step, rate, len(batch), ended - began, loader.waited_s - waited_s, time.process_time() - cpu_s
            )
            due = plan.checkpoint_every and self._iteration % plan.checkpoint_every == 0
            if due and self._step < len(batches):
                self._save()
                ended = time.monotonic()
            began = ended
        self._settle()
        if self._step < len(batches):
            return False
        self._log.epoch_stop(self._epoch)
        self._save()
        return True

    def _batches(self, epoch: int) -> list[Indices]:
        return epoch_batches(self._tall, self._plan.batch_size, self._plan.seed, epoch)

    def _shares(self, batch: Indices) -> list[Share]:
        return shares(batch, self._plan.accumulation, self._ranks.rank, self._ranks.world)

    def _wanted(self) -> Iterator[list[Shown]]:
        """What this rank loads from here to the last epoch, share by share."""
        first = self._step
        for epoch in range(self._epoch, self._plan.epochs + 1):
            for batch in self._batches(epoch)[first:]:
                for share in self._shares(batch):
                    yield [(epoch, index) for index in share.indices.tolist()]
            first = 0

    def _wanted_to_evaluate(self) -> list[list[Shown]]:
        share = evaluation_share(len(self._truth.pictures), self._ranks.rank, self._ranks.world)
        size = self._plan.evaluation_batch
        return [[(0, index) for index in share[at : at + size]] for at in range(0, len(share), size)]

    def _settle(self) -> None:
        """Read and record the last step.  ``Diverged`` on all ranks if its figures are not finite."""
        last, self._unsettled = self._unsettled, None
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

    def _evaluate(self) -> Accuracy:
        """Each rank answers for its share of the images; rank 0 scores all answers, and all hear it."""
        ranks = self._ranks
        began = time.monotonic()
        self._log.eval_start(self._epoch)
        self._events.record("evaluation", epoch=self._epoch)
        found = Answers([], [])
        fault = self._fault()
        for batch in self._evaluated:
            fault = fault or batch.fault
            if batch.fault is None:
                found.images.extend(batch.picture_ids)
                outputs = self._learner.detect(batch)
                found.detections.extend(evaluation.detections(batch.picture_ids, outputs, self._truth.categories))
        ranks.agree(fault)
        of_ranks = ranks.gathered(found)
        accuracy: Accuracy = ranks.from_first(evaluation.score(self._truth.file, of_ranks) if ranks.first else None)
        self._clock.evaluation_s += time.monotonic() - began
        told = {"epoch": self._epoch, "since_start_s": self._clock.since_start_s, **asdict(accuracy)}
        self._evaluations.append(told)
        self._log.eval_accuracy(self._epoch, accuracy)
        self._log.eval_stop(self._epoch)
        self._events.record("accuracy", **told)
        return accuracy

    def _stop(self, reason: str, *, converged: bool = False, finished: bool = False) -> Outcome:
        self._ranks.meet()
        self._clock.run_stop_ms = now_ms()
        self._log.run_stop(self._clock.run_stop_ms, success=converged)
        self._events.record("stop", reason=reason, converged=converged)
        self._ranks.agree(self._fault())
        begun = self._epoch if self._step else self._epoch - 1
        return Outcome(converged, finished, reason, begun, self._evaluations, self._clock)

    def _save(self) -> None:
        """Lay down where the run is, on rank 0."""
        self._settle()
        fault = None
        if self._ranks.first:
            state = {
                "identity": self._plan.identity(),
                "clock": self._clock.state(),
                "position": (self._epoch, self._step, self._iteration),
                "evaluations": self._evaluations,
                "journals": {name: journal.size for name, journal in self._journals.items()},
                **self._learner.state(),
            }
            try:
                checkpoint.save(state, self._plan.output / CHECKPOINT)
            except InputError as error:
                fault = str(error)
        self._ranks.agree(fault or self._fault())

    def _journal(self, name: str, keep: int) -> Journal:
        """This rank's journal: a file on rank 0."""
        fault, journal = None, Journal(None)
        try:
            if self._ranks.first:
                journal = Journal(self._plan.output / name, keep)
        except InputError as error:
            fault = str(error)
        self._ranks.agree(fault)
        return journal

    def _fault(self) -> str | None:
        return next((journal.fault for journal in self._journals.values() if journal.fault), None)


@dataclass(frozen=True)
class _Unsettled:
    """A step whose figures have not been read."""

    step: Step
    rate: float
    images: int
    took_s: float
    waited_s: float
    cpu_s: float
    """Of this process, without those that read images."""


def _unfit(train: Annotations, validation: Annotations, trainable: int, plan: Plan) -> str | None:
    """What speaks against training the task on this data."""
    for part in (train, validation):
        if len(part.categories) != plan.task.classes:
            return f"{part.file} has {len(part.categories)} categories, {plan.task.name} needs {plan.task.classes}"
    if train.categories != validation.categories:
        return f"{train.file} and {validation.file} list different categories"
    if trainable < plan.batch_size:
        return f"{train.file} has {trainable} images to train on: lower --batch-size ({plan.batch_size})"
    return None


def _nobody(_: str) -> None:
    pass
