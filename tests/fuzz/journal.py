"""The journal of a search: resumed from, or refused in one line; a last line that was cut is dropped."""

from __future__ import annotations

from dataclasses import asdict

from drumfire.bench.peak.journal import Journal
from drumfire.bench.peak.search import Ask, Goal, Outcome, Probe, next_step
from drumfire.loadgen.errors import UserError
from tests.fuzz.harness import check_line, file

_FILE = file("search.jsonl")
_SUBJECT = {"of": "this", "at": 1.5}
_AGAIN = "drumfire peak --output here"
_GOAL = Goal(0.99, 0.01, 60.0, 1000, 100.0, 1e6)


def _seed(probes: int) -> bytes:
    _FILE.unlink(missing_ok=True)
    journal = Journal(_FILE, _SUBJECT, _AGAIN)
    for number in range(probes):
        ask = Ask(100.0 * 2**number, 1.0, 64, number % 2, "bracket", 3)
        journal.add(Probe(ask, Outcome(64, 3 * number, 0.5, False, 0.01, "3 of 64")))
    return _FILE.read_bytes()


SEEDS = [_seed(0), _seed(1), _seed(4), _seed(2)[:-20]]


def read(data: bytes) -> None:
    _FILE.write_bytes(data)
    try:
        journal = Journal(_FILE, _SUBJECT, _AGAIN)
    except UserError as error:
        check_line(error)
        return
    next_step(_GOAL, journal.probes)
    before = [asdict(probe) for probe in journal.probes]
    assert [asdict(probe) for probe in Journal(_FILE, _SUBJECT, _AGAIN).probes] == before
