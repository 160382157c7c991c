"""The log by which MLPerf judges a submission, written with mlperf-logging.

Rank 0 writes it to a journal.  Handles the keys and the form of their values; does not decide when they are written.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from mlperf_logging.mllog import constants
from mlperf_logging.mllog.mllog import MLLogger

from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.options import option
from drumfire.training.hyperparameters import Hyperparameters
from drumfire.training.journal import Journal
from drumfire.training.task import Task


def _check_folder_name(text: str) -> None:
    """A submission has folders of these names."""
    if text in (".", "..") or "/" in text or len(text.encode()) > 200:
        raise ValueError(f"{text[:60]!r} cannot be the name of a folder")


@dataclass(frozen=True)
class Submission:
    """Who submits what, in the words of the rules."""

    division: str = option("open", choices=("open", "closed"), help="the division in the log (default: open)")
    org: str = option("drumfire", check=_check_folder_name, help="the submitter in the log (default: drumfire)")
    platform: str = option("local", check=_check_folder_name, help="the system's name in the log (default: local)")
    status: str = option(
        "research", choices=("cloud", "onprem", "preview", "research"), help="the system's status (default: research)"
    )


class SubmissionLog:
    """The lines of one run.  Call the methods in the order in which they stand here."""

    def __init__(self, journal: Journal, task: Task) -> None:
        self._task = task
        logger = logging.Logger("training")
        logger.addHandler(_ToJournal(journal))
        self._log = MLLogger(logger, root_dir=str(ROOT))

    def init_start(self, submission: Submission, *, caches_cleared: bool) -> None:
        self._log.event(constants.SUBMISSION_BENCHMARK, self._task.benchmark)
        self._log.event(constants.SUBMISSION_DIVISION, submission.division)
        self._log.event(constants.SUBMISSION_ORG, submission.org)
        self._log.event(constants.SUBMISSION_PLATFORM, submission.platform)
        self._log.event(constants.SUBMISSION_STATUS, submission.status)
        self._log.event(constants.CACHE_CLEAR, caches_cleared)
        self._log.start(constants.INIT_START)

    def hyperparameters(self, used: Hyperparameters, accumulation: int, seed: int) -> None:
        self._log.event(constants.SEED, seed)
        # Before the rate, because the checker compares the rate with the batch size.
        self._log.event(constants.GLOBAL_BATCH_SIZE, used.global_batch_size)
        self._log.event(constants.GRADIENT_ACCUMULATION_STEPS, accumulation)
        for key, value in self._task.logged_hyperparameters(used).items():
            self._log.event(key, value)

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

    def eval_accuracy(self, epoch: int, accuracy: Mapping[str, float]) -> None:
        """``accuracy``: by the names of the task's qualities."""
        value = {quality.log_key: accuracy[quality.name] for quality in self._task.qualities}
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
