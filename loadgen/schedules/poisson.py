"""Poisson arrivals, bit for bit those of the reference LoadGen: independent exponential intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from drumfire.loadgen.draws import Int64Array, Words, exponential_ns
from drumfire.loadgen.settings import EffectiveSettings


@dataclass(frozen=True)
class Poisson:
    """The arrivals of MLPerf's Server scenario."""

    name: ClassVar[str] = "poisson"
    mlperf: ClassVar[bool] = True

    def arrivals(self, settings: EffectiveSettings, words: Words, chunk: int) -> Iterator[Int64Array]:
        last_ns = 0
        while True:
            due = exponential_ns(words, settings.target_qps, chunk)
            due[0] += last_ns
            np.cumsum(due, out=due)
            last_ns = int(due[-1])
            yield due
