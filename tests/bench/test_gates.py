"""Expectations: what can be written, how each is judged, and how a run keeps and shows them."""

from __future__ import annotations

import contextlib
import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.bench import gates
from drumfire.bench.gates import judge, parse
from drumfire.bench.report import junit
from drumfire.bench.report.expectations import line, rows
from drumfire.loadgen.errors import UserError
from tests.support.command import SCHEMA, here, one_line_error
from tests.support.compared_runs import MACHINE, SYSTEM, at, ends, made


@pytest.mark.parametrize(
    ("text", "figure", "op", "limit"),
    [
        ("p99<50ms", "p99", "<", 50e6),
        ("p(99)<=50ms", "p99", "<=", 50e6),
        (" p99.9 <= 1.5 s ", "p99.9", "<=", 1.5e9),
        ("p50<20us", "p50", "<", 20e3),
        ("p50<20\u00b5s", "p50", "<", 20e3),
        ("mean<3e3ns", "mean", "<", 3e3),
        ("rate>=1900/s", "rate", ">=", 1900),
        ("errors<=0.1%", "errors", "<=", 0.001),
        ("errors<0.001", "errors", "<", 0.001),
        ("accuracy>=97%", "accuracy", ">=", 0.97),
        ("lateness.p99<1ms", "lateness.p99", "<", 1e6),
        ("queue.p50<1ms", "queue.p50", "<", 1e6),
        ("batch.mean>4", "batch.mean", ">", 4),
        ("max<1s", "max", "<", 1e9),
    ],
)
def test_bounds_of_their_own(text: str, figure: str, op: str, limit: float) -> None:
    found = parse(text)
    assert (found.text, found.figure, found.op, found.is_relative) == (text, figure, op, False)
    assert found.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("bound", "factor"), [("base", 1), ("base+5%", 1.05), ("base - 10 %", 0.9), ("base+0.5%", 1.005)]
)
def test_bounds_against_a_base(bound: str, factor: float) -> None:
    found = parse(f"p99<={bound}")
    assert found.is_relative
    assert found.limit == pytest.approx(factor)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("p99<50", "a time with its unit"),
        ("p99<50 parsec", "a time with its unit"),
        ("p99<50%", "a time with its unit"),
        ("rate>1900", "a rate, as 1900/s"),
        ("rate>1ms", "a rate, as 1900/s"),
        ("errors<5", "a share, as 0.1%"),
        ("batch.mean>4ms", "a number without a unit"),
        ("p99", "is not an expectation"),
        ("p99==5ms", "is not an expectation"),
        ("p99<5ms<6ms", "is not an expectation"),
        ("<5ms", "is not an expectation"),
        ("", "is not an expectation"),
        ("p99<", "is not a bound"),
        ("p99<fast", "is not a bound"),
        ("p99<-5ms", "is not a bound"),
        ("p99<nan", "is not a bound"),
        ("p99<1e999ms", "is not a bound"),
        ("p99<=base+5", "is not a bound"),
        ("p99<=base-100%", "leaves nothing"),
        ("p100<5ms", "not a figure"),
        ("p0<5ms", "not a figure"),
        ("lateness<5ms", "not a figure"),
        ("lateness.p95<5ms", "not a figure"),
        ("lateness.mean<5ms", "not a figure"),
    ],
)
def test_what_is_no_expectation(text: str, word: str) -> None:
    with pytest.raises(UserError, match=word.replace("(", r"\(")) as raised:
        parse(text)
    assert "\n" not in str(raised.value)


def test_a_slip_gets_the_nearest_figure() -> None:
    with pytest.raises(UserError, match=r"did you mean accuracy\?"):
        parse("acuracy>90%")


@given(st.text(max_size=40) | st.from_regex(r"[a-z.0-9()]{0,8}[<>=]{0,2}[a-z0-9.+%/ -]{0,12}", fullmatch=True))
def test_any_text_is_an_expectation_or_a_line(text: str) -> None:
    with contextlib.suppress(UserError):
        found = parse(text)
        assert math.isfinite(found.limit)
        assert found.limit >= 0


