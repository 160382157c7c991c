"""One step: mixed precision, accumulation, and numbers that are no longer numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.extra
pytest.importorskip("mlperf_logging", reason="needs the extra train")

import torch  # noqa: E402

from drumfire.training import coco, tasks  # noqa: E402
from drumfire.training.__main__ import main  # noqa: E402
from drumfire.training.batch import Batch  # noqa: E402
from drumfire.training.coco import Pictures  # noqa: E402
from drumfire.training.hyperparameters import Hyperparameters  # noqa: E402
from drumfire.training.learner import Learner  # noqa: E402
from drumfire.training.ranks import Place, Ranks  # noqa: E402
from drumfire.training.sampler import shares  # noqa: E402


def steps(data: Path, precision: str, accumulation: int, count: int = 2) -> list[float]:
    """The losses of the first steps on batches of 8."""
    ranks = Ranks(Place(0, 1, 0), torch.device("cpu"))
    task = tasks.TASKS["shapes"]
    learner = Learner(
        task, ranks, seed=4, precision=precision, candidates_per_image=100, weights=None, initialised=lambda _: None
    )
    found = coco.read(data, coco.TRAIN)
    pictures = Pictures(found.pictures, found.categories, seed=4)
    losses = []
    for step in range(count):
        mine = shares(np.arange(step * 8, step * 8 + 8), accumulation, 0, 1)
        batches = (Batch.of([pictures[1, index] for index in share.indices.tolist()]) for share in mine)
        losses.append(float(learner.step(mine, batches, 0.002, None).loss))
    return losses


def test_the_same_seed_gives_the_same_losses(data: Path) -> None:
    assert steps(data, "fp32", 1) == steps(data, "fp32", 1)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])  # slow on a CPU
def test_mixed_precision_learns_as_float32_does(data: Path, precision: str) -> None:
    exact, mixed = steps(data, "fp32", 1, count=1), steps(data, precision, 1, count=1)
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=0.03)


def test_accumulation_is_nearly_the_whole_batch(data: Path) -> None:
    """Nearly: the mean of the parts' means over boxes, and not the mean over all boxes."""
    assert steps(data, "fp32", 4, count=1) == pytest.approx(steps(data, "fp32", 1, count=1), rel=0.05)


def test_a_run_that_diverges_ends_and_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_fast(size: int, images_per_rank: int) -> Hyperparameters:
        return Hyperparameters(size, 1e9, 0, 1.0, (100, 200), 100 * images_per_rank)

    monkeypatch.setitem(tasks.TASKS, "shapes", replace(tasks.TASKS["shapes"], hyperparameters=too_fast))
    output = tmp_path / "run"
    status = main(["shapes", "--data-dir", str(data), "--output", str(output), "--workers", "0", "--seed", "1"])
    assert status == 1
    assert "try another --seed" in capsys.readouterr().out
    result = json.loads((output / "result.json").read_text())
    assert not result["converged"]
    stops = [line for line in (output / "mlperf.log").read_text().splitlines() if '"run_stop"' in line]
    assert len(stops) == 1
    assert '"aborted"' in stops[0]
