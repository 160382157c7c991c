"""The MLPerf rounds: their seeds, from the mlperf.conf that each published, and what was retired between them."""

from __future__ import annotations

from typing import NamedTuple


class Round(NamedTuple):
    qsl: int
    sample_index: int
    schedule: int
    """The seeds of runs."""
    test05_qsl: int
    test05_sample_index: int
    test05_schedule: int
    """The seeds of TEST05, which later rounds still publish."""
    test05: bool = False
    """Whether TEST05 is one of the round's compliance tests.  It was retired in November 2024, before v5.0."""


_TEST05 = (7975553102935885558, 11403566307062068064, 15816800565822761601)

ROUNDS = {
    "v6.1": Round(2085463073848966840, 2747215439041700203, 16159082839903944936, *_TEST05),
    "v6.0": Round(2465351861681999779, 14276810075590677512, 3936089224930324775, *_TEST05),
    "v5.1": Round(1780908523862526354, 14771362308971278857, 18209322760996052031, *_TEST05),
    "v5.0": Round(6023615788873153749, 15036839855038426416, 9933818062894767841, *_TEST05),
    "v2.1": Round(
        14284205019438841327,
        4163916728725999944,
        299063814864929621,
        313588358309856706,
        471397156132239067,
        413914573387865862,
        test05=True,
    ),
}
"""By name, the latest first."""
DEFAULT_ROUND = "v6.1"


def of_seeds(qsl: int, sample_index: int, schedule: int) -> str | None:
    """The round that has these seeds for its runs; None for other seeds, as those of TEST05 or of one's own."""
    seeds = qsl, sample_index, schedule
    return next((name for name, one in ROUNDS.items() if seeds == (one.qsl, one.sample_index, one.schedule)), None)
