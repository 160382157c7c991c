"""The comparison with other tools: its arithmetic, its section of a Markdown file, and a tiny run of each side."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from functools import partial
from pathlib import Path

import pytest

from drumfire.bench.peers import process
from drumfire.bench.peers.comparison import Comparison
from drumfire.bench.peers.goal import Figure, Round, Row, number, times_better
from drumfire.bench.peers.loadgen.measures import highest, ours, server, theirs, worker
from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.results import put_section, with_section
from drumfire.bench.peers.rounds import Measure, compact, run_rounds

RATE = Figure("rate", "r", "k/s", 1e3, "r", more_is_better=True, goal=5, goal_ratio=10)
COST = Figure("cost", "c", "us", 1e3, "c", goal=2, goal_ratio=4)

needs_reference = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen is not installed"
)


OTHER = "other"


def rounds(name: str, *pairs: tuple[float, float]) -> list[Round]:
    return [Round({name: a}, {OTHER: {name: b}}) for a, b in pairs]


def row_of(figure: Figure, told: list[Round]) -> Row:
    return figure.row(told, [OTHER])


@pytest.mark.parametrize(
    ("ours_", "theirs_", "more", "expected"),
    [(8, 2, True, 4), (2, 8, False, 4), (0, 3, False, math.inf), (0, 0, False, 1), (0, 3, True, 0)],
)
def test_a_ratio_says_how_many_times_better(ours_: float, theirs_: float, more: bool, expected: float) -> None:
    assert times_better(ours_, theirs_, more_is_better=more) == expected


def test_a_row_has_medians_in_units_and_the_median_of_the_ratios() -> None:
    row = row_of(RATE, rounds("r", (6000, 500), (9000, 1000), (7000, 350)))
    assert (row.ours, row.beside[0].value, row.beside[0].ratio) == (7, 0.5, 12)
    assert row.ours_spread == pytest.approx(3 / 7)
    assert row.met is True
    assert row.missed() == []


def test_each_missed_goal_is_told_with_by_how_much() -> None:
    missed = row_of(COST, rounds("c", (2500, 5000))).missed()
    assert missed == [
        "2.50 us where at most 2.00 us is the goal, off by 25.0%",
        "2.00 times better where 4.00 times better is the goal, off by 50.0%",
    ]
    assert row_of(COST, rounds("c", (1000, 4000))).met is True
    assert row_of(RATE, rounds("r", (4000, 100))).met is False


def test_rounds_that_failed_are_left_out_and_a_goal_without_figures_is_missed() -> None:
    told = [
        Round({}, {OTHER: {"c": 9000}}),
        Round({"c": 1000}, {OTHER: {}}),
        Round({"c": 2000}, {OTHER: {"c": 10_000}}),
    ]
    row = row_of(COST, told)
    assert (row.ours, row.beside[0].value, row.beside[0].ratio) == (1.5, 9.5, 5)
    assert row_of(COST, [Round({})]).met is False
    assert row_of(Figure("told only", "c", "us"), rounds("c", (1, 2))).met is None


def test_a_goal_is_set_beside_the_first_of_several_tools() -> None:
    told = [Round({"c": 1000}, {"first": {"c": 3000}, "second": {"c": 9000}})]
    row = COST.row(told, ["first", "second"])
    assert [one.ratio for one in row.beside] == [3, 9]
    assert row.met is False
    assert COST.row(told, ["second", "first"]).met is True
    assert COST.row(told, ["second", "absent"]).beside[1].value is None


def test_a_goal_of_zero_is_met_by_zero_only() -> None:
    early = Figure("early", "e", "queries", goal=0)
    assert row_of(early, [Round({"e": 0})]).met is True
    assert row_of(early, [Round({"e": 3})]).missed() == ["3.00 queries where at most 0 queries is the goal"]


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


def comparison(*tools: str) -> Comparison:
    return Comparison("name", tools, (), "How it is done.", seconds=1)


def test_every_tool_has_its_columns() -> None:
    told = {"slow": [Round({"c": 1000}, {"first": {"c": 4000}, "second": {"c": 500}})]}
    text = comparison("first", "second").section([Measure("slow", (COST,), dict)], told, "", "")
    assert "| measure | Drumfire | first | times better | second | times better | goal | met |" in text
    assert "| cost | 1.00 us | 4.00 us | 4.00x | 0.500 us | 0.500x | ≤ 2.00 us, ≥ 4.00x | yes |" in text
    assert "Nothing: every goal was met." in text


def test_the_section_has_the_table_and_what_was_lost() -> None:
    measures = [Measure("fast", (RATE,), dict), Measure("slow", (COST,), dict, note=lambda told: f"spent {told['c']}")]
    told = {"fast": rounds("r", (6000, 500)), "slow": rounds("c", (2500, 20_000), (2500, 20_000))}
    text = comparison(OTHER).section(measures, told, "the command", "* the machine")
    assert "| measure | Drumfire | other | times better | goal | met |" in text
    assert "| rate | 6.00 k/s | 0.500 k/s | 12.0x | ≥ 5.00 k/s, ≥ 10.0x | yes |" in text
    assert "| cost | 2.50 us | 20.0 us | 8.00x | ≤ 2.00 us, ≥ 4.00x | **no** |" in text
    assert "* slow, cost: 2.50 us where at most 2.00 us is the goal, off by 25.0%." in text
    assert "* spent 2500" in text
    assert "`the command`" in text
    assert [line["measure"] for line in json.loads(compact(told))] == ["fast", "slow", "slow"]


def test_the_side_that_goes_first_changes_with_the_round(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def side(name: str, seconds: float) -> dict[str, float]:
        order.append(name)
        return {"s": seconds}

    measure = Measure("m", (), partial(side, "us"), {"a": partial(side, "a"), "b": partial(side, "b")})
    lone = Measure("lone", (), partial(side, "lone"), once=True)
    told = run_rounds([measure, lone], 3, 7.0)
    assert order == ["us", "a", "b", "lone", "a", "b", "us", "b", "us", "a"]
    assert told["m"] == [Round({"s": 7.0}, {"a": {"s": 7.0}, "b": {"s": 7.0}})] * 3
    assert told["lone"] == [Round({"s": 7.0})]
    assert "round 1/3 m Drumfire" in capsys.readouterr().err


def test_a_side_that_fails_is_told_and_leaves_its_part_empty(capsys: pytest.CaptureFixture[str]) -> None:
    def breaks(seconds: float) -> dict[str, float]:
        raise MeasurementError("it broke")

    told = run_rounds([Measure("m", (), lambda seconds: {"s": seconds}, {OTHER: breaks})], 1, 2.0)
    assert told["m"] == [Round({"s": 2.0}, {OTHER: {}})]
    assert f"m {OTHER} ... failed: it broke" in capsys.readouterr().err


def test_the_options_name_the_measures_and_the_command() -> None:
    options = comparison(OTHER).options(["--only", "m", "--time", "2"], ["m", "n@1", "n"])
    assert (options.only, options.time, options.rounds) == (["m"], 2.0, 5)
    assert options.command == "python -m drumfire.bench.peers.name --only m --time 2"
    with pytest.raises(SystemExit):
        comparison(OTHER).options(["--only", "unheard-of"], ["m"])


def test_what_was_chosen_is_measured_and_put_into_both_files(tmp_path: Path) -> None:
    measures = [Measure(name, (COST,), lambda seconds: {"c": seconds}) for name in ("n@1", "n@2", "m")]
    options = comparison(OTHER).options(["--only", "n", "--output", str(tmp_path / "R.md")], ["n", "m"])
    comparison(OTHER).carry_out(options, measures)
    raw = json.loads((tmp_path / "name" / "rounds.json").read_text())
    assert [(line["measure"], line["round"]) for line in raw] == [(n, at) for n in ("n@1", "n@2") for at in range(1, 6)]
    assert "<!-- name -->" in (tmp_path / "R.md").read_text()


BURN = """
import sys, threading, time
def burn():
    began = time.thread_time()
    while time.thread_time() - began < 0.1:
        pass
