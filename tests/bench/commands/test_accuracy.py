"""An accuracy run is judged: no answers, a part of the answers, and answers that are not good enough."""

from typing import Any

import pytest

from drumfire.bench.commands.run import _judge_accuracy
from drumfire.sut.models import Accuracy

WHOLE = {"metric": "top-1", "value": 0.8, "good": 8, "total": 10, "expected": 10, "target": 0.75, "met": True}


def judged(accuracy: dict[str, Any] | None, mode: str = "AccuracyOnly") -> dict[str, Any]:
    result = {"mode": mode, "accuracy": accuracy, "reasons": [], "validity": "VALID"}
    _judge_accuracy(result)
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


def test_the_score_is_the_line_of_the_reference() -> None:
    assert Accuracy("top-1", 38228 / 50000, 38228, 50000, 0.75).lines == ["accuracy=76.456%, good=38228, total=50000"]
    assert Accuracy("mAP", 0.37554, None, 24781, 0.37, ("a table",)).lines == ["a table", "mAP=37.554%"]
