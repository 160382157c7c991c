"""Several runs: resumable between and within them, counted as the rules say, and shown while they go."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.extra
pytest.importorskip("mlperf_logging", reason="needs the extra train")

from rich.console import Console  # noqa: E402

from drumfire.loadgen.installation import ROOT  # noqa: E402
from drumfire.training import benchmark, shapes  # noqa: E402
from drumfire.training.journal import Journal  # noqa: E402
from drumfire.training.progress import Progress, Tail, curve, epochs_to_target  # noqa: E402


@pytest.mark.slow
def test_interrupted_and_gone_on_with(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No run converges in one epoch: all are counted, and there is no score."""
    output = tmp_path / "benchmark"
    asked = ["shapes", "--runs", "3", "--seed", "1", "--output", str(output)]
    asked += ["--data-dir", str(data), "--epochs", "1", "--workers", "0"]
    first = subprocess.Popen(
        [sys.executable, "-m", "drumfire.training.benchmark", *asked], cwd=ROOT, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 120
    while not (output / "run-1/checkpoint.pt").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    _, told = first.communicate(timeout=60)
    assert first.returncode == 130
    assert b"run the same command again to resume" in told
    kept = (output / "run-0/result.json").stat().st_mtime_ns
    assert not (output / "run-1/result.json").exists()

    assert benchmark.main(asked) == 1
    assert (output / "run-0/result.json").stat().st_mtime_ns == kept, "a finished run is not made again"
    result = json.loads((output / "result.json").read_text())
    assert [run["seed"] for run in result["runs"]] == [1, 2, 3]
    assert result["runs"][1]["resumptions"] == 1
    assert not result["valid"]
    assert result["reason"] == "3 of 3 runs did not reach the target, and one may"
    assert result["converged_runs"] == 0
    assert result["images_per_s"] > 0
    assert (output / "map.png").read_bytes()[:4] == b"\x89PNG"
    assert "no valid score" in capfd.readouterr().out

    assert benchmark.main([*asked, "--steps", "3"]) == 2
    assert "holds another benchmark" in capfd.readouterr().err


@pytest.mark.parametrize("ranks", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_run_that_can_not_start_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str], ranks: str) -> None:
    status = benchmark.main(
        ["shapes", "--nproc-per-node", ranks, "--output", str(tmp_path / "b"), "--data-dir", str(tmp_path / "none")]
    )
    assert status == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("benchmark: the data set lacks")


def accuracy(epoch: int, box: float, mask: float) -> dict[str, Any]:
    return {"kind": "accuracy", "epoch": epoch, "since_start_s": epoch * 10.0, "box": box, "mask": mask}


def test_epochs_to_target() -> None:
    targets = shapes.TASK.targets
    assert epochs_to_target([accuracy(1, 0.1, 0.1)], targets) is None
    assert epochs_to_target([accuracy(1, 0.1, 0.2), accuracy(2, 0.1, 0.3)], targets) is None, "it does not rise"
    assert epochs_to_target([accuracy(1, 0.177, 0.1), accuracy(2, 0.277, 0.339)], targets) == pytest.approx(1.0)
    assert epochs_to_target([accuracy(1, 0.4, 0.139), accuracy(3, 0.4, 0.239)], targets) == pytest.approx(2.0)


def test_the_progress_of_a_run() -> None:
    done = [{"seed": 4, "converged": True, "epochs": 4, "official_s": 40.0}]
    progress = Progress(shapes.TASK, "shapes, 1 ranks", 5, done)
    progress.take({"kind": "start", "epochs": 20})
    for epoch in (1, 2):
        progress.take({"kind": "epoch", "epoch": epoch, "steps": 2})
        for step in (1, 2):
            told = {"loss": 2.0 / epoch, "rate": 0.01, "images": 8, "took_s": 0.5, "iteration": step}
            progress.take({"kind": "step", **told})
        progress.take({"kind": "evaluation", "epoch": epoch})
        if epoch == 1:
            progress.take(accuracy(1, 0.1, 0.0))
            assert progress.eta_s == pytest.approx(30.0), "the run before took 4 epochs"
    assert progress.loss == pytest.approx(1.5)
    assert progress.images_per_s == pytest.approx(16.0)
    progress.take(accuracy(2, 0.2, 0.3))
    assert progress.eta_s == pytest.approx(20.0), "two more epochs at this slope"
    screen = io.StringIO()
    Console(file=screen, width=80).print(progress)
    shown = screen.getvalue()
    for part in ("run 2 of 5", "seed 4", "epoch", "16.0 images/s", "about 20 s", "0.200 of 0.377", "0.300 of 0.339"):
        assert part in shown


def test_the_curve_is_full_at_the_target() -> None:
    assert curve([0.0, 0.2, 0.4], 0.4).plain.startswith("▁▄█")


def test_only_whole_events_are_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert list(tail) == []
    path.write_text('{"kind":"a"}\n{"kind":')
    assert [event["kind"] for event in tail] == ["a"]
    path.write_text('{"kind":"a"}\n{"kind":"b"}\n')
    assert [event["kind"] for event in tail] == ["b"]
    journal = Journal(path, keep=len('{"kind":"a"}\n'))  # as a resumed run does
    for _ in range(9):
        journal.record("c")
    assert [event["kind"] for event in tail] == ["a"] + ["c"] * 9
    journal.close()
    tail.close()
