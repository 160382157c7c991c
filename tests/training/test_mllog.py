"""The logs as MLPerf's own tools see them: the compliance checker, the package checker and the result summary."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.extra
pytest.importorskip("mlperf_logging", reason="needs the extra train")

from drumfire.training import evaluation, maskrcnn, pictures, shapes, submission, tasks  # noqa: E402
from drumfire.training.__main__ import main  # noqa: E402
from drumfire.training.hyperparameters import of_batch  # noqa: E402
from drumfire.training.journal import Journal  # noqa: E402
from drumfire.training.mllog import Submission, SubmissionLog  # noqa: E402
from drumfire.training.score import olympic  # noqa: E402

Accuracy = dict[str, float]
GOOD, POOR = {"box": 0.3774, "mask": 0.3401}, {"box": 0.3769, "mask": 0.3401}


@pytest.fixture
def closed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Accuracy], Path]:
    """The log of maskrcnn's path, its hyperparameters and its initialisation, around a model that a test can wait for.

    What the model answers is scored as told: nothing that trains here in seconds reaches the target on COCO.
    """
    recipe = pictures.Recipe(sizes=((96, 64), (64, 96)), train=8, validation=2, categories=pictures.SAMPLE.categories)
    pictures.generate(tmp_path / "data", recipe)
    monkeypatch.setattr(shapes, "CLASSES", maskrcnn.CLASSES)

    def build(candidates: int, weights: Path | None, initialised: Callable[[str], None]) -> Any:
        assert candidates == 125, "1000 of a batch of 8 images"
        for name in maskrcnn._STARTS:
            initialised(name)
        return shapes.build(candidates, weights, initialised)

    monkeypatch.setitem(tasks.TASKS, "maskrcnn", replace(tasks.TASKS["maskrcnn"], build=build))

    def run(accuracy: Accuracy) -> Path:
        monkeypatch.setattr(evaluation, "score", lambda *_: accuracy)
        output = tmp_path / f"run-{accuracy['box']}"
        folders = ["--data-dir", str(tmp_path / "data"), "--output", str(output)]
        status = main(["maskrcnn", *folders, "--division", "closed", "--epochs", "1", "--workers", "0", "--seed", "1"])
        assert status == (0 if maskrcnn.TASK.reached(accuracy) else 1)
        return output / "mlperf.log"

    return run


def test_a_closed_log_of_the_maskrcnn_path(closed_run: Callable[[Accuracy], Path]) -> None:
    good, poor = closed_run(GOOD), closed_run(POOR)
    for ruleset in maskrcnn.TASK.rulesets:
        assert submission.accepts(good, ruleset)
        assert not submission.accepts(poor, ruleset), "a log below the target"
    assert_reference_points(good)


def assert_reference_points(log: Path) -> None:
    lines = [json.loads(line.partition(" ")[2]) for line in log.read_text().splitlines()]
    values = {line["key"]: line["value"] for line in lines}
    assert values["global_batch_size"] == 8
    assert values["opt_base_learning_rate"] == 0.01
    assert values["opt_learning_rate_decay_steps"] == [144_000, 192_000]
    assert values["opt_learning_rate_warmup_steps"] == 500
    assert values["num_image_candidates"] == 1000
    assert (values["min_image_size"], values["max_image_size"]) == (800, 1333)
    assert values["train_samples"] == 8
    assert values["eval_samples"] == 2
    assert [line["metadata"]["epoch_num"] for line in lines if line["key"] == "eval_accuracy"] == [1]
    order = [line["key"] for line in lines]
    marks = ["init_start", "init_stop", "run_start", "epoch_start", "epoch_stop", "eval_start", "eval_stop", "run_stop"]
    assert [order.index(mark) for mark in marks] == sorted(order.index(mark) for mark in marks)


def write_log(path: Path, division: str, seed: int, epochs: int, took_ms: int, accuracy: Accuracy) -> None:
    journal = Journal(path)
    log = SubmissionLog(journal, maskrcnn.TASK)
    log.init_start(Submission(division=division), caches_cleared=True)
    log.hyperparameters(of_batch(8, 8), 1, seed)
    for name in maskrcnn._STARTS:
        log.weights_initialization(name)
    log.init_stop()
    start_ms = 2_000_000_000_000
    log.run_start(start_ms)
    log.samples(117_266, 5_000)
    for epoch in range(1, epochs + 1):
        log.epoch_start(epoch)
        log.epoch_stop(epoch)
        log.eval_start(epoch)
        log.eval_accuracy(epoch, accuracy)
        log.eval_stop(epoch)
    log.run_stop(start_ms + took_ms, success=maskrcnn.TASK.reached(accuracy))
    journal.close()


RESULT = {
    "task": "maskrcnn",
    "environment": {
        "hosts": 1, "gpus_per_host": 0, "cpu": "a CPU", "device": "a CPU", "cores": 2, "system": "Linux",
        "versions": {"torch": "2.13.0"},
    },
}  # fmt: skip
TIMES_MS = (61_234, 58_001, 70_500, 64_900, 59_777)


def package(folder: Path, division: str, accuracies: list[Accuracy], epochs: int = 13) -> Path:
    folder.mkdir(exist_ok=True)
    logs = [folder / f"log-{number}" for number in range(5)]
    for number, (log, took_ms, accuracy) in enumerate(zip(logs, TIMES_MS, accuracies, strict=True)):
        write_log(log, division, seed=number, epochs=epochs, took_ms=took_ms, accuracy=accuracy)
    return submission.write(folder / "package", "maskrcnn", logs, Submission(division=division), RESULT)


def checked(organisation: Path, ruleset: str) -> bool:
    """By the package checker, whose status is 0 whatever it found."""
    command = [sys.executable, "-m", "mlperf_logging.package_checker", organisation.name, "training", ruleset]
    ended = subprocess.run(command, cwd=organisation.parent, capture_output=True, text=True, check=True)
    return "FOUND NO ERRORS, SUCCESS" in ended.stdout + ended.stderr


@pytest.mark.parametrize("division", [pytest.param("open", marks=pytest.mark.slow), "closed"])
def test_the_package_and_its_summary(tmp_path: Path, division: str) -> None:
    """Closed: also the seeds, and the epochs against the reference convergence points."""
    organisation = package(tmp_path, division, [GOOD] * 5)
    assert checked(organisation, "3.1.0")
    subprocess.run(
        [
            *(sys.executable, "-m", "mlperf_logging.result_summarizer", organisation.name, "training", "3.1.0"),
            *("--csv", "summary.csv"),
        ],
        cwd=organisation.parent,
        capture_output=True,
        check=True,
    )
    with (organisation.parent / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    minutes = float(row["maskrcnn"])
    score = olympic([ms / 1000 for ms in TIMES_MS])
    assert score.seconds is not None
    # A closed result that is faster than its reference convergence point is scaled up to it.
    scaled = organisation / "results/local/maskrcnn/scaling.json"
    factor = json.loads(scaled.read_text())["scaling_factor"] if scaled.exists() else 1.0
    assert minutes == pytest.approx(score.seconds / 60 * factor, rel=1e-6)


@pytest.mark.slow
def test_two_closed_logs_below_the_target_are_no_package(tmp_path: Path) -> None:
    assert checked(package(tmp_path / "one", "closed", [GOOD, GOOD, POOR, GOOD, GOOD]), "3.1.0")
    assert not checked(package(tmp_path / "two", "closed", [GOOD, POOR, POOR, GOOD, GOOD]), "3.1.0")


def test_too_few_epochs_to_be_true(tmp_path: Path) -> None:
    assert not checked(package(tmp_path, "closed", [GOOD] * 5, epochs=11), "3.1.0")