RESULT: dict[str, Any] = {
    "errors": {"failed": 40, "unanswered": 0},
    "lateness_ns": {"p50": 10, "p99": 2000, "max": 5000},
    "system": SYSTEM | {"batch_sizes": {"1": 10, "4": 30}, "queue_ns": {"p50": 7, "p99": 9}},
    "accuracy": {"value": 0.98},
}


@pytest.mark.parametrize(
    ("text", "value", "verdict"),
    [
        ("errors<0.1%", 40 / 20_040, "not met"),
        ("errors<1%", 40 / 20_040, "met"),
        ("lateness.p99<=2us", 2000, "met"),
        ("lateness.max<5us", 5000, "not met"),
        ("queue.p99<1us", 9, "met"),
        ("service.p50<1us", None, "cannot tell"),
        ("batch.mean>3", 3.25, "met"),
        ("accuracy>98%", 0.98, "not met"),
        ("accuracy>=98%", 0.98, "met"),
        ("rate>=499/s", 500.0, "met"),
    ],
)
def test_exact_figures(text: str, value: float | None, verdict: str) -> None:
    found = judge(parse(text), [made(1, **RESULT)])
    assert (found.verdict, found.value) == (verdict, None if value is None else pytest.approx(value))


def test_a_bound_is_judged_by_the_figure_and_not_by_its_interval() -> None:
    run = made(1)
    exact = judge(parse("p99<1s"), [run])
    low, high = ends(exact.interval)
    assert exact.value is not None
    assert low < exact.value < high
    assert judge(parse(f"p99<={exact.value:.0f}ns"), [run]).met is True
    assert judge(parse(f"p99<{exact.value:.0f}ns"), [run]).met is False


@pytest.mark.parametrize(
    ("text", "factor", "verdict"),
    [
        ("p99<=base+10%", 1.0, "met"),
        ("p99<=base+10%", 1.3, "not met"),
        ("p99<=base+10%", 1.1, "cannot tell"),
        ("p99>=base+10%", 1.3, "met"),
        ("p50<base", 0.9, "met"),
        ("mean<base-20%", 0.7, "met"),
    ],
)
def test_a_bound_against_a_base_is_judged_by_the_interval(text: str, factor: float, verdict: str) -> None:
    found = judge(parse(text), [made(2, factor)], [made(1)], single=True)
    assert found.verdict == verdict
    assert found.why.startswith("the base has ")
    unasked = judge(parse(text), [made(2, factor)], [made(1)])
    assert unasked.met is None
    assert "needs 3 runs a side or more" in unasked.why
    assert unasked.interval == found.interval


def test_several_runs_are_judged_by_their_spread() -> None:
    base = [made(n, 1 + 0.01 * (n % 2), started=at(2 * n)) for n in range(4)]
    runs = [made(10 + n, 1.3 + 0.01 * (n % 2), started=at(2 * n + 1)) for n in range(4)]
    assert judge(parse("p99<=base+10%"), runs, base).met is False
    assert judge(parse("p99<=base+50%"), runs, base).met is True
    assert judge(parse("p99<=base+50%"), runs[:1], base).met is None
    assert judge(parse("p99<=base+50%"), runs[:1], base, single=True).met is True
    assert judge(parse("p99<=base+50%"), runs, [replace(base[0]), *base[:1] * 3]).met is None  # one run four times
    found = judge(parse("p50<2ms"), runs)
    low, high = ends(found.interval)
    assert found.value is not None
    assert low < found.value < high < 1.03 * low


def test_what_has_no_base_cannot_be_told() -> None:
    assert judge(parse("p99<=base"), [made(1)]).why == "there is no base"
    other = replace(made(1), result=made(1).result | {"scenario": "SingleStream"})
    assert "no figure in common" in judge(parse("p99<=base"), [made(1)], [other]).why
    broken = made(1, validity="INVALID", errors={"unanswered": 1}, reasons=["gone"])
    found = judge(parse("p99<=base+900%"), [made(1)], [broken])
    assert found.met is None
    assert "the base is INVALID: not compared" in found.why
    errors = judge(parse("errors<=base"), [made(1)], [made(2)])
    assert (errors.met, errors.why) == (True, "the base has 0%, no interval for this figure")
    assert judge(parse("accuracy>=base"), [made(1, **RESULT)], [made(2)]).why == "the base has no accuracy"


