"""An accuracy run is judged: no answers, a part of the answers, and answers that are not good enough."""

from typing import Any

import pytest

from bench.report import _judged
from bench.run import _judge_accuracy

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
        (WHOLE | {"total": 9}, "Only 9 of 10 samples were answered: the accuracy is that of a part"),
        (WHOLE | {"met": False}, r"Accuracy 80.000% is below the target of 75.000%"),
    ],
)
def test_what_makes_it_invalid(accuracy: dict[str, Any] | None, says: str) -> None:
    result = judged(accuracy)
    assert result["validity"] == "INVALID"
    (reason,) = result["reasons"]
    assert says in reason
    assert judged(accuracy, "PerformanceOnly")["validity"] == "VALID"


def test_how_it_is_shown() -> None:
    assert _judged(WHOLE) == "accuracy 80.000%, good 8"
    assert _judged(WHOLE | {"metric": "mAP", "good": None}) == "mAP 80.000%"
