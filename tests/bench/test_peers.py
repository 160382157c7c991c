"""The comparison with other tools: its arithmetic, its section of a Markdown file, and a tiny run of each side."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest

from bench.peers.goal import Figure, Round, number, times_better
from bench.peers.loadgen.__main__ import compact, section
from bench.peers.loadgen.measures import Measure, MeasurementError, highest, ours, server, theirs, worker
from bench.peers.results import put_section, with_section

RATE = Figure("rate", "r", "k/s", 1e3, "r", more_is_better=True, goal=5, goal_ratio=10)
COST = Figure("cost", "c", "us", 1e3, "c", goal=2, goal_ratio=4)

needs_reference = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen is not installed"
)


def rounds(name: str, *pairs: tuple[float, float]) -> list[Round]:
    return [Round({name: a}, {name: b}) for a, b in pairs]


@pytest.mark.parametrize(
    ("ours_", "theirs_", "more", "expected"),
    [(8, 2, True, 4), (2, 8, False, 4), (0, 3, False, math.inf), (0, 0, False, 1), (0, 3, True, 0)],
)
def test_a_ratio_says_how_many_times_better(ours_: float, theirs_: float, more: bool, expected: float) -> None:
    assert times_better(ours_, theirs_, more_is_better=more) == expected


def test_a_row_has_medians_in_units_and_the_median_of_the_ratios() -> None:
    row = RATE.row(rounds("r", (6000, 500), (9000, 1000), (7000, 350)))
    assert (row.ours, row.theirs, row.ratio) == (7, 0.5, 12)
    assert row.ours_spread == pytest.approx(3 / 7)
    assert row.met is True
    assert row.missed() == []


def test_each_missed_goal_is_told_with_by_how_much() -> None:
    missed = COST.row(rounds("c", (2500, 5000))).missed()
    assert missed == [
        "2.50 us where at most 2.00 us is the goal, off by 25.0%",
        "2.00 times better where 4.00 times better is the goal, off by 50.0%",
    ]
    assert COST.row(rounds("c", (1000, 4000))).met is True
    assert RATE.row(rounds("r", (4000, 100))).met is False


def test_rounds_that_failed_are_left_out_and_a_goal_without_figures_is_missed() -> None:
    row = COST.row([Round({}, {"c": 9000}), Round({"c": 1000}, {}), Round({"c": 2000}, {"c": 10_000})])
    assert (row.ours, row.theirs, row.ratio) == (1.5, 9.5, 5)
    assert COST.row([Round({}, {})]).met is False
    assert Figure("told only", "c", "us").row(rounds("c", (1, 2))).met is None


def test_a_goal_of_zero_is_met_by_zero_only() -> None:
    early = Figure("early", "e", "queries", goal=0)
    assert early.row([Round({"e": 0}, {})]).met is True
    assert early.row([Round({"e": 3}, {})]).missed() == ["3.00 queries where at most 0 queries is the goal"]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0123, "0.0123"), (1.5, "1.50"), (123456.7, "123,457"), (math.inf, "∞")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_section_replaces_only_its_own() -> None:
    text = "# Title\n\n<!-- a -->\nold\n<!-- /a -->\n\nbetween\n\n<!-- b -->\nkept\n<!-- /b -->\nend\n"
    assert with_section(text, "a", "new\n") == text.replace("old", "new")
    assert with_section("# Title\n", "c", "x") == "# Title\n\n<!-- c -->\nx\n<!-- /c -->\n"
    with pytest.raises(ValueError, match="must both be there"):
        with_section("<!-- a -->\nno end", "a", "new")


def test_a_section_is_put_into_a_file_that_may_not_be_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "new" / "RESULTS.md"
    put_section(path, "a", "one")
    put_section(path, "b", "two")
    put_section(path, "a", "three")
    text = path.read_text()
    assert text.startswith("# ")
    assert text.index("three") < text.index("two")
    assert "one" not in text


def test_the_section_has_the_table_and_what_was_lost() -> None:
    measures = [Measure("fast", (RATE,), dict), Measure("slow", (COST,), dict, note=lambda told: f"spent {told['c']}")]
    told = {"fast": rounds("r", (6000, 500)), "slow": rounds("c", (2500, 20_000), (2500, 20_000))}
    text = section(measures, told, "the command", "* the machine")
    assert "| rate | 6.00 k/s | 0.500 k/s | 12.0x | ≥ 5.00 k/s, ≥ 10.0x | yes |" in text
    assert "| cost | 2.50 us | 20.0 us | 8.00x | ≤ 2.00 us, ≥ 4.00x | **no** |" in text
    assert "* slow, cost: 2.50 us where at most 2.00 us is the goal, off by 25.0%." in text
    assert "* spent 2500" in text
    assert "`the command`" in text
    assert [line["measure"] for line in json.loads(compact(told))] == ["fast", "slow", "slow"]


@pytest.mark.parametrize("limit", [70, 999, 1000, 5300])
def test_the_search_finds_the_highest_rate(limit: float) -> None:
    found = highest(lambda rate: {"rate": rate} if rate <= limit else None, 1000)["rate"]
    assert limit * (1 - 1 / 16) <= found <= limit


def test_the_search_gives_up_where_nothing_is_sustained() -> None:
    with pytest.raises(MeasurementError):
        highest(lambda rate: None, 1000)


def test_our_side_tells_of_a_server_run() -> None:
    told = ours(server(2000), 0.2)
    assert 300 < told["queries"] < 500
    assert told["early"] == 0
    assert 0 <= told["p50_lateness_ns"] <= told["p99_lateness_ns"]
    assert told["asked_per_s"] == pytest.approx(2000, rel=0.25)
    assert told["cpu_ns_per_query"] <= told["cpu_and_spin_ns_per_query"] * 1.05


def test_our_side_tells_of_what_follows_a_run() -> None:
    told = ours(server(2000), 0.2, "after")
    assert 300 < told["rows"] < 500
    assert told["table_bytes_per_row"] == 29
    assert told["after_s"] == pytest.approx(told["results_s"] + told["saving_s"])


def test_a_case_that_fails_is_told() -> None:
    with pytest.raises(MeasurementError, match="unheard-of"):
        worker("drumfire", {"kind": "unheard-of"})


@needs_reference
@pytest.mark.reference
def test_the_reference_tells_of_a_server_run() -> None:
    told = theirs(server(2000), 0.2, trace=True)
    assert 300 < told["queries"] < 500
    assert 0 < told["p50_lateness_ns"] <= told["p99_lateness_ns"]
    assert told["asked_per_s"] == pytest.approx(2000, rel=0.25)
    assert told["wall_ns_per_query"] > told["cpu_ns_per_query"] > 0


@needs_reference
@pytest.mark.reference
def test_the_reference_tells_of_an_offline_query() -> None:
    told = theirs({"scenario": "Offline", "min_query_count": 500, "offline_expected_qps": 500}, 0.2, pool=500)
    assert told["queries"] == 1
    assert told["samples_per_s"] > 0
