"""``drumfire ab``: turns, equal schedules, the comparison at the end, and that it resumes and can be extended."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import drumfire
from drumfire.bench import statuses
from drumfire.bench.session import session
from drumfire.loadgen.claim import held, is_claimed
from tests.support.command import drumfire as program
from tests.support.command import here, one_line_error, start
from tests.support.running_server import until
from tests.support.simulated_runs import SERVICE_NS, Simulated

A = ("null", "digits", "--scenario", "Server", "--qps", 1500, "--time", 5)
B = (*A, "--warmup", 5)
OFFLINE = ("null", "digits", "--scenario", "Offline")


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    """Each query of B, which warms up, takes 10 % longer."""
    found = Simulated(lambda options: SERVICE_NS * (1.1 if options.traffic.warmup == "5" else 1.0))
    monkeypatch.setattr(session, "measure", found.measure)
    return found


def ab(folder: Path, *words: object, a: tuple[object, ...] = A, b: tuple[object, ...] = B) -> Any:
    return here("ab", "--output", folder, *words, "--", *a, "--", *b)


def sides(simulated: Simulated) -> str:
    return "".join("B" if "--warmup" in line else "A" for line in simulated.lines)


def test_runs_are_in_turns_and_the_slower_side_is_named(simulated: Simulated, tmp_path: Path) -> None:
    done = ab(tmp_path / "ab", "--figure", "p50")
    assert sides(simulated) == "ABBAABBAAB"
    assert done.returncode == statuses.UNMET
    assert "B is slower: p50 +" in done.stdout
    found = json.loads((tmp_path / "ab" / "ab.json").read_text())
    runs = [[drumfire.load(tmp_path / "ab" / letter / str(number)) for number in range(1, 6)] for letter in "AB"]
    compared = drumfire.compare(runs, figure="p50").document()
    assert {key: found[key] for key in compared} == compared
    assert found["notes"] == []
    assert "neighbours" in found["figures"][0]["method"]


def test_its_report_is_printed_again_and_by_compare(simulated: Simulated, tmp_path: Path) -> None:
    done = ab(tmp_path / "ab", "--runs", 3, "--expect", "p99<=base+50%")
    first, *lines = done.stdout.splitlines()
    assert first == "6 runs, A B B A A B, about 0:48"
    assert [line.split()[3] for line in lines[:6]] == ["A/1", "B/1", "B/2", "A/2", "A/3", "B/3"]
    shown = here("show", tmp_path / "ab")
    assert shown.stdout == "\n".join([*lines[6:], ""])
    assert shown.returncode == done.returncode
    assert "expected     p99<=base+50%: " in shown.stdout
    compared = here("compare", tmp_path / "ab" / "A", tmp_path / "ab" / "B", "--json")
    verdict = json.loads((tmp_path / "ab" / "ab.json").read_text())["verdict"]
    assert json.loads(compared.stdout)["comparisons"][0]["verdict"] == verdict


def test_equal_sides_are_the_same(simulated: Simulated, tmp_path: Path) -> None:
    done = ab(tmp_path / "ab", "--json", b=A)
    found = json.loads(done.stdout)
    assert found["verdict"]["words"].startswith("same within 5 %")
    assert done.returncode == 0


def test_schedules_that_differ_are_noted(simulated: Simulated, tmp_path: Path) -> None:
    found = json.loads(ab(tmp_path / "ab", "--json", b=("null", "digits", *A[2:4], "--qps", 1600)).stdout)
    assert found["notes"] == ["the schedules differ: that of 5 of 10 runs is not that of A's first"]


VERSIONS = {"environment": {"versions": {"onnxruntime": "1.32"}}, "system": {"backend": "null", "description": "1"}}
OTHERS = {"environment": {"versions": {"onnxruntime": "1.33"}}, "system": {"backend": "pytorch", "description": "2"}}


@pytest.mark.parametrize(
    ("b", "status", "says"),
    [
        (OTHERS, statuses.UNMET, "B is slower: p50 +"),
        (
            OTHERS | {"environment": {"cpu": "other", "versions": {"onnxruntime": "1.33"}}},
            statuses.UNDECIDED,
            "cannot tell: machines differ, so the cause is open: do all runs on one machine\n",
        ),
    ],
)
def test_what_the_words_make_differ_is_told_and_no_reason_against_a_verdict(
    b: dict[str, Any], status: int, says: str, simulated: Simulated, tmp_path: Path
) -> None:
    a = VERSIONS | {"environment": VERSIONS["environment"] | {"cpu": "one"}}
    simulated.changes = {f"{side}/{number}": more for side, more in (("A", a), ("B", b)) for number in (1, 2, 3)}
    done = ab(tmp_path / "ab", "--runs", 3, "--figure", "p50", "--expect", "p50<=base+50%")
    assert says in done.stdout
    assert done.returncode == status
    assert "settings differ: backend null / pytorch" in done.stdout
    assert "versions differ: onnxruntime 1.32 / 1.33; description 1 / 2" in done.stdout
    assert ("p50<=base+50%: met" in done.stdout) == (status == statuses.UNMET)


@pytest.mark.parametrize("own", [("--runs", 3), ("--runs=3",), ("--ru", 3)])
def test_more_runs_are_as_many_as_would_tell(own: tuple[object, ...], simulated: Simulated, tmp_path: Path) -> None:
    simulated.service_ns = lambda options: SERVICE_NS * (1 + 0.02 * (len(simulated.lines) * 7 % 5))
    done = ab(tmp_path / "ab", *own, "--figure", "p50", b=A)
    (needed,) = re.findall(r"needs about (\d+) runs a side", " ".join(done.stdout.split()))
    command = f"ab --output {tmp_path / 'ab'} --figure p50 --runs {needed} -- null digits"
    assert f"drumfire {command}" in done.stdout
    simulated.service_ns = lambda options: SERVICE_NS
    assert "more runs" not in ab(tmp_path / "told", "--runs", 3, b=A).stdout


def test_more_runs_are_added(simulated: Simulated, tmp_path: Path) -> None:
    assert ab(tmp_path / "ab", "--runs", 3).returncode in (statuses.UNMET, statuses.UNDECIDED)
    done = ab(tmp_path / "ab", "--runs", 5)
    assert sides(simulated) == "ABBAABBAAB"
    assert f"resuming in {tmp_path / 'ab'}: 6 runs done" in done.stdout
    other = ab(tmp_path / "ab", b=A)
    assert other.returncode == statuses.USAGE
    assert "is of another session (it differs in B)" in other.stderr


def test_an_interrupted_one_says_how_to_resume(simulated: Simulated, tmp_path: Path) -> None:
    simulated.ends = {3: (statuses.INTERRUPTED, "")}
    done = ab(tmp_path / "ab", "--runs", 3)
    assert done.returncode == statuses.INTERRUPTED
    assert "after 2 of 6 runs; to resume: drumfire ab --output " in done.stderr
    shown = here("show", tmp_path / "ab")
    assert shown.returncode == statuses.UNDECIDED
    assert "Session is : unfinished\n" in shown.stdout
    simulated.ends = {}
    assert ab(tmp_path / "ab", "--runs", 3).returncode in (statuses.UNMET, statuses.UNDECIDED)
    assert sides(simulated) == "ABBBAAB"
    assert sorted(path.name for path in (tmp_path / "ab").iterdir()) == [
        "A", "B", "ab.json", "interrupted", "session.jsonl",
    ]  # fmt: skip


def test_a_killed_one_waits_for_its_last_run_and_is_kept(simulated: Simulated, tmp_path: Path) -> None:
    """Without any run that ended, too: a resumed session is not this process's to remove."""
    simulated.ends = {1: (statuses.USAGE, "no")}
    assert ab(tmp_path / "ab", "--runs", 3).returncode == statuses.USAGE
    assert not (tmp_path / "ab").exists()
    simulated.ends = {2: (statuses.INTERRUPTED, "")}
    ab(tmp_path / "ab", "--runs", 3)
    (tmp_path / "ab" / "A").mkdir()
    (tmp_path / "ab" / "interrupted" / "A-1-1").rename(tmp_path / "ab" / "A" / "1")
    (tmp_path / "ab" / "interrupted").rmdir()
    journal = (tmp_path / "ab" / "session.jsonl").read_text()
    with held(tmp_path / "ab" / "A" / "1"):
        done = ab(tmp_path / "ab", "--runs", 3)
    assert (done.returncode, done.stderr.count("\n")) == (statuses.USAGE, 1)
    assert "a run of before is still writing" in done.stderr
    assert (tmp_path / "ab" / "session.jsonl").read_text() == journal
    assert ab(tmp_path / "ab", "--runs", 3).returncode in (statuses.UNMET, statuses.UNDECIDED)
    assert sides(simulated) == "AAABBAAB"


