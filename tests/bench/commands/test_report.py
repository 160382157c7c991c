"""``drumfire report``: its forms and files, runs that it refuses, and ``--report`` of a run."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.command import here, one_line_error
from tests.support.made_run import OLD, made, queued


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("report") / "run", queued(3000))


@pytest.mark.parametrize("old", sorted(path.name for path in OLD.iterdir()))
def test_runs_of_older_versions_have_a_report(old: str) -> None:
    done = here("report", OLD / old)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("null ")
    assert "\nOver time\n---------\n" in done.stdout


@pytest.mark.parametrize(
    ("name", "form", "begin"),
    [
        ("page.html", None, "<!DOCTYPE html>"),
        ("page.HTM", None, "<!DOCTYPE html>"),
        ("page.md", None, "# null Server"),
        ("page.json", None, '{"title": "null Server'),
        ("page.txt", None, "null Server"),
        ("page", None, "null Server"),
        ("page.pdf", "markdown", "# null Server"),
    ],
)
def test_the_form_follows_from_the_file(folder: Path, tmp_path: Path, name: str, form: str | None, begin: str) -> None:
    words = ["--format", form] if form else []
    done = here("report", folder, "--output", tmp_path / name, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / name}\n", "")
    assert (tmp_path / name).read_text().startswith(begin)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("form", ["html", "markdown", "text", "json"])
def test_without_a_file_it_is_printed(folder: Path, tmp_path: Path, form: str) -> None:
    here("report", folder, "--output", tmp_path / "file", "--format", form)
    assert here("report", folder, "--format", form).stdout == (tmp_path / "file").read_text()


def test_its_json_has_the_numbers_that_are_drawn(folder: Path) -> None:
    found = json.loads(here("report", folder, folder, "--format", "json").stdout)
    charts = {block["name"]: block for one in found["sections"] for block in one["blocks"] if "name" in block}
    assert [line["name"] for line in charts["latency-p99"]["lines"]] == ["run (1)", "run (2)"]
    assert len(charts["latency-p99"]["lines"][0]["y"]) == 15
    assert charts["heat-1"]["heat"]["high"] > charts["heat-1"]["heat"]["low"]


def test_it_takes_what_compare_takes(folder: Path, tmp_path: Path) -> None:
    made(tmp_path / "two" / "a", queued(1500))
    made(tmp_path / "two" / "b", queued(1500))
    assert here("report", f"{tmp_path / 'two' / 'a'},{folder}").stdout.startswith("2 runs: a, run")
    assert here("report", tmp_path / "two").stdout.startswith("2 runs: a, b")
    one_line_error(here("report", folder / "result.json"), "is only a result")


def test_what_is_no_run_is_a_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one_line_error(here("report", tmp_path / "none"), "none is no folder")
    one_line_error(here("report", folder, tmp_path / "empty"), "empty is not the folder of a run")
    one_line_error(here("report"), "RUN must be given")
    for text in ('{"a": 1}', "[]", '{"validity": NaN}', "x"):
        other = tmp_path / "other"
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(folder, other)
        (other / "result.json").write_text(text)
        one_line_error(here("report", other), "result.json")
    shutil.copytree(folder, tmp_path / "audit")
    outcome = {"test": "TEST04", "passed": True, "interrupted": False, "checks": [], "runs": {}}
    (tmp_path / "audit" / "audit.json").write_text(json.dumps(outcome))
    one_line_error(here("report", tmp_path / "audit"), "name one of its runs, such as", "performance/run_1")


def test_where_it_cannot_be_written_is_a_line(folder: Path, tmp_path: Path) -> None:
    one_line_error(here("report", folder, "--output", tmp_path / "none" / "page.html"), "there is no folder")
    one_line_error(here("report", folder, "--output", tmp_path), "is a folder")
    one_line_error(here("report", folder, "--output", tmp_path / "x.pdf"), "does not say by its end what to write")
    one_line_error(
        here("report", folder, "--output", tmp_path / "x.html", "--format", "markdown"), "ends as html does", "change"
    )
    one_line_error(here("report", folder, "--output", "/dev/null"), "is no file")


def test_a_run_leaves_its_page(tmp_path: Path) -> None:
    words = ["--scenario", "Server", "--qps", "1500", "--time", "0.4", "--no-dashboard", "--output", tmp_path / "run"]
    done = here("run", "null", "digits", *words, "--report")
    assert done.returncode in (0, 1), done.stderr
    page = tmp_path / "run" / "report.html"
    assert done.stdout.split()[-5:] == ["saved", "in", str(tmp_path / "run"), "page", str(page)]
    html = page.read_text()
    verdict = "VALID" if done.returncode == 0 else "INVALID"
    assert f"Result is {verdict}" in html
    assert "Over time" in html
    again = tmp_path / "again.html"
    here("report", tmp_path / "run", "--output", again)
    assert again.read_text() == html
    assert here("clean", tmp_path, "--keep", 0, "--yes").returncode == 0
    assert not (tmp_path / "run").exists()


def test_what_is_expected_is_judged(folder: Path, tmp_path: Path) -> None:
    base = made(tmp_path / "base", queued(3000, service_ns=250_000))
    wanted = ["p99<1s", "p50<1ns", "p99<=base+1%"]
    words = [*(word for text in wanted for word in ("--expect", text)), "--single"]
    junit = tmp_path / "junit.xml"
    for form in ("text", "markdown", "html", "json"):
        done = here("report", folder, *words, "--base", base, "--junit", junit, "--format", form)
        assert done.returncode == 3, done.stderr
        said = " ".join(html.unescape(done.stdout).replace("\\", "").split())
        assert said.index("expected p50<1ns: not met") < said.index("Expectations") or form != "text"
        assert "p99<1s" in said
        assert "(about" in said
        assert "the base has" in said
    cases = ElementTree.parse(junit).getroot().findall("*/testcase")
    assert [case.get("name") for case in cases] == ["is VALID", *wanted]
    assert here("report", folder, "--expect", "p99<1s").returncode == 0
    assert here("report", folder, "--expect", "p99<=base+400%", "--base", folder).returncode == 4
    assert here("report", folder, "--expect", "p99<=base+400%", "--base", folder, "--single").returncode == 0
    both = here("report", folder, base, "--expect", "p50<1ns", "--junit", junit)
    assert both.returncode == 3
    assert "run: expected p50<1ns" in both.stdout
    names = [case.get("name") for case in ElementTree.parse(junit).getroot().findall("*/testcase")]
    assert names == ["run: is VALID", "run: p50<1ns", "base: is VALID", "base: p50<1ns"]


def test_what_a_run_expected_stands_in_its_report(tmp_path: Path) -> None:
    found = {"verdict": "not met", "value": 7e6, "interval": [6e6, None], "why": ""}
    one = {"text": "p99<5ms", "figure": "p99", "unit": "ns", **found}
    folder = made(tmp_path / "run", queued(3000), result={"expectations": [one]})
    shown = here("report", folder).stdout
    assert "p99<5ms   not met, 7.00 ms (about 6.00 ms ... open)" in shown


def test_what_cannot_be_expected_is_a_line(folder: Path, tmp_path: Path) -> None:
    one_line_error(here("report", folder, "--expect", "p99<50"), "p99 is a time with its unit")
    one_line_error(here("report", folder, "--expect", "p99<=base"), "add --base RUN")
    one_line_error(
        here("report", folder, "--expect", "p99<=base", "--base", tmp_path / "no"), "is no folder, and no run"
    )
    unfinished = tmp_path / "half"
    shutil.copytree(folder, unfinished)
    (unfinished / "result.json").unlink()
    one_line_error(here("report", unfinished, "--expect", "p99<1s"), "half")


def test_show_names_the_page_as_the_run_did(tmp_path: Path) -> None:
    words = ("run", "null", "digits", "--count", 60, "--time", 0.01, "--report", "--output", tmp_path / "run")
    done = here(*words, "--no-dashboard")
    assert done.stdout.split()[-2:] == ["page", str(tmp_path / "run" / "report.html")]
    assert here("show", tmp_path / "run").stdout == done.stdout
    here("report", tmp_path / "run", "--output", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "run" / "report.html").read_bytes()
