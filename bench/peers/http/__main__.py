"""``python -m drumfire.bench.peers.http``: the http target beside aiohttp, then the section of RESULTS.md."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from drumfire.bench.peers.comparison import Comparison
from drumfire.bench.peers.http.measures import AIOHTTP, MEASURES
from drumfire.bench.peers.process import say
from drumfire.loadgen import installation

COMPARISON = Comparison(
    "http",
    (AIOHTTP,),
    ("uvloop", "aiohttp"),
    "Medians over the rounds; both sides in turns, each in a fresh process against a fresh service on the same cores,\n"
    "which answers every POST with the same JSON (`bench/peers/http/stub.py`). aiohttp's side is a closed loop on\n"
    "uvloop with one session (`bench/peers/http/aiohttp_loop.py`). Both send the same ready bytes and check the\n"
    "status of every reply. CPU is that of the measured phase; with a rate to keep it includes the pacer's spin.",
    seconds=4,
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = COMPARISON.options(arguments, (m.name for m in MEASURES))
    if importlib.util.find_spec("aiohttp") is None:
        say(f"{COMPARISON.module}: aiohttp is not installed: {installation.command('tritonclient')}")
        return 2
    COMPARISON.carry_out(options, MEASURES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