@pytest.mark.parametrize(
    ("reasons", "again"),
    [([], ""), (["Too few queries."], ""), (["The run was cut short: interrupted by SIGTERM."], "B")],
)
def test_a_run_that_outlived_its_session_is_done_if_it_came_to_its_own_end(
    reasons: list[str], again: str, simulated: Simulated, tmp_path: Path
) -> None:
    if reasons:
        simulated.changes = {"B/2": {"validity": "INVALID", "reasons": reasons}}
    simulated.ends = {4: (statuses.INTERRUPTED, "")}
    ab(tmp_path / "ab", "--runs", 3)
    journal = tmp_path / "ab" / "session.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert '"B/2"' in lines[-1]
    journal.write_text("".join(lines[:-1]))
    simulated.ends, simulated.changes = {}, {}
    assert ab(tmp_path / "ab", "--runs", 3).returncode in (statuses.UNMET, statuses.UNDECIDED)
    assert sides(simulated) == f"ABBA{again}AAB"


@pytest.mark.parametrize(
    ("words", "base", "says"),
    [
        (("--expect", "p99<=base+5%"), "A/1", "cannot be judged by 3 runs beside 1 of the base"),
        (("--expect", "rate>=base", "--single"), "A/1", "is Server, and what will be measured is Offline"),
        (("--expect", "p99<=base+5%"), "A", ""),
    ],
)
def test_a_base_that_cannot_be_judged_by_is_refused_before_the_first_run(
    words: tuple[str, ...], base: str, says: str, simulated: Simulated, tmp_path: Path
) -> None:
    ab(tmp_path / "base", "--runs", 3)
    simulated.lines.clear()
    sides_of = {"a": OFFLINE, "b": OFFLINE} if "Offline" in says else {}
    done = ab(tmp_path / "ab", "--runs", 3, *words, "--base", tmp_path / "base" / base, **sides_of)
    if says:
        one_line_error(done, says)
    assert len(simulated.lines) == (0 if says else 6)


