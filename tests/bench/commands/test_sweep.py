"""``drumfire sweep``: its plan, what it skips, what it finds on a simulated server, and that it resumes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.bench import statuses
from drumfire.bench.report import sweeps, terminal
from drumfire.bench.report.sweeps import Named, Outcome, Point
from drumfire.bench.session import session
from tests.support.command import Done, drumfire, finished, here, one_line_error, start
from tests.support.simulated_runs import SERVICE_NS, Simulated

RUN = ("sweep", "null", "digits", "--scenario", "Server", "--time", 5)
LOADS = ("--over", "qps=500:8000:log5")
CAPACITY = 1e9 / SERVICE_NS


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    found = Simulated()
    monkeypatch.setattr(session, "measure", found.measure)
    return found


def swept(folder: Path, *words: object) -> dict[str, Any]:
    done = here(*RUN, *words, "--output", folder, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert found == json.loads((folder / "sweep.json").read_text())
    return found


def value(point: dict[str, Any]) -> float:
    return float(point["at"]["qps"])


def test_it_finds_where_a_server_is_saturated_and_at_its_best(simulated: Simulated, tmp_path: Path) -> None:
    """The capacity is 3,333 queries a second; power, rate by mean latency, is greatest at half of it."""
    found = swept(tmp_path / "s", *LOADS, "--bound", "p99<20ms")
    points, named = found["points"], found["named"]
    assert [value(point) for point in points] == [500, 1000, 2000, 4000, 8000]
    (saturated,) = named["saturated"]
    assert value(points[saturated]) == 4000
    assert points[saturated]["rate"] == pytest.approx(CAPACITY, rel=0.05)
    near_half = min(points, key=lambda one: abs(value(one) - CAPACITY / 2))
    assert points[named["power"]] is near_half
    best = points[named["best"]]
    assert value(best) == 2000
    assert best["p99"] < 20e6 < points[saturated]["p99"]
    assert [point["front"] for point in points[:4]] == ["on"] * 4


def test_rates_above_a_saturated_one_are_skipped(simulated: Simulated, tmp_path: Path) -> None:
    """Whatever the order: only lower rates than all that were saturated are measured."""
    orders = set()
    for seed in range(4):
        simulated.lines.clear()
        found = swept(tmp_path / str(seed), "--over", "qps=500:64000:log8", "--seed", seed)
        ran = [float(line[line.index("--qps") + 1]) for line in simulated.lines]
        orders.add(tuple(ran))
        for number, rate in enumerate(ran):
            assert not any(4000 <= before < rate for before in ran[:number]), ran
        skipped = [point for point in found["points"] if point["skipped"]]
        assert sorted(ran) == [value(point) for point in found["points"] if not point["skipped"]]
        assert skipped, ran
        assert all(value(point) > 4000 and point["rate"] is None for point in skipped)
    assert len(orders) == 4


def test_its_report_is_printed_again(simulated: Simulated, tmp_path: Path) -> None:
    done = here(*RUN, *LOADS, "--output", tmp_path / "s", "--bound", "p99<20ms")
    assert (done.returncode, done.stderr) == (0, "")
    told, _, report = done.stdout.partition("Best point : ")
    assert told.splitlines()[0] == "5 runs, about 0:40: qps=500, 1000, 2000, 4000, 8000; in an order by --seed 1"
    assert report.startswith("qps 2000: 2,017/s with p99 3.10 ms\n")
    assert "8000         skipped: saturated at 4000/s\n" in report
    assert all(len(line) <= 80 for line in report.splitlines() if str(tmp_path) not in line)
    again = here("show", tmp_path / "s")
    assert again.stdout == f"Best point : {report}"
    assert again.returncode == 0
    (tmp_path / "s").rename(tmp_path / "moved")
    assert here("show", tmp_path / "moved").stdout.split()[-1] == str(tmp_path / "moved")


def test_it_resumes_with_what_is_missing(simulated: Simulated, tmp_path: Path) -> None:
    swept(tmp_path / "whole", *LOADS, "--repeats", 2)
    whole = list(simulated.lines)
    simulated.lines.clear()
    simulated.ends = {4: (statuses.INTERRUPTED, "")}
    done = here(*RUN, *LOADS, "--repeats", 2, "--output", tmp_path / "s")
    assert done.returncode == statuses.INTERRUPTED
    assert "after 3 of 10 runs; to resume: drumfire sweep null digits" in done.stderr
    assert len(list((tmp_path / "s" / "interrupted").iterdir())) == 1
    shown = here("show", tmp_path / "s")
    assert shown.returncode == statuses.UNDECIDED
    assert shown.stdout in done.stdout
    simulated.ends = {}
    found = swept(tmp_path / "s", *LOADS, "--repeats", 2)
    assert [*simulated.lines[:3], *simulated.lines[4:]] == whole
    assert found["finished"]
    before = len(simulated.lines)
    assert swept(tmp_path / "s", *LOADS, "--repeats", 2)["points"] == found["points"]
    assert len(simulated.lines) == before


def test_the_command_that_resumes_has_its_folder_where_options_are_read(
    simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    simulated.ends = {1: (statuses.INTERRUPTED, "")}
    done = here("sweep", "null", "--scenario", "Server", *LOADS, "--", "digits")
    (folder,) = Path("runs").iterdir()
    words = f"null --scenario Server --over qps=500:8000:log5 --output {folder} -- digits"
    assert done.stderr.endswith(f"; to resume: drumfire sweep {words}\n")


def test_further_points_are_added_and_other_runs_refused(simulated: Simulated, tmp_path: Path) -> None:
    swept(tmp_path / "s", "--over", "qps=500,1000")
    found = swept(tmp_path / "s", "--over", "qps=500,1000,2000")
    assert len(simulated.lines) == len(found["points"]) == 3
    done = here(*RUN, "--count", 7, "--over", "qps=500,1000", "--output", tmp_path / "s")
    one_line_error(Done(done.args, done.returncode, "", done.stderr), "of another session (it differs in words)")


def test_a_journal_that_was_cut_or_is_none(simulated: Simulated, tmp_path: Path) -> None:
    swept(tmp_path / "s", "--over", "qps=500,1000")
    path = tmp_path / "s" / "session.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert swept(tmp_path / "s", "--over", "qps=500,1000")["finished"]
    assert len(simulated.lines) == 2  # the run whose line was cut is whole
    for line in ('{"run": 3}', '{"run": "qps=500/1"}', '{"run": "qps=500/1", "took": 3}', "3"):
        path.write_text(f'{{"session": {{}}, "again": ""}}\n{line}\n')
        done = here(*RUN, "--over", "qps=500,1000", "--output", tmp_path / "s")
        assert f"{path} is not the journal of a session" in done.stderr
        assert done.returncode == statuses.USAGE


def test_medians_of_repeats_count(simulated: Simulated, tmp_path: Path) -> None:
    simulated.changes = {"qps=500/2": {"latency_ns": {"mean": 10**9, "p50": 10**9, "p99": 10**9}}}
    found = swept(tmp_path / "s", "--over", "qps=500,1000", "--repeats", 3)
    first = found["points"][0]
    usual = json.loads((tmp_path / "s" / "qps=500" / "1" / "result.json").read_text())
    assert first["p99"] == usual["latency_ns"]["p99"]
    assert first["runs"] == ["qps=500/1", "qps=500/2", "qps=500/3"]


def test_two_axes_have_a_saturation_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = Simulated(lambda options: SERVICE_NS * 2 / options.system.batching.max_batchsize)
    monkeypatch.setattr(session, "measure", found.measure)
    told = here(
        "sweep", "onnxruntime", "digits", "--scenario", "Server", "--over", "qps=1000,2000,4000",
        "--over", "max-batchsize=1,4", "--output", tmp_path / "s", "--json",
    )  # fmt: skip
    document = json.loads(told.stdout)
    points = document["points"]
    assert [points[at]["at"] for at in document["named"]["saturated"]] == [{"qps": "2000", "max-batchsize": "1"}]
    skipped = [point["at"] for point in points if point["skipped"]]
    assert skipped in ([], [{"qps": "4000", "max-batchsize": "1"}])
    assert points[document["named"]["highest_valid"]]["at"] == {"qps": "4000", "max-batchsize": "4"}
    shown = here("show", tmp_path / "s")
    assert all(len(line) <= 80 for line in shown.stdout.splitlines() if str(tmp_path) not in line)


def test_statuses_and_expectations_are_of_the_best_point(simulated: Simulated, tmp_path: Path) -> None:
    words = (*RUN, *LOADS, "--bound", "p99<20ms", "--output", tmp_path / "s")
    done = here(*words, "--expect", "rate>=1900/s")
    assert done.returncode == 0
    assert "rate>=1900/s: met, 2,017/s" in done.stdout
    done = here(*words, "--expect", "rate>=3000/s", "--junit", tmp_path / "j.xml")
    assert done.returncode == statuses.UNMET
    cases = ET.parse(tmp_path / "j.xml").findall(".//testcase")
    assert [(case.get("name"), case.find("failure") is not None) for case in cases] == [
        ("is VALID", False), ("rate>=3000/s", True),
    ]  # fmt: skip
    none = here(*words[:-4], "--bound", "p99<1us", "--output", tmp_path / "s", "--expect", "rate>=1/s")
    assert none.returncode == statuses.UNMET
    assert "Best point : none holds p99<1us\n" in none.stdout
    assert "rate>=1/s: not met, there is no best point" in " ".join(none.stdout.split())


def test_without_a_valid_point_it_says_why(simulated: Simulated, tmp_path: Path) -> None:
    invalid = {"validity": "INVALID", "reasons": ["Too few queries."]}
    simulated.changes = {"qps=500/1": invalid, "qps=1000/1": invalid}
    done = here(*RUN, "--over", "qps=500,1000", "--output", tmp_path / "s")
    assert done.returncode == statuses.INVALID
    assert done.stdout.partition("Best point")[2].splitlines()[:2] == [" : none is VALID", "  - Too few queries."]


def test_a_run_whose_samples_failed_is_never_best(simulated: Simulated, tmp_path: Path) -> None:
    errors = {"failed": 900, "unanswered": 0, "refused": 0, "messages": {"broken": 900}}
    simulated.changes = {"qps=2000/1": {"errors": errors, "validity": "INVALID"}}
    found = swept(tmp_path / "s", "--over", "qps=500,1000,2000", "--bound", "p99<1s")
    assert value(found["points"][found["named"]["best"]]) == 1000
    assert found["points"][2]["front"] == ""
    assert found["points"][2]["errors"] == pytest.approx(900 / 2900)


def test_its_page_has_the_curve(simulated: Simulated, tmp_path: Path) -> None:
    done = here(*RUN, *LOADS, "--output", tmp_path / "s", "--report")
    assert done.returncode == 0
    page = (tmp_path / "s" / "report.html").read_text()
    assert f"page         {tmp_path / 's' / 'report.html'}" in done.stdout.replace("page\n", "page         ")
    assert 'id="chart-curve"' in page
    assert "qps=2000/1" in page
    assert "the report of runs on the Pareto front: qps=500/1, qps=1000/1, qps=2000/1, qps=4000/1." in page
    assert "Best point: qps " in page
    assert "http:" not in page
    assert len(page) < 400_000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--over", "qps=8000:500:log5"), "a range goes from its lower to its higher end"),
        (("--over", "qps=1:2:log0"), "log must be followed by how many values"),
        (("--over", "qsp=1,2"), "did you mean qps?"),
        (("--over", "concurrency=1,2"), "--concurrency has no effect without --loop"),
        (("--over", "qps=1e-9,5"), "--qps: must be at least"),
        (("--over", "samples-per-query=1,2", "--qps", 5), "--samples-per-query has no effect in Server"),
        (("--qps", 5, "--over", "qps=1,2"), "--qps is given twice"),
        ((), "--over must be given"),
        (("--over", "count=100,200"), "--qps must be given"),
        ((*LOADS, "--accuracy"), "--accuracy has no figures that are compared here"),
        ((*LOADS, "--bound", "p99<=base"), "needs a limit of its own"),
        ((*LOADS, "--bound", "p99<20"), "a time with its unit"),
        ((*LOADS, "--bound", "accuracy>90%"), "a performance run has no accuracy"),
        ((*LOADS, "--repeats", "1000"), "5,000 runs are too many"),
        ((*LOADS, "--expect", "p99<base"), "add --base RUN"),
        ((*LOADS, "--ovr", "qps=1,2"), "unknown option --ovr"),
    ],
)
def test_wrong_words_are_refused_before_anything_runs(
    words: tuple[object, ...], says: str, simulated: Simulated, tmp_path: Path
) -> None:
    one_line_error(here(*RUN, *words, "--output", tmp_path / "s"), says)
    assert simulated.lines == []
    assert not (tmp_path / "s").exists()


def test_a_dry_run_only_shows_the_plan(simulated: Simulated, tmp_path: Path) -> None:
    done = here(*RUN, *LOADS, "--output", tmp_path / "s", "--dry-run")
    first, *runs = done.stdout.splitlines()
    assert first.startswith("5 runs, about 0:40")
    assert "qps=500/1: drumfire run null digits --scenario Server --time 5.0 --qps 500" in runs
    assert len(runs) == 5
    assert simulated.lines == []
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("further", [(), ("--dry-run",)])
def test_a_system_that_could_not_be_loaded_is_refused(
    further: tuple[object, ...], simulated: Simulated, tmp_path: Path
) -> None:
    words = ("sweep", "null", "digit", *RUN[3:], *LOADS, "--output", tmp_path / "s", *further)
    one_line_error(here(*words), "model 'digit' is not known")
    assert simulated.lines == []
    assert not (tmp_path / "s").exists()


def test_interrupted_before_a_run_has_ended_it_says_nothing_of_saturation(simulated: Simulated, tmp_path: Path) -> None:
    simulated.ends = {1: (statuses.INTERRUPTED, "")}
    done = here(*RUN, *LOADS, "--output", tmp_path / "s")
    assert done.returncode == statuses.INTERRUPTED
    assert "Sweep is : unfinished" in done.stdout
    assert "saturation" not in done.stdout


def test_columns_of_the_table_have_a_space_between_them() -> None:
    at = {"qps": "1234567.25", "think-time": "1234567.75"}
    measured_point = Point(at, rate=123_456_789.0, p50=1.0, p99=1.0, errors=0.0, validity="INVALID", front="on")
    outcome = Outcome(
        axes=list(at), load="qps", repeats=1, seed=1, bounds=[], finished=True, stopped="", again="",
        points=[measured_point, Point(at)], named=Named(None, [], None, None), directory="",
    )  # fmt: skip
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        terminal.put([sweeps.table(outcome)])
    _, measured, left = [line.split() for line in written.getvalue().splitlines()]
    assert measured[:3] == ["1234567.25", "1234567.75", "123,456,789/s"]
    assert left == ["1234567.25", "1234567.75", "-"]


def test_a_folder_with_something_else_is_refused(simulated: Simulated, tmp_path: Path) -> None:
    (tmp_path / "qps=500").mkdir()
    done = here(*RUN, *LOADS, "--output", tmp_path)
    assert done.returncode == statuses.USAGE
    assert "is not empty, it has qps=500: choose another --output" in done.stderr


@pytest.mark.parametrize("text", ["{}", "[]", '{"axes": 3}', "{", '{"finished": true, "axes": [], "points": []}'])
def test_a_damaged_outcome_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(text)
    one_line_error(here("show", tmp_path), str(tmp_path / "sweep.json"))


def test_what_a_run_says_of_its_failure_is_told(simulated: Simulated, tmp_path: Path) -> None:
    for status, said, wanted in [
        (statuses.USAGE, "drumfire: there is no model x: name one\n", "there is no model x: name one"),
        (statuses.UNSAVED, "drumfire: the disk is full\n", "the disk is full"),
        (-9, "", "its process was ended by SIGKILL"),
        (statuses.CRASH, "drumfire: a fault of drumfire: KeyError: 1\n", "KeyError: 1"),
    ]:
        simulated.lines.clear()
        simulated.ends = {1: (status, said)}
        done = here(*RUN, *LOADS, "--output", tmp_path / "s")
        assert done.returncode == (status if status > 0 else statuses.USAGE)
        assert wanted in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_real_processes_are_interrupted_and_resumed(tmp_path: Path) -> None:
    words = ("sweep", "null", "digits", "--scenario", "Server", "--time", 2, "--over", "qps=500,1000,2000",
             "--output", tmp_path / "s")  # fmt: skip
    process = start(*words)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "s").glob("qps=*/1/columns"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.7)  # until queries of the second run have been sent
    os.kill(process.pid, signal.SIGINT)
    done = finished(process)
    assert done.returncode == statuses.INTERRUPTED, done.stderr
    assert "to resume: drumfire sweep null digits" in done.stderr
    (aside,) = (tmp_path / "s" / "interrupted").iterdir()
    assert np.load(aside / "columns" / "completed.npy").size
    again = drumfire(*words)
    assert again.returncode in (0, 1), again.stderr
    assert len(list((tmp_path / "s").glob("qps=*/1/result.json"))) == 3
    assert "resuming in" in again.stdout
