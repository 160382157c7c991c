"""``python -m drumfire.bench.peers.loadgen``: rounds of both sides in turns, then the section of RESULTS.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from drumfire.bench.peers import against
from drumfire.bench.peers.comparison import Comparison
from drumfire.bench.peers.loadgen.measures import MEASURES, REFERENCE
from drumfire.bench.peers.loadgen.revisions import CASES

COMPARISON = Comparison(
    "loadgen",
    (REFERENCE,),
    (REFERENCE, "onnxruntime"),
    "Medians over the rounds; both sides in turns, each measurement in a fresh process, through its fastest\n"
    "public Python API and with a system that answers at once, unless a row says otherwise.",
    seconds=1,
    revisions=tuple(case.name for case in CASES),
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = COMPARISON.options(arguments, (m.name for m in MEASURES))
    if options.against is not None:
        return against.compare(COMPARISON.name, options, CASES)
    COMPARISON.carry_out(options, MEASURES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