@pytest.mark.slow
def test_a_run_ends_with_its_killed_session_and_what_is_missing_is_done(tmp_path: Path) -> None:
    words = ("ab", "--runs", 3, "--output", tmp_path / "ab", "--", *A[:-1], 1, "--", *A[:-1], 1)
    process = start(*words)
    first = tmp_path / "ab" / "A" / "1"
    try:
        until(lambda: (first / "columns").exists())
    finally:
        process.kill()
        process.communicate()
    until(lambda: not is_claimed(first))
    assert (tmp_path / "ab" / "session.jsonl").exists()
    again = program(*words)
    assert again.returncode in (0, 3, 4), again.stderr
    assert len(list((tmp_path / "ab").glob("[AB]/?/result.json"))) == 6


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((), "--runs 3 --output {}"),
        (("--output", "o"), "--runs 3 --output o"),
        (("--out=o",), "--runs 3 --out=o"),
        (("--figure", "p50", "--ou", "o"), "--runs 3 --figure p50 --ou o"),
    ],
)
def test_the_command_that_resumes_is_the_same_with_its_folder(
    given: tuple[str, ...], told: str, simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    simulated.ends = {1: (statuses.INTERRUPTED, "")}
    done = here("ab", "--runs", 3, *given, "--", *A, "--", *B)
    (folder,) = (path.parent for path in Path().rglob("session.jsonl"))
    sides_of = " ".join(map(str, ("--", *A, "--", *B)))
    assert done.stderr.endswith(f"; to resume: drumfire ab {told.format(folder)} {sides_of}\n")


def test_it_ends_early_where_a_side_cannot_be_compared(simulated: Simulated, tmp_path: Path) -> None:
    errors = {"failed": 900, "unanswered": 0, "refused": 0, "messages": {"broken": 900}}
    simulated.changes = {"A/1": {"errors": errors, "validity": "INVALID", "reasons": ["900 samples failed."]}}
    done = ab(tmp_path / "ab")
    assert sides(simulated) == "AB"
    assert done.returncode == statuses.INVALID
    assert "A is INVALID: not compared\n" in done.stdout
    assert "ended after 2 of 10 runs: no further one could change the verdict" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "-- WORDS-OF-A -- WORDS-OF-B must be given"),
        (("null", "digits"), "'null' must come after --: write -- WORDS-OF-A"),
        (("--", *A), "the words of two runs must be given"),
        (("--", *A, "--"), "the words of two runs must be given"),
        (("--", *A, "--", *A, "--", *A), "the words of two runs must be given"),
        (("--runs", 2, "--", *A, "--", *B), "--runs: must be at least 3"),
        (("--margin", "x", "--", *A, "--", *B), "--margin: 'x' is not a share"),
        (("--", *A, "--", "nul", "digits"), "B: BACKEND: unknown 'nul' (did you mean null?)"),
        (("--", *A, "--", *A, "--qsp", 3), "B: unknown option --qsp"),
        (("--", *A, "--output", "x", "--", *A), "A: --output is of all runs together: write it before the first --"),
        (("--", *A, "--", *A, "--json"), "B: --json is of all runs together"),
        (("--", *A, "--", *A, "--accuracy"), "B: --accuracy has no figures that are compared here"),
        (("--", *A, "--", "null", "digits"), "A is Server and B SingleStream, which have no figure in common"),
        (("--", "null", "digits", "--scenario", "Server", "--", *A), "A: --qps must be given"),
        (("--", "null", "--help", "--", *A), "A: --help and --print-config are for drumfire run"),
        (("--expect", "p98", "--", *A, "--", *B), "--expect"),
        (("--single", "--", *A, "--", *B), "--single has no effect, as each side has 3 runs or more"),
        (("--expect", "accuracy>9%", "--", *A, "--", *B), "a performance run has no accuracy"),
        (("--figure", "p99", "--", *OFFLINE, "--", *OFFLINE), "Offline has no p99"),
        (("--skip", "5s", "--", *A, "--", *B), "--skip 5 leaves nothing of A, which sends for 5 s: skip less"),
        (("--skip", "4s", "--", *A, "--", *A[:-1], 4), "--skip 4 leaves nothing of B"),
        (("--skip", "9s", "--", *A[:-2], "--count", 3000, "--", *A[:-1], 9), "--skip 9 leaves nothing of A"),
        (("--skip", "1s", "--", *OFFLINE, "--", *OFFLINE), "--skip has no meaning in Offline"),
        (("--", *A, "--", *A, "--single"), "B: --single has no effect"),
    ],
)
def test_wrong_words_are_refused_before_anything_runs(
    words: tuple[object, ...], says: str, simulated: Simulated, tmp_path: Path
) -> None:
    done = here("ab", "--output", tmp_path / "ab", *words)
    if says == "--expect":
        says = "'p98' is not an expectation"
    one_line_error(done, says.removeprefix("-- "))
    assert simulated.lines == []
    assert not (tmp_path / "ab").exists()


