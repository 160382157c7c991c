"""What the other parts would otherwise make within their time: exported weights, pictures, and samples in the cache.

Runs as a program: see ``child``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from drumfire.bench.peers.gpu.child import Case, Found, carry_out
from drumfire.bench.peers.gpu.parts import BACKEND
from drumfire.bench.peers.gpu.plan import Missing
from drumfire.bench.peers.hosted import weights
from drumfire.loadgen.errors import UserError, one_line
from drumfire.sut import models


def measure(case: Case) -> Iterator[Found]:
    """The models side by side, each in its own process."""
    in_memory: dict[str, int] = case["in_memory"]
    with ProcessPoolExecutor(len(in_memory), get_context("spawn")) as pool:
        for name, why in zip(in_memory, pool.map(_prepared, in_memory, in_memory.values()), strict=True):
            yield Missing(name, why) if why else {"of": "prepared", "model": name}


def _prepared(name: str, in_memory: int) -> str:
    """Why the model cannot be run; empty if it can."""
    try:
        weights(name, BACKEND)
        library = models.get(name).library(performance_count=in_memory)
        library.load(np.arange(library.performance_count))
    except UserError as error:
        return one_line(error)
    return ""


if __name__ == "__main__":
    sys.exit(carry_out(measure))