def test_statuses() -> None:
    met, unmet, unknown = ({"verdict": one} for one in ("met", "not met", "cannot tell"))
    assert gates.status([]) == gates.status([met]) == 0
    assert gates.status([met, unknown]) == 4
    assert gates.status([unknown, unmet, met]) == 3


def test_a_run_keeps_shows_and_is_judged_by_what_is_expected(tmp_path: Path) -> None:
    words = ("run", "null", "digits", "--scenario", "Server", "--qps", 2000, "--time", 0.6, "--no-dashboard")
    first = here(*words, "--output", tmp_path / "a", "--expect", "p50<10s", "--expect", "errors<=0%")
    assert first.returncode == 0, first.stdout + first.stderr
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    jsonschema.validate(result, SCHEMA)
    assert [one["verdict"] for one in result["expectations"]] == ["met", "met"]
    p50 = result["expectations"][0]
    assert p50["value"] == result["latency_ns"]["p50"]
    assert f"expected     {line(p50)}"[:60] in first.stdout
    assert (tmp_path / "a" / "report.txt").read_text() in here("show", tmp_path / "a").stdout

    xml = tmp_path / "b.xml"
    options = (
        "--expect",
        "p50<1ns",
        "--expect",
        "p50<base+100000%",
        "--base",
        tmp_path / "a",
        "--single",
        "--junit",
        xml,
    )
    second = here(*words, "--output", tmp_path / "b", *options)
    assert second.returncode == 3, second.stdout + second.stderr
    suite = ET.parse(xml).getroot().find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("name", "tests", "failures", "errors")} == {
        "name": "drumfire.Server.digits",
        "tests": "3",
        "failures": "1",
        "errors": "0",
    }
    names = [case.get("name") for case in suite.iter("testcase")]
    assert names == ["is VALID", "p50<1ns", "p50<base+100000%"]
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert str(failure.get("message")).startswith("p50<1ns: not met, ")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--expect", "p99<50"), "a time with its unit"),
        (("--expect", "p99<=base"), "--base RUN"),
        (("--base", "x"), "without --expect"),
        (("--expect", "p99<5ms", "--base", "x"), "no --expect names base"),
        (("--expect", "p99<=base", "--base", "nowhere"), "nowhere is no folder"),
        (("--junit", "nowhere/x.xml"), "no folder"),
        (("--junit", "."), "is a folder: name a file"),
        (("--single",), "no --expect names base"),
        (("--scenario", "Offline", "--expect", "p99<5ms"), "Offline has no p99"),
        (("--expect", "accuracy>=90%"), "a performance run has no accuracy"),
        (("--accuracy", "--expect", "p99<5ms"), "an accuracy run has accuracy and errors alone"),
        (("--output", "new", "--junit", "new/result.json"), "no folder"),
    ],
)
def test_nothing_is_measured_in_vain(
    options: tuple[str, ...], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one_line_error(here("run", "null", "digits", "--time", 0.1, "--no-dashboard", *options), word)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("runs", "bases", "expect", "word"),
    [
        (1, 1, "p99<=base+5%", "cannot be judged by 1 run beside 1 of the base: needs 3 runs a side"),
        (1, 5, "p99<=base+5%", "cannot be judged by 1 run beside 5 of the base"),
        (5, 2, "rate>=base", "cannot be judged by 5 runs beside 2 of the base"),
        (3, 3, "p99<=base+5%", ""),
        (1, 1, "queue.p99<=base", ""),  # judged by its value
        (None, 1, "p99<=base+5%", ""),  # nothing will be measured
    ],
)
def test_too_few_runs_beside_the_base_are_refused_before_the_first(
    runs: int | None, bases: int, expect: str, word: str, tmp_path: Path
) -> None:
    for number in range(bases):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "result.json").write_text(
            json.dumps({"scenario": "Server", "validity": "VALID", "started": at(number)})
        )
    wanted = gates.ExpectOptions(expect=(expect,), base=tmp_path)
    gates.check(replace(wanted, single=True), scenario="Server", runs=runs)
    with pytest.raises(UserError, match=word) if word else contextlib.nullcontext():
        gates.check(wanted, scenario="Server", runs=runs)
    if runs is not None:
        with pytest.raises(UserError, match="is Server, and what will be measured is Offline"):
            gates.check(gates.ExpectOptions(("rate>=base",), tmp_path, single=True), scenario="Offline", runs=runs)