def test_a_dry_run_says_what_is_done_and_refuses_what_the_command_would(simulated: Simulated, tmp_path: Path) -> None:
    simulated.ends = {3: (statuses.INTERRUPTED, "")}
    ab(tmp_path / "ab", "--runs", 3)
    done = ab(tmp_path / "ab", "--runs", 3, "--dry-run")
    assert [line.partition(":")[0] for line in done.stdout.splitlines() if line.endswith(" (done)")] == ["A/1", "B/1"]
    assert len(done.stdout.splitlines()) == 7
    other = ab(tmp_path / "ab", "--runs", 3, "--dry-run", b=A)
    assert other.returncode == statuses.USAGE
    assert "is of another session (it differs in B)" in other.stderr
    (tmp_path / "full" / "x").mkdir(parents=True)
    assert "is not empty, it has x" in ab(tmp_path / "full", "--dry-run").stderr
    assert len(simulated.lines) == 3


@pytest.mark.parametrize("further", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("b", "says"),
    [
        (("null", "digit"), "B: model 'digit' is not known"),
        (("onnxruntime", "no.onnx"), "B: "),
        (("null", "digits", "gpu"), "B: null has no DEVICE"),
        (("tflite", "digits", "gpu"), "B: tflite runs on the cpu only"),
        (("triton", "digits", "gpu"), "B: triton has no DEVICE"),
        (("null", "digits", "--user-conf", "no.conf"), "B: "),
    ],
)
def test_a_side_that_could_not_be_loaded_is_refused_before_the_other_runs(
    b: tuple[object, ...], says: str, further: tuple[object, ...], simulated: Simulated, tmp_path: Path
) -> None:
    one_line_error(ab(tmp_path / "ab", *further, b=(*b, *A[2:])), says)
    assert simulated.lines == []
    assert not (tmp_path / "ab").exists()


def test_a_dry_run_only_shows_the_plan(simulated: Simulated, tmp_path: Path) -> None:
    done = ab(tmp_path / "ab", "--runs", 3, "--dry-run")
    assert done.stdout.splitlines()[:2] == [
        "6 runs, A B B A A B, about 0:48",
        "A/1: drumfire run null digits --scenario Server --qps 1500 --time 5",
    ]
    assert simulated.lines == []
    assert not (tmp_path / "ab").exists()
