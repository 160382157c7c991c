"""An arrival process that the tests add, as a contributor would: one file, and one line in the registry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from drumfire.loadgen.draws import Int64Array, Words
from drumfire.loadgen.settings import EffectiveSettings


@dataclass(frozen=True)
class Constant:
    """A query every 1/rate seconds."""

    name: ClassVar[str] = "constant"
    mlperf: ClassVar[bool] = False

    def arrivals(self, settings: EffectiveSettings, words: Words, chunk: int) -> Iterator[Int64Array]:
        first = 1
        while True:
            yield (np.arange(first, first + chunk) * (1e9 / settings.target_qps)).astype(np.int64)
            first += chunk
