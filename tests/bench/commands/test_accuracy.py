"""An accuracy run is judged: no answers, a part of the answers, and answers that are not good enough."""

import json
from pathlib import Path
from typing import Any

import pytest

from drumfire.bench import statuses
from drumfire.bench.outcome import judge_accuracy
from drumfire.loadgen.errors import UserError, described
from drumfire.loadgen.saved import load
from drumfire.sut import models
from drumfire.sut.cache import cache_folder
from drumfire.sut.models import Accuracy
from drumfire.sut.models.classifier import LabelJudge
from tests.support.command import here, one_line_error

WHOLE = {"metric": "top-1", "value": 0.8, "good": 8, "total": 10, "expected": 10, "target": 0.75, "met": True}


def judged(accuracy: dict[str, Any] | None, mode: str = "AccuracyOnly") -> dict[str, Any]:
    result = {"mode": mode, "accuracy": accuracy, "reasons": [], "validity": "VALID"}
    judge_accuracy(result)
    return result


def test_whole_and_good() -> None:
    assert judged(WHOLE)["validity"] == "VALID"


@pytest.mark.parametrize(
    ("accuracy", "says"),
    [
        (None, "No sample was answered"),
        (WHOLE | {"total": 9}, "Only 9 of 10 samples were answered: the accuracy covers only these"),
        (WHOLE | {"met": False}, r"Accuracy 80.000% is below the target of 75.000%"),
    ],
)
def test_what_makes_it_invalid(accuracy: dict[str, Any] | None, says: str) -> None:
    result = judged(accuracy)
    assert result["validity"] == "INVALID"
    (reason,) = result["reasons"]
    assert says in reason
    assert judged(accuracy, "PerformanceOnly")["validity"] == "VALID"


def test_without_a_target_there_is_no_verdict() -> None:
    assert judged(WHOLE | {"target": None, "met": None})["validity"] == "VALID"
    assert judged(WHOLE | {"target": None, "met": None, "total": 9})["validity"] == "INVALID"
    assert Accuracy("top-1", 0.1, 1, 10, None).reached is None
    assert Accuracy("top-1", 0.1, 1, 10, 0.1).reached is True


def test_the_score_is_the_line_of_the_reference() -> None:
    assert Accuracy("top-1", 38228 / 50000, 38228, 50000, 0.75).lines == ["accuracy=76.456%, good=38228, total=50000"]
    assert Accuracy("mAP", 0.37554, None, 24781, 0.37, ("a table",)).lines == ["a table", "mAP=37.554%"]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("cannot convert\nNaN"), statuses.CRASH), (UserError("mend it"), statuses.USAGE)]
)
def test_a_scorer_that_raises_loses_nothing(
    error: Exception, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(*_: object) -> None:
        raise error

    monkeypatch.setattr(LabelJudge, "accuracy", judge)
    done = here("run", "null", "digits", "--accuracy", "--output", tmp_path / "run", "--no-dashboard")
    assert done.returncode == status
    assert " ".join(str(error).split()) in done.stderr.splitlines()[-1]
    assert done.stdout.startswith("Result is : INVALID\n  - The accuracy could not be computed: ")
    result = load(tmp_path / "run").result
    assert (result["validity"], result["accuracy"]) == ("INVALID", None)
    assert result["reasons"][0] == f"The accuracy could not be computed: {described(error)}"
    answers = json.loads((tmp_path / "run" / "mlperf_log_accuracy.json").read_text())
    assert len(answers) == load(tmp_path / "run").columns["status"].size == 500


def test_an_audit_of_answers_needs_labels(tmp_path: Path) -> None:
    weights = models.get("digits").weights(cache_folder())
    done = here("audit", "TEST01", "onnxruntime", weights, "--time", "0.01", "--output", tmp_path / "audit")
    one_line_error(done, "bare file without labels: give them with --labels, or run it without TEST01")
    assert not (tmp_path / "audit").exists()
