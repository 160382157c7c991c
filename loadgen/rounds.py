"""The seeds of the MLPerf rounds, from the published mlperf.conf of 6.0.17 (v6.1) and the rounds' announcements."""

from __future__ import annotations

from typing import NamedTuple


class Seeds(NamedTuple):
    qsl: int
    sample_index: int
    schedule: int
    test05_qsl: int
    test05_sample_index: int
    test05_schedule: int


_TEST05 = (7975553102935885558, 11403566307062068064, 15816800565822761601)

SEEDS = {
    "v6.1": Seeds(2085463073848966840, 2747215439041700203, 16159082839903944936, *_TEST05),
    "v2.1": Seeds(
        14284205019438841327,
        4163916728725999944,
        299063814864929621,
        313588358309856706,
        471397156132239067,
        413914573387865862,
    ),
}
DEFAULT_ROUND = "v6.1"
