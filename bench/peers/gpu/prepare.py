"""What the other parts would otherwise make within their time: exported weights, pictures, and samples in the cache.

Runs as a program: see ``child``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from drumfire.bench.peers.gpu.child import Case, Found, carry_out
from drumfire.bench.peers.gpu.plan import Missing
from drumfire.sut import models


def measure(case: Case) -> Iterator[Found]:
    """The models side by side, each in its own process."""
    names = [name for name in case["models"] if name in models.MODELS]
    for name in case["models"]:
        if name not in names:
            yield Missing(name, "this revision has no model of the name", expected=True)
    with ProcessPoolExecutor(len(names), get_context("spawn")) as pool:
        for name, why in zip(
            names, pool.map(_prepared, names, [case["in_memory"][name] for name in names]), strict=True
        ):
            yield Missing(name, why) if why else {"of": "prepared", "model": name}


def _prepared(name: str, in_memory: int) -> str:
    """Why the model cannot be run; empty if it can."""
    import numpy as np

    from drumfire.loadgen.errors import UserError, one_line
    from drumfire.sut.cache import cache_folder
    from drumfire.sut.models.model import Form

    try:
        model = models.get(name)
        model.weights(cache_folder(), None, Form.TORCH)
        library = model.library(performance_count=in_memory)
        library.load(np.arange(library.performance_count))
    except UserError as error:
        return one_line(error)
    return ""


if __name__ == "__main__":
    sys.exit(carry_out(measure))
