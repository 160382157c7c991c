"""The log that a submission is judged by: every key that MLPerf Training asks of maskrcnn, through mlperf-logging.

Rank 0 writes it, to a journal.  Knows the keys and their values' form; not when anything happens.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from mlperf_logging.mllog import constants
from mlperf_logging.mllog.mllog import MLLogger

from drumfire.loadgen.installation import ROOT
from drumfire.training import hyperparameters
from drumfire.training.evaluation import Accuracy
from drumfire.training.hyperparameters import Hyperparameters
from drumfire.training.journal import Journal

BENCHMARK = "maskrcnn"
"""The benchmark's name in every log, as the rules know only this one."""


@dataclass(frozen=True)
class Submission:
    """Who submits what, as the rules name it."""

    division: str = "open"
    org: str = "drumfire"
    platform: str = "local"
    status: str = "research"


class SubmissionLog:
    """The lines of one run, in the order in which the methods stand here."""

    def __init__(self, journal: Journal) -> None:
        logger = logging.Logger("training")
        logger.addHandler(_ToJournal(journal))
        self._log = MLLogger(logger, root_dir=str(ROOT))

    def init_start(self, submission: Submission, *, caches_cleared: bool) -> None:
        self._log.event(constants.SUBMISSION_BENCHMARK, BENCHMARK)
        self._log.event(constants.SUBMISSION_DIVISION, submission.division)
        self._log.event(constants.SUBMISSION_ORG, submission.org)
        self._log.event(constants.SUBMISSION_PLATFORM, submission.platform)
        self._log.event(constants.SUBMISSION_STATUS, submission.status)
        self._log.event(constants.CACHE_CLEAR, caches_cleared)
        self._log.start(constants.INIT_START)

    def hyperparameters(self, found: Hyperparameters, accumulation: int, sizes: tuple[int, int], seed: int) -> None:
        """``sizes``: the images' short side, and the most of the long side, in pixels."""
        self._log.event(constants.SEED, seed)
        # Before the rate: the checker reads the rate by the batch size.
        self._log.event(constants.GLOBAL_BATCH_SIZE, found.global_batch_size)
        self._log.event(constants.GRADIENT_ACCUMULATION_STEPS, accumulation)
        self._log.event(constants.OPT_NAME, constants.SGD)
        self._log.event(constants.OPT_BASE_LR, found.base_learning_rate)
        self._log.event(constants.OPT_LR_WARMUP_STEPS, found.warmup_steps)
        self._log.event(constants.OPT_LR_WARMUP_FACTOR, found.warmup_factor)
        self._log.event(constants.OPT_LR_DECAY_FACTOR, hyperparameters.DECAY_FACTOR)
        self._log.event(constants.OPT_LR_DECAY_STEPS, list(found.decay_steps))
        self._log.event("opt_momentum", hyperparameters.MOMENTUM)
        self._log.event("opt_weight_decay", hyperparameters.WEIGHT_DECAY)
        self._log.event(constants.NUM_IMAGE_CANDIDATES, found.image_candidates)
        self._log.event(constants.MIN_IMAGE_SIZE, sizes[0])
        self._log.event(constants.MAX_IMAGE_SIZE, sizes[1])

    def weights_initialization(self, tensor: str) -> None:
        self._log.event(constants.WEIGHTS_INITIALIZATION, metadata={"tensor": tensor})

    def init_stop(self) -> None:
        self._log.end(constants.INIT_STOP)

    def run_start(self, time_ms: int) -> None:
        self._log.start(constants.RUN_START, time_ms=time_ms)

    def samples(self, train: int, evaluation: int) -> None:
        self._log.event(constants.TRAIN_SAMPLES, train)
        self._log.event(constants.EVAL_SAMPLES, evaluation)

    def epoch_start(self, epoch: int) -> None:
        self._log.start(constants.EPOCH_START, metadata={constants.EPOCH_NUM: epoch})

    def epoch_stop(self, epoch: int) -> None:
        self._log.end(constants.EPOCH_STOP, metadata={constants.EPOCH_NUM: epoch})

    def eval_start(self, epoch: int) -> None:
        self._log.start(constants.EVAL_START, metadata={constants.EPOCH_NUM: epoch})

    def eval_accuracy(self, epoch: int, accuracy: Accuracy) -> None:
        value = {"BBOX": accuracy.box, "SEGM": accuracy.mask}
        self._log.event(constants.EVAL_ACCURACY, value, metadata={constants.EPOCH_NUM: epoch})

    def eval_stop(self, epoch: int) -> None:
        self._log.end(constants.EVAL_STOP, metadata={constants.EPOCH_NUM: epoch})

    def run_stop(self, time_ms: int, *, success: bool) -> None:
        status = constants.SUCCESS if success else constants.ABORTED
        self._log.end(constants.RUN_STOP, metadata={"status": status}, time_ms=time_ms)


class _ToJournal(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.line(record.getMessage())
