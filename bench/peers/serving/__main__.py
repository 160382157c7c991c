"""``python -m drumfire.bench.peers.serving``: Drumfire's server and others in turns, then a section of RESULTS.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from drumfire.bench.peers.comparison import Comparison, Ready
from drumfire.bench.peers.process import say
from drumfire.bench.peers.serving.environments import REQUIREMENTS
from drumfire.bench.peers.serving.measures import ANOTHER, NAMES, chosen, measures, others
from drumfire.bench.peers.serving.revisions import CASES
from drumfire.sut.remote.triton_local.environment import check_platform

COMPARISON = Comparison(
    "serving",
    (ANOTHER,),
    ("uvloop", "hpack", "onnxruntime"),
    "Medians over the rounds; Drumfire's server (`drumfire serve`) and one other side in turns, each server a fresh\n"
    "process on loopback that shares the cores with the client, which is `drumfire run triton` for all of them (over\n"
    "HTTP with JSON, where mlserver has no other way, a closed loop on the same sockets and HTTP). The others are the\n"
    "real Triton with its Python backend, one process a model, and "
    + " and ".join(f"`{' '.join(words)}`" for words in REQUIREMENTS.values())
    + ",\n"
    "in environments of their own, without a line of log for each request; mlserver computes in its own process\n"
    "(`parallel_workers` 0). kserve has no option for its address: the calls that bind are patched to use loopback.\n"
    "`identity` returns the 4 FP32 that it gets. The models that compute are one ONNX file on ONNX Runtime, with\n"
    "one thread and the same largest batch on all sides; *in process* is `drumfire run onnxruntime`, Offline, and for\n"
    "the added latency Server on the same seeded schedule, from whose times latency counts. Server CPU is that of all\n"
    "its processes, by its own count of requests.",
    seconds=4,
    revisions=tuple(case.name for case in CASES),
)


def _ready(only: Sequence[str]) -> AbstractContextManager[Ready]:
    check_platform()
    identities, missing = others(chosen(only), say)
    return nullcontext((measures(identities, say), missing))


def main(arguments: Sequence[str] | None = None) -> int:
    return COMPARISON.main(arguments, NAMES, _ready, lambda: nullcontext(CASES))


if __name__ == "__main__":
    sys.exit(main())
