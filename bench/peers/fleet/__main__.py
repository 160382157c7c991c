"""``python -m drumfire.bench.peers.fleet``: several generators beside a single one, then the section of RESULTS.md."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence

from drumfire.bench.peers.comparison import Comparison
from drumfire.bench.peers.fleet.measures import MEASURES, ONE
from drumfire.bench.peers.process import PROGRAM, MeasurementError, run, say
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
    options = COMPARISON.options(arguments, (m.name for m in MEASURES))
    try:
        with _cluster():
            COMPARISON.carry_out(options, MEASURES)
    except MeasurementError as error:
        say(f"{COMPARISON.module}: {error}")
        return 2
    return 0


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    """Make this host a cluster where Ray is installed."""
    if importlib.util.find_spec("ray") is None:
        how = installation.command("multihost")
        say(f"Ray is not installed: a Ray host is not measured ({how})")
        yield
        return
    run([*PROGRAM, "cluster", "up", "--load-on-head"])
    try:
        yield
    finally:
        run([*PROGRAM, "cluster", "down"])


if __name__ == "__main__":
    sys.exit(main())
