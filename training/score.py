"""The score of several runs by the rules of MLPerf Training: the olympic mean.  Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_RUNS = 3


@dataclass(frozen=True)
class Score:
    """``seconds`` is None if the score is not valid, and ``reason`` says why."""

    seconds: float | None
    counted: tuple[int, ...]
    """The runs in the mean, by number from 0: all but the fastest and the slowest."""
    reason: str | None


def olympic(times: Sequence[float | None]) -> Score:
    """The mean of the times in seconds without the fastest and the slowest run.  None: the run did not converge."""
    if len(times) < LEAST_RUNS:
        return Score(None, (), f"{len(times)} runs are too few to drop the fastest and the slowest of")
    seconds = [math.inf if time is None else time for time in times]
    counted = tuple(sorted(sorted(range(len(seconds)), key=seconds.__getitem__)[1:-1]))
    mean = sum(seconds[run] for run in counted) / len(counted)
    if math.isinf(mean):
        missed = seconds.count(math.inf)
        return Score(None, (), f"{missed} of {len(times)} runs did not reach the target, and one may")
    return Score(mean, counted, None)
