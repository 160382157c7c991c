"""``python -m drumfire.bench.peers.fleet``: several generators beside a single one, then the section of RESULTS.md."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence

from drumfire.bench.peers.comparison import Comparison, Ready
from drumfire.bench.peers.fleet.measures import MEASURES, ONE
from drumfire.bench.peers.process import PROGRAM, run
from drumfire.loadgen import installation

COMPARISON = Comparison(
    "fleet",
    (ONE,),
    ("ray",),
    "Medians over the rounds; `drumfire run triton` over gRPC against a server in a process of its own on the same\n"
    "cores, which repeats one answer and costs next to nothing (`bench/peers/fleet/stub.py`). *One generator* is\n"
    "`--workers 1` beside two workers, with as many requests in flight for each, and a plain run beside the others.\n"
    "CPU is the generators'; the driver, which only watches them, is not counted. A Ray host is this very host.",
    seconds=4,
)


def main(arguments: Sequence[str] | None = None) -> int:
    return COMPARISON.main(arguments, (m.name for m in MEASURES), lambda only: _cluster())


@contextlib.contextmanager
def _cluster() -> Iterator[Ready]:
    """The measures, while this host is a cluster where Ray is installed."""
    if importlib.util.find_spec("ray") is None:
        how = installation.command("multihost")
        yield MEASURES, [f"a Ray host is left out: Ray is not installed ({how})"]
        return
    run([*PROGRAM, "cluster", "up", "--load-on-head"])
    try:
        yield MEASURES, ()
    finally:
        run([*PROGRAM, "cluster", "down"])


if __name__ == "__main__":
    sys.exit(main())
