"""``drumfire compare`` with saved runs: its screen, its statuses, what a side may be, and what is no run."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import drumfire
from drumfire.bench.compare.sides import opened
from tests.support.command import here, one_line_error

RUN = ("run", "null", "digits", "--scenario", "Server", "--qps", 4000, "--time", 0.5, "--no-dashboard")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``a`` and ``b`` are alike, and C's answers came 10 ms later than B's."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        done = here(*RUN, "--output", folder / name)
        assert done.returncode in (0, 1), done.stderr
        # This machine may have been too busy to send in time, which would forbid a verdict.
        changed(folder / name, lambda result: result.pop("lateness_ns", None))
    shutil.copytree(folder / "b", folder / "c")
    completed = np.load(folder / "c" / "columns" / "completed.npy") + 10_000_000
    np.save(folder / "c" / "columns" / "completed.npy", completed)
    scheduled = np.load(folder / "c" / "columns" / "scheduled.npy")
    latencies = np.sort(completed - scheduled)

    def later(result: dict[str, Any]) -> None:
        figures = result["latency_ns"]
        figures["mean"] += 10_000_000
        for name, p in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)):
            figures[name] = int(latencies[int(latencies.size * p)])

    changed(folder / "c", later)
    return folder


def changed(folder: Path, change: Any) -> None:
    result = json.loads((folder / "result.json").read_text())
    change(result)
    (folder / "result.json").write_text(json.dumps(result))


def as_valid(folder: Path, started: str) -> None:
    """This machine may have been too busy for a VALID run."""
    changed(folder, lambda result: result.update(validity="VALID", reasons=[], started=started))


def test_the_screen_has_the_verdict_first_and_fits(runs: Path) -> None:
    done = here("compare", runs / "b", runs / "c", "--single", "--figure", "p50")
    assert done.stderr == ""
    assert done.returncode == 3, done.stdout
    first, *rest = done.stdout.splitlines()
    assert first.startswith("B is slower: p50 +")
    assert [line.split()[0] for line in rest if line.startswith(("rate", "mean", "p"))] == [
        "rate", "mean", "p50", "p90", "p99", "p99.9",
    ]  # fmt: skip
    assert all(len(line) <= 80 or str(runs) in line for line in rest)
    assert str(runs / "c") in done.stdout


def test_its_json_has_what_the_interface_has(runs: Path) -> None:
    done = here("compare", runs / "b", runs / "c", runs / "b", "--single", "--figure", "p50", "--json")
    first, second = json.loads(done.stdout)["comparisons"]
    found = drumfire.compare([[drumfire.load(runs / "b")], [drumfire.load(runs / "c")]], single=True, figure="p50")
    assert first == found.document() | {"expectations": []}
    assert done.returncode == first["verdict"]["status"] == 3
    assert second["sides"] == {"A": [str(runs / "b")], "C": [str(runs / "b")]}
    (p50,) = (row for row in second["figures"] if row["name"] == "p50")
    assert p50["ratio"] == 1
    assert p50["a"] == drumfire.load(runs / "b").result["latency_ns"]["p50"]


def test_expectations_are_judged_beside_a(runs: Path, tmp_path: Path) -> None:
    xml = tmp_path / "x.xml"
    expected = ("--expect", "p50<=base+1%", "--expect", "p50<60s", "--junit", xml)
    done = here("compare", runs / "b", runs / "c", "--figure", "p50", "--single", *expected)
    assert done.returncode == 3
    assert "p50<=base+1%: not met, 1" in done.stdout
    assert "p50<60s: met, 1" in done.stdout
    suite = ET.parse(xml).getroot().find("testsuite")
    assert suite is not None
    names = [case.get("name") for case in suite.iter("testcase")]
    assert names == ["B beside A: p50", "B: p50<=base+1%", "B: p50<60s"]
    assert suite.get("failures") == "2"
    unasked = here("compare", runs / "b", runs / "c", "--figure", "p50", *expected)
    assert unasked.returncode == 4
    suite = ET.parse(xml).getroot().find("testsuite")
    assert suite is not None
    assert suite.get("skipped") == "2"  # one run a side is not judged unasked
    assert unasked.stdout.count("needs 3 runs a side") == 2


def test_a_side_is_a_run_several_or_a_folder_of_them(runs: Path, tmp_path: Path) -> None:
    assert [run.result for run in opened(str(runs / "a"))] == [drumfire.load(runs / "a").result]
    assert [run.folder for run in opened(f"{runs / 'c'},{runs / 'a'}")] == [runs / "c", runs / "a"]
    assert [run.folder.name for run in opened(str(runs))] == ["a", "b", "c"]
    odd = tmp_path / "x,y"
    shutil.copytree(runs / "a", odd)
    assert len(opened(str(odd))) == 1
    for number in range(8):
        folder = tmp_path / ("AB"[number % 4 in (1, 2)]) / f"{number}"
        shutil.copytree(runs / ("b" if folder.parent.name == "A" else "c"), folder)
        as_valid(folder, f"2026-01-01T00:00:0{number}+00:00")
    done = here("compare", tmp_path / "A", tmp_path / "B", "--figure", "p50")
    assert done.returncode == 3, done.stdout
    assert done.stdout.startswith("B is slower: p50 +")
    assert "4 neighbours" in " ".join(done.stdout.split())


def test_result_files_serve_for_what_they_hold(runs: Path, tmp_path: Path) -> None:
    for number in range(6):
        whole = json.loads((runs / ("b" if number < 3 else "c") / "result.json").read_text())
        started = f"2026-01-01T00:00:0{number}+00:00"
        (tmp_path / f"{number}.json").write_text(json.dumps(whole | {"started": started}))
    one = here("compare", tmp_path / "0.json", tmp_path / "3.json", "--single", "--figure", "p50")
    assert one.returncode == 4, one.stdout
    assert "a side has no columns, so that a single run of it has no interval" in " ".join(one.stdout.split())
    sides = [",".join(str(tmp_path / f"{n}.json") for n in numbers) for numbers in ((0, 1, 2), (3, 4, 5))]
    several = here("compare", *sides, "--figure", "p50")
    assert several.stdout.startswith(("B is slower: p50 +", "A is INVALID", "B: ")), several.stdout


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{}", "validity"),
        ("[1]", "does not hold what a run saves"),
        ("no json", "is not JSON"),
        ('{"validity": "VALID"}', "scenario"),
        ('{"validity": "VALID", "scenario": "Server"}', "no latencies"),
        ('{"validity": "VALID", "scenario": "Server", "latency_ns": {"p99": NaN}}', "is not JSON"),
        ('{"validity": "VALID", "scenario": "Server", "latency_ns": 7}', "does not hold what a run saves"),
    ],
)
def test_other_programs_files(runs: Path, tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    one_line_error(here("compare", runs / "a", path), word)


def test_what_is_no_run(runs: Path, tmp_path: Path) -> None:
    one_line_error(here("compare", runs / "a"), "needs another run")
    one_line_error(here("compare", runs / "a", tmp_path / "nowhere"), "nowhere is no folder, and no run in runs")
    one_line_error(here("compare", runs / "a", tmp_path), "holds none")
    one_line_error(here("compare", runs / "a", ","), "names no run")
    half = tmp_path / "half"
    shutil.copytree(runs / "a", half)
    (half / "result.json").unlink()
    one_line_error(here("compare", runs / "a", half), "unfinished")
    one_line_error(here("compare", runs / "a", runs / "b", "--margin", "150%"), "not a share below 100 %")
    one_line_error(here("compare", runs / "a", runs / "b", "--skip", "5"), "as 5s or 500ms")
    one_line_error(here("compare", runs / "a", runs / "b", "--skip", "100s"), "leaves nothing")
    one_line_error(here("compare", runs / "a", runs / "b", "--figure", "p9999"), "not a figure")
    one_line_error(here("compare", runs / "a", runs / "b", "--base", runs / "a"), "--expect")


def test_a_result_that_lacks_anything_is_compared_or_refused_in_a_line(runs: Path, tmp_path: Path) -> None:
    """As old versions left it, or damage."""
    whole = json.loads((runs / "b" / "result.json").read_text())
    path, a = tmp_path / "b.json", runs / "a" / "result.json"
    for name, value in whole.items():
        inner = value if isinstance(value, dict) else {}
        for lacking in [{k: v for k, v in whole.items() if k != name}] + [
            whole | {name: {k: v for k, v in inner.items() if k != part}} for part in inner
        ]:
            path.write_text(json.dumps(lacking))
            done = here("compare", a, path, "--single", "--expect", "batch.mean>0", "--expect", "errors<1%")
            assert done.returncode in (0, 1, 2, 3, 4), (name, done.stderr)
            assert done.returncode != 2 or len(done.stderr.splitlines()) == 1


def test_its_page_is_of_folders(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "x.html"
    one_line_error(here("compare", runs / "a", runs / "b" / "result.json", "--html", page), "needs the folders")
    one_line_error(here("compare", runs / "a", runs / "b", "--html", tmp_path / "no" / "x.html"), "no folder")
    assert not page.exists()


def test_its_page_has_the_verdict(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "x.html"
    sides = (runs / "b", runs / "c", runs / "a")
    done = here("compare", *sides, "--single", "--figure", "p50", "--html", page, "--expect", "p50<1ns")
    assert done.returncode == 3, done.stderr
    html = page.read_text()
    assert html.index("B is slower: p50") < html.index("C/A")
    assert "B: expected p50&lt;1ns: not met" in html


def test_what_a_run_wrote_is_not_written_over(runs: Path, tmp_path: Path) -> None:
    names = ("result.json", "settings.json", "columns/completed.npy", "report.txt", "mlperf_log_summary.txt")
    before = {name: (runs / "b" / name).read_bytes() for name in names}
    for name in names:
        for flag in ("--html", "--junit"):
            done = here("compare", runs / "a", runs / "b", flag, runs / "b" / name)
            one_line_error(done, f"{flag} {runs / 'b' / name} is a file of a run")
        one_line_error(here("report", runs / "b", "--output", runs / "b" / name, "--format", "json"), "a file of a run"
                       if name.endswith((".json", ".npy")) else "change one of them")  # fmt: skip
    copy = tmp_path / "x.json"
    shutil.copy(runs / "a" / "result.json", copy)
    one_line_error(here("compare", copy, runs / "b", "--junit", copy), "is a file of a run")
    one_line_error(here("compare", runs / "a", runs / "b", "--html", tmp_path), "is a folder: name a file")
    one_line_error(here("compare", runs / "a", runs / "b", "--junit", tmp_path), "is a folder: name a file")
    one_line_error(
        here("compare", runs / "a", runs / "b", "--junit", tmp_path / "x", "--html", tmp_path / "x"), "name the same"
    )
    assert before == {name: (runs / "b" / name).read_bytes() for name in names}
    assert here("compare", runs / "a", runs / "b", "--html", runs / "b" / "page.html").returncode == 4
    (runs / "b" / "page.html").unlink()


def test_the_same_run_counts_once(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(runs / "a")
    shutil.copytree(runs / "a", tmp_path / "copy")
    again = [runs / "a", tmp_path / "link", tmp_path / "copy", runs / "a" / "result.json"]
    done = here("compare", ",".join(map(str, again)), runs / "b")
    assert "A names a run more than once, which counts once: 1 run of 4" in " ".join(done.stdout.split())
    assert "needs 3 runs a side" in done.stdout
    done = here("compare", ",".join(map(str, again[:3])), runs / "b", "--html", tmp_path / "x.html")
    assert done.returncode == 4, done.stderr


def test_the_side_is_named_where_it_is_no_run(runs: Path, tmp_path: Path) -> None:
    one_line_error(here("compare", runs / "a", tmp_path), "B: ", "deeper folders are not looked at")


def test_an_invalid_side_has_no_table(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "b", tmp_path / "b")
    changed(tmp_path / "b", lambda result: result.update(
        validity="INVALID", reasons=["gone"], started=None, errors={"failed": 0, "unanswered": 9}))  # fmt: skip
    done = here("compare", runs / "a", tmp_path / "b")
    assert done.returncode == 1
    assert done.stdout.startswith("B is INVALID: not compared\n  - B is INVALID: gone\n")
    assert "figure" not in done.stdout
    assert json.loads(here("compare", runs / "a", tmp_path / "b", "--json").stdout)["comparisons"][0]["verdict"] == {
        "words": "B is INVALID: not compared", "status": 1, "word": "not compared", "runs": None,
    }  # fmt: skip


def test_a_column_that_is_missing_is_told(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(runs / "b", folder)
    (folder / "columns" / "completed.npy").unlink()
    one_line_error(here("compare", runs / "a", folder, "--single"), "lacks completed.npy")
    shutil.rmtree(folder / "columns")
    done = here("compare", runs / "a", folder, "--single")
    assert done.returncode == 4
    assert "no columns" in done.stdout
