"""``python -m drumfire.bench.peers.http``: the http target beside aiohttp, then the section of RESULTS.md."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from drumfire.bench.peers.comparison import Comparison, Ready
from drumfire.bench.peers.http.measures import AIOHTTP, MEASURES
from drumfire.bench.peers.process import MeasurementError
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


def _ready(only: Sequence[str]) -> AbstractContextManager[Ready]:
    if importlib.util.find_spec("aiohttp") is None:
        raise MeasurementError(f"aiohttp is not installed: {installation.command('tritonclient')}")
    return nullcontext((MEASURES, ()))


def main(arguments: Sequence[str] | None = None) -> int:
    return COMPARISON.main(arguments, (m.name for m in MEASURES), _ready)


if __name__ == "__main__":
    sys.exit(main())
