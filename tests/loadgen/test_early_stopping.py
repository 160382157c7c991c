"""Early stopping against the reference's own table and runs."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen.early_stopping import estimate, judge, least_passing, least_queries

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "early_stopping.json").read_text())


@pytest.mark.parametrize("table", ["fresh_finder_per_t", "sequential_finder"])
@pytest.mark.parametrize("percentile", ["0.500", "0.900", "0.950", "0.970", "0.990", "0.999"])
def test_table(table: str, percentile: str) -> None:
    entries = GOLDEN[table][percentile]
    assert entries
    wrong = {t: h for t, h in entries.items() if least_passing(int(t), float(percentile)) != h}
    assert wrong == {}


def test_table_is_whole() -> None:
    assert sum(len(p) for t in ("fresh_finder_per_t", "sequential_finder") for p in GOLDEN[t].values()) == 2928


@pytest.mark.parametrize("row", GOLDEN["reference_runs_table"], ids=lambda row: "-".join(map(str, row[:3])))
def test_runs_of_the_reference(row: list) -> None:
    kind, queries, percentile = row[:3]
    if kind == "Server":
        over, met, more = row[4], row[8], row[11]
        verdict = judge(queries, over, percentile)
        assert (verdict.met, verdict.queries_missing) == (met, more or 0)
    else:
        found = estimate(queries, percentile)
        assert found.queries_needed == row[4]
        assert found.discarded == (None if row[7] is None else row[7] - 1)


def test_least_queries_for_p99() -> None:
    assert least_queries(0.99) == 459


@given(st.integers(0, 3000), st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_more_failures_need_more_queries(over: int, percentile: float) -> None:
    assert least_passing(over + 1, percentile) >= least_passing(over, percentile)


@given(st.integers(1, 200_000), st.sampled_from([0.5, 0.9, 0.99]))
def test_estimate_is_the_largest_that_passes(queries: int, percentile: float) -> None:
    found = estimate(queries, percentile)
    if found.discarded is None:
        assert queries < found.queries_needed
    else:
        t = found.discarded + 1
        assert queries >= least_passing(t, percentile) + t
        assert queries < least_passing(t + 1, percentile) + t + 1
