"""``python -m drumfire.bench.peers.backends``: Drumfire beside bare loops, then the section of RESULTS.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext

from drumfire.bench.peers.backends.measures import BARE, MEASURES
from drumfire.bench.peers.comparison import Comparison

COMPARISON = Comparison(
    "backends",
    (BARE,),
    ("onnxruntime", "ai-edge-litert", "torch"),
    "Medians over the rounds; the two sides of a row in turns of about two seconds within a process, with the same\n"
    "file, data, batches of 8 and threads (all cores but one). The bare loop calls the framework on ready arrays and\n"
    "leaves the outputs; Drumfire draws traffic, gathers batches, makes answers of the outputs and records them.\n"
    "Server: the highest rate tried whose p99 from the scheduled time keeps within the bound, under dynamic batching.",
    seconds=10,
)


def main(arguments: Sequence[str] | None = None) -> int:
    return COMPARISON.main(arguments, (m.name for m in MEASURES), lambda only: nullcontext((MEASURES, ())))


if __name__ == "__main__":
    sys.exit(main())
