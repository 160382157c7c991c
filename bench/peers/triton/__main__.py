"""``python -m drumfire.bench.peers.triton``: a local Triton, all sides in turns, then a section of RESULTS.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from drumfire.bench.peers import against
from drumfire.bench.peers.comparison import Comparison, Ready
from drumfire.bench.peers.process import say
from drumfire.bench.peers.serving import servers
from drumfire.bench.peers.triton import revisions
from drumfire.bench.peers.triton.environments import CLIENT, PERF_ANALYZER
from drumfire.bench.peers.triton.measures import NAMES, TOOLS, measures, tools

COMPARISON = Comparison(
    "triton",
    TOOLS,
    ("uvloop", "hpack"),
    "Medians over the rounds; all sides in turns against a local Triton on the same cores, each in a fresh process:\n"
    f"perf_analyzer from `{PERF_ANALYZER[0]}`, and a closed loop of tritonclient's aio clients\n"
    f"(`{' '.join(CLIENT)}`; over HTTP without gzip).\n"
    "All send the same input again and again; `identity_cached` answers from the server's cache, `identity` copies in\n"
    "Python. Drumfire checks the status and the output tensor of every reply, perf_analyzer the status; the loop of\n"
    "tritonclient decodes the output and checks its shape and type. CPU is that of the whole process for\n"
    "perf_analyzer, by the server's count of requests, and that of the measured phase for the two in Python. Latency\n"
    "*from the sending* is all that perf_analyzer knows; with a rate to keep, ours counts from the schedule as well.\n"
    "Each side draws its own Poisson schedule, the same one in every run, so the rates differ around what was asked.",
    seconds=4,
    revisions=revisions.NAMES,
)


@contextmanager
def _ready() -> Iterator[Ready]:
    others = tools(say)
    with servers.triton(None, say) as server:
        yield measures(server, others), ()


@contextmanager
def _cases() -> Iterator[Sequence[against.Case]]:
    with servers.drumfire(*revisions.SERVED) as identity:
        yield revisions.cases(identity)


def main(arguments: Sequence[str] | None = None) -> int:
    return COMPARISON.main(arguments, NAMES, lambda only: _ready(), _cases)


if __name__ == "__main__":
    sys.exit(main())
