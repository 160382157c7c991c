"""``python -m drumfire.bench.peers.texts``: a text model beside other ways, then the section of RESULTS.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext

from drumfire.bench.peers.comparison import Comparison, Ready
from drumfire.bench.peers.process import say
from drumfire.bench.peers.rounds import family
from drumfire.bench.peers.texts.measures import ANOTHER, BATCH_SIZE, MODEL, SAMPLES_PER_S, measures, need
from drumfire.loadgen.errors import UserError

COMPARISON = Comparison(
    "texts",
    (ANOTHER,),
    ("onnxruntime", "torch"),
    f"Medians over the rounds; Drumfire and one other side in turns. All compute `{MODEL}`, a sentence encoder with\n"
    f"three inputs, with one thread and batches of {BATCH_SIZE} at most, and both sides of a row compute the same\n"
    f"{SAMPLES_PER_S} samples for each second of `--time`. *Offline*: the model in a process of its own, as\n"
    "`drumfire run` has it, on its own texts; the bare loop calls the framework on the batches of that run, gathered\n"
    "and padded before. *Sorted*: runs of the command line on the ONNX file, on lengths that are drawn. *gRPC*:\n"
    "`drumfire serve`, beside `drumfire run` in process, Offline, and beside the real Triton with its Python backend\n"
    "(no package has its backend for ONNX), which runs the same file on the same ONNX Runtime and pads to the longest\n"
    "where requests of any lengths share a batch. Servers are fresh processes on loopback, and batch without a delay;\n"
    "their client is `drumfire run triton`, whose CPU is that of the measured phase.",
    seconds=2.5,
)
_MEASURES = measures(say)


def _ready(only: Sequence[str]) -> Ready:
    """What can be measured of ``only``, or of all.  Raises ``UserError`` where that is nothing."""
    chosen = [one for one in _MEASURES if not only or {one.name, family(one.name)} & set(only)]
    missing: dict[str, UserError] = {}
    for one in chosen:
        try:
            need(one.name)
        except UserError as error:
            missing[one.name] = error
    if len(missing) == len(chosen):
        raise next(iter(missing.values()))
    notes = [f"{name} is left out: {error}" for name, error in missing.items()]
    return [one for one in chosen if one.name not in missing], notes


def main(arguments: Sequence[str] | None = None) -> int:
    return COMPARISON.main(arguments, (m.name for m in _MEASURES), lambda only: nullcontext(_ready(only)))


if __name__ == "__main__":
    sys.exit(main())
