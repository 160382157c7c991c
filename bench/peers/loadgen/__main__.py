"""``python -m drumfire.bench.peers.loadgen``: rounds of both sides in turns, then the section of RESULTS.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext

from drumfire.bench.peers.comparison import Comparison
from drumfire.bench.peers.loadgen.measures import MEASURES, REFERENCE
from drumfire.bench.peers.loadgen.model_measures import MODEL_MEASURES
from drumfire.bench.peers.loadgen.revisions import CASES

COMPARISON = Comparison(
    "loadgen",
    (REFERENCE,),
    (REFERENCE, "onnxruntime"),
    "Medians over the rounds; both sides in turns, each measurement in a fresh process, through its fastest\n"
    "public Python API and with a system that answers at once, unless a row says otherwise.  Models run in\n"
    "processes of their own, of one thread each, as `drumfire run` has them, and so do bare loops.",
    seconds=1,
    revisions=tuple(case.name for case in CASES),
)


def main(arguments: Sequence[str] | None = None) -> int:
    measures = (*MEASURES, *MODEL_MEASURES)
    return COMPARISON.main(
        arguments, (m.name for m in measures), lambda only: nullcontext((measures, ())), lambda: nullcontext(CASES)
    )


if __name__ == "__main__":
    sys.exit(main())