def test_what_makes_a_bound_doubtful_is_in_its_test_case(tmp_path: Path) -> None:
    options = gates.ExpectOptions(expect=("p99<=base+50%", "p99<1s"), single=True)
    judged = gates.judge_all(options, [made(2, system=SYSTEM | {"threads": 4})], [made(1)])
    junit.write_run(tmp_path / "x.xml", made(2).result | {"expectations": judged})
    texts = {case.get("name"): case.findtext("system-out") for case in ET.parse(tmp_path / "x.xml").iter("testcase")}
    assert "settings differ: threads 1 / 4" in str(texts["p99<=base+50%"]).splitlines()
    assert "settings differ" not in str(texts["p99<1s"])


def test_what_differs_from_the_base_is_said_once() -> None:
    options = gates.ExpectOptions(expect=("p99<=base+10%", "mean<=base+10%", "p99<1s"), single=True)
    judged = gates.judge_all(options, [made(2, system=SYSTEM | {"threads": 4})], [made(1)])
    texts = [text for _, text in rows({"expectations": judged})]
    assert len(texts) == 4
    assert texts[-1] == "settings differ: threads 1 / 4"
    assert not any("threads" in text for text in texts[:-1])
    assert len(list(rows({"expectations": judged, "doubts": texts[-1:]}))) == 3  # a comparison has said it


def test_what_leaves_a_comparison_open_leaves_a_bound_open() -> None:
    other = made(2, 3.0, environment=MACHINE | {"cpu": "Y", "python": "3.12"})
    found = judge(parse("p99<=base"), [other], [made(1)], single=True)
    assert found.met is None
    assert "machines and versions differ, so the cause is open" in found.why
    late = {"lateness_ns": {"p50": 10, "p99": 800_000}, "latency_ns": {"count": 1, "p50": 1_000_000}}
    found = judge(parse("p99<=base"), [made(2, 1.2, **late)], [made(1)], single=True)
    assert "the difference is less than how late the queries were sent" in found.why
    few = judge(parse("p99.9<=base"), [made(2, 1.5, queries=2000)], [made(1, queries=2000)], single=True)
    assert "p99.9 is at most +55 %, open: too few slow queries" in few.why


def test_an_audit_has_its_own_rules(tmp_path: Path) -> None:
    done = here("audit", "TEST04", "null", "digits", "--output", tmp_path / "x", "--expect", "p99<5ms")
    one_line_error(done, "--expect cannot be used in an audit")


def test_junit_holds_any_text(tmp_path: Path) -> None:
    cases = [
        junit.JUnitCase('p99<"\x00\x1b&', "a\x07 <b>\ud800", failure="x\x00<"),
        junit.JUnitCase("y", "", skipped="\x0b"),
    ]
    path = tmp_path / "x.xml"
    junit.write(path, cases, {"scenario": "Server", "sut_name": "<script>", "started": at(3)}, 1.5)
    suite = ET.parse(path).getroot().find("testsuite")
    assert suite is not None
    assert suite.get("name") == "drumfire.Server.<script>"
    assert suite.get("timestamp") == "2026-01-01T00:00:03"
    assert [suite.get(name) for name in ("tests", "failures", "skipped", "time")] == ["2", "1", "1", "1.500"]


def test_junit_tells_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    with pytest.raises(ZeroDivisionError), junit.crash_reported(path, "Server", "digits"):
        _ = 1 / 0
    error = ET.parse(path).getroot().find("testsuite/testcase/error")
    assert error is not None
    assert error.get("message") == "ZeroDivisionError: division by zero"
