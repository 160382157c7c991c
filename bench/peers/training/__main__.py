"""``python -m drumfire.bench.peers.training``: a run beside a plain loop, in turns, then the section of RESULTS.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext

from drumfire.bench.peers.comparison import Comparison
from drumfire.bench.peers.training.measures import MEASURES, PLAIN

COMPARISON = Comparison(
    "training",
    (PLAIN,),
    ("torch", "torchvision"),
    "Medians over the rounds; both sides in turns, in fresh processes, one rank with one thread, on the same\n"
    "torchvision model, images and batches; the first steps are not counted. The plain loop is written by\n"
    "hand, with its tensors ready in memory; Drumfire also reads the images, draws by image, checks and records.",
    seconds=15,
)


def main(arguments: Sequence[str] | None = None) -> int:
    return COMPARISON.main(arguments, (m.name for m in MEASURES), lambda only: nullcontext((MEASURES, ())))


if __name__ == "__main__":
    sys.exit(main())