threads = [threading.Thread(target=burn) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("words")
print('{"given": ' + sys.stdin.read() + ', "cpu_s": ' + str(time.process_time()) + '}')
"""


def test_a_process_is_charged_for_all_its_threads() -> None:
    done = process.run([sys.executable, "-c", BURN], "5")
    assert done.document["given"] == 5
    assert 0.2 <= done.document["cpu_s"] <= done.cpu_s


def test_a_process_that_fails_or_hangs_is_told() -> None:
    with pytest.raises(MeasurementError, match="ended with 3: the last words"):
        process.run([sys.executable, "-c", "import sys; sys.stderr.write('the last words'); sys.exit(3)"])
    assert process.run([sys.executable, "-c", "raise SystemExit(1)"], fine=(0, 1)).status == 1
    with pytest.raises(MeasurementError, match=r"did not end within 0\.2 s"):
        process.run([sys.executable, "-c", "import time; time.sleep(600)"], patience_s=0.2)


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
    # Where the core was taken away, the CPU time without the spin is not known.
    assert 0 <= told["cpu_ns_per_query"] <= told["cpu_and_spin_ns_per_query"] * 1.05


def test_our_side_tells_of_what_follows_a_run() -> None:
    told = ours(server(2000), 0.2, "after")
    assert 300 < told["rows"] < 500
    assert told["table_bytes_per_row"] == 29
    assert told["after_s"] == pytest.approx(told["results_s"] + told["saving_s"])


def test_a_case_that_fails_is_told() -> None:
    with pytest.raises(MeasurementError, match="unheard-of"):
        worker("ours", {"kind": "unheard-of"})


@needs_reference
@pytest.mark.reference
def test_the_reference_tells_of_a_server_run() -> None:
    told = theirs(server(2000), 0.2, trace=True)
    assert 300 < told["queries"] < 500
    assert 0 < told["p50_lateness_ns"] <= told["p99_lateness_ns"]
    assert told["asked_per_s"] == pytest.approx(2000, rel=0.25)
    assert told["wall_ns_per_query"] > told["cpu_ns_per_query"] > 0


@pytest.mark.slow
@needs_reference
@pytest.mark.reference
def test_the_reference_tells_of_an_offline_query() -> None:
    told = theirs({"scenario": "Offline", "min_query_count": 500, "offline_expected_qps": 500}, 0.2, pool=500)
    assert told["queries"] == 1
    assert told["samples_per_s"] > 0
