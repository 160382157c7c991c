"""``drumfire history`` and its ``prune``: what they find, and that nothing else is ever removed."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drumfire.bench.cli import main
from drumfire.bench.history import Found
from drumfire.bench.peak.journal import Journal
from drumfire.bench.report.listing import line
from tests.support.command import here, one_line_error

LARGE = {"columns", "histograms", "mlperf_log_accuracy.json", "mlperf_log_detail.txt"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as the command leaves it."""
    folder = tmp_path_factory.mktemp("made") / "run"
    traffic = ["--scenario", "Server", "--qps", "2000", "--time", "0.3", "--no-dashboard"]
    assert here("run", "null", "digits", "cpu", *traffic, "--output", folder).returncode in (0, 1)
    return folder


@pytest.fixture
def shelf(made: Path, tmp_path: Path) -> Path:
    """Runs of 1 to 4 days ago; that of 3 is INVALID, that of 4 is in a folder of its own, and one is unfinished."""
    for days, place in ((1, "one"), (2, "two"), (3, "three"), (4, "set/four")):
        copy(made, tmp_path / place, days, validity="INVALID" if days == 3 else "VALID")
    copy(made, tmp_path / "unfinished", 0)
    (tmp_path / "unfinished" / "result.json").unlink()
    return tmp_path


def copy(made: Path, folder: Path, days: float, **changes: Any) -> None:
    shutil.copytree(made, folder)
    result = json.loads((folder / "result.json").read_text())
    result |= {"started": (datetime.now(UTC) - timedelta(days=days)).isoformat()} | changes
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def claim() -> Iterator[Any]:
    held: list[int] = []

    def take(folder: Path) -> None:
        held.append(os.open(folder, os.O_RDONLY))
        fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)

    yield take
    for fd in held:
        os.close(fd)


def left(shelf: Path) -> set[str]:
    return {str(path.parent.relative_to(shelf)) for path in shelf.rglob("settings.json")}


def states(shelf: Path) -> dict[str, str]:
    told = json.loads(here("history", shelf, "--json").stdout)["runs"]
    return {Path(run["folder"]).name: run["state"] for run in told}


ALL = {"one", "two", "three", "set/four", "unfinished"}


def test_the_newest_comes_first(shelf: Path) -> None:
    done = here("history", shelf)
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["when", "state", "scenario", "figure", "p99", "size", "what", "folder"]
    assert header.index("what") == lines[1].index("null digits cpu")
    assert [text.rsplit("/", 1)[1] for text in lines] == ["unfinished", "one", "two", "three", "four"]
    assert [text.split()[2] for text in lines] == ["unfinished", "VALID", "VALID", "INVALID", "VALID"]
    assert all("Server" in text for text in lines)
    assert all(" null digits cpu  " in text for text in lines)
    assert all("/s " in text for text in lines[1:])


def test_as_one_object(shelf: Path) -> None:
    told = json.loads(here("history", shelf, "--json").stdout)["runs"]
    one = next(run for run in told if run["folder"].endswith("/one"))
    assert one["metric"] == json.loads((shelf / "one" / "result.json").read_text())["metric"]
    assert (one["state"], one["mode"], one["what"]) == ("VALID", "PerformanceOnly", "null digits cpu")
    blocks = sum(path.lstat().st_blocks for path in (shelf / "one").rglob("*") if path.is_file())
    assert one["bytes"] == blocks * 512


def test_a_folder_that_is_claimed_is_running(shelf: Path, claim: Any) -> None:
    new = shelf / "20250101-000000-onnxruntime-digits"
    new.mkdir()
    claim(new)
    claim(shelf / "unfinished")
    told = states(shelf)
    assert (told[new.name], told["unfinished"]) == ("running", "running")


def test_what_is_no_run_is_not_listed(tmp_path: Path) -> None:
    for name in ("columns", "data", "20250101", ".hidden"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    (tmp_path / "mine" / "settings.json").write_text('{"theme": "dark"}')
    (tmp_path / "mine" / "data" / "result.json").write_text('{"tool": "another"}')
    (tmp_path / "mine" / "20250101" / "result.json").write_text("[" * 100_000)
    assert here("history", tmp_path).stdout == f"no runs in {tmp_path}\n"
    assert here("history", "prune", tmp_path, "--keep", 0, "--yes").stdout == "removed 0 runs, 0.00 kB\n"


def test_a_damaged_result_is_listed(shelf: Path) -> None:
    (shelf / "two" / "result.json").write_text('{"tool": "Drumfire 0.1.0", "validity": 3}')
    states = {
        Path(run["folder"]).name: run["state"] for run in json.loads(here("history", shelf, "--json").stdout)["runs"]
    }
    assert states["two"] == "damaged"


def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_line_error(here("history", tmp_path / "none"), "is no folder")
    monkeypatch.chdir(tmp_path)
    assert here("history").stdout == "no runs in runs\n"


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (["--keep", 2], {"unfinished", "one"}),
        (["--keep", 0], set()),
        (["--older-than", 2.5], {"unfinished", "one", "two"}),
        (["--invalid"], ALL - {"three"}),
        (["--older-than", "60h"], {"unfinished", "one", "two"}),
        (["--unfinished"], ALL - {"unfinished"}),
        (["--invalid", "--unfinished"], ALL - {"three", "unfinished"}),
        (["--invalid", "--older-than", 3.5], ALL),
        (["--keep", 3, "--older-than", 3.5], ALL - {"set/four"}),
    ],
)
def test_runs_are_removed_by_rule_and_only_with_yes(rules: list[Any], kept: set[str], shelf: Path) -> None:
    told = here("history", "prune", shelf, *rules)
    assert (told.returncode, told.stderr, left(shelf)) == (0, "", ALL)
    done = here("history", "prune", shelf, *rules, "--yes")
    assert (done.returncode, done.stderr, left(shelf)) == (0, "", kept)
    assert done.stdout == told.stdout.replace("would remove", "removed").replace("; to do so, add --yes", "")
    assert done.stdout.count("\n") == 1 + len(ALL - kept)
    assert {path.name for path in shelf.iterdir()} == {name.split("/")[0] for name in kept}


def test_only_what_is_large(shelf: Path, made: Path) -> None:
    before = here("show", shelf / "one").stdout
    assert here("history", "prune", shelf, "--keep", 0, "--keep-results", "--yes").returncode == 0
    assert left(shelf) == ALL
    names = {path.name for path in made.iterdir()}
    assert names >= LARGE
    assert {path.name for path in (shelf / "one").iterdir()} == names - LARGE
    assert here("show", shelf / "one").stdout == before
    told = here("history", "prune", shelf, "--keep", 0, "--keep-results").stdout
    assert told == "would remove what is large of 0 runs, 0.00 kB\n"


def test_only_what_has_a_row_for_each_sample(shelf: Path, made: Path) -> None:
    before = here("show", shelf / "one").stdout
    assert here("history", "prune", shelf, "--keep", 0, "--columns", "--yes").returncode == 0
    assert left(shelf) == ALL
    names = {path.name for path in made.iterdir()}
    assert {path.name for path in (shelf / "one").iterdir()} == names - LARGE | {"histograms"}
    assert here("show", shelf / "one").stdout == before
    several = ",".join(str(shelf / name) for name in ("one", "two", "three"))
    done = here("compare", several, several)
    assert done.returncode in (0, 3, 4)
    assert "no columns" not in done.stdout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "kept"), [("y\n", {"unfinished"}), ("\n", ALL), ("n\n", ALL), ("", ALL)])
def test_a_person_is_asked(answer: str, kept: set[str], shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stdout", shown)
    assert main(["history", "prune", str(shelf), "--keep", "1"]) == 0
    assert left(shelf) == kept
    assert shown.getvalue().count("would remove") == 5
    assert "remove that now? [y/N]" in shown.getvalue()


def test_nobody_is_asked_about_nothing(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal("y"))
    monkeypatch.setattr("sys.stdout", shown)
    assert main(["history", "prune", str(shelf), "--keep", "9"]) == 0
    assert shown.getvalue() == "would remove 0 runs, 0.00 kB\n"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--limit", 2], ["unfinished", "one"]),
        (["--valid"], ["one", "two", "four"]),
        (["--valid", "--limit", 1], ["one"]),
        (["--since", "60h", "--valid"], ["one", "two"]),
        (["--until", "60h"], ["three", "four"]),
        (["--since", "84h", "--until", "36h"], ["two", "three"]),
        (["--model", "Digits", "--backend", "NULL", "--scenario", "server", "--limit", 1], ["unfinished"]),
        (["--model", "shapes"], []),
        (["--scenario", "Offline"], []),
    ],
)
def test_only_runs_of_a_kind(words: list[Any], names: list[str], shelf: Path) -> None:
    told = json.loads(here("history", shelf, *words, "--json").stdout)["runs"]
    assert [Path(one["folder"]).name for one in told] == names
    plain = here("history", shelf, *words).stdout
    if names:
        assert plain.count("\n") == 1 + len(names)
    else:
        assert plain == f"none of the 5 runs in {shelf} is of this kind\n"


def test_a_file_of_a_model_is_known_by_its_name(shelf: Path) -> None:
    path = shelf / "one" / "result.json"
    result = json.loads(path.read_text())
    result["system"]["model"] = "/models/net.onnx"
    path.write_text(json.dumps(result))
    for name in ("net", "net.onnx", "/models/net.onnx"):
        (one,) = json.loads(here("history", shelf, "--model", name, "--json").stdout)["runs"]
        assert one["folder"].endswith("/one")


def test_other_words_for_the_commands(shelf: Path) -> None:
    assert here("runs", shelf).stdout == here("history", shelf).stdout
    assert here("clean", shelf, "--keep", 1).stdout == here("history", "prune", shelf, "--keep", 1).stdout
    assert here("clean", "--help").stdout == here("help", "clean").stdout == here("history", "prune", "-h").stdout
    assert here("runs", "--help").stdout == here("history", "help").stdout
    assert "'drumfire history prune' removes" in " ".join(here("history", "--help").stdout.split())
    assert here("runs", "--version").stdout == here("--version").stdout
    one_line_error(here("history", "--jsn"), "drumfire history: unknown option --jsn (did you mean --json?)")
    one_line_error(here("history", "prune"), "say which runs")


@pytest.fixture
def audit(made: Path, tmp_path: Path) -> Path:
    """An audit that failed."""
    folder = tmp_path / "audit"
    for place in ("performance/run_1", "TEST04/performance/run_1"):
        copy(made, folder / place, 1)
    for name in ("audit.config", "verify_performance.txt"):
        (folder / "TEST04" / name).write_text("any")
    runs = {name: {"validity": "VALID", "metric": None, "directory": ""} for name in ("usual", "audited")}
    check = {"name": "performance", "passed": False, "text": "twice as fast"}
    outcome = {"test": "TEST04", "passed": False, "interrupted": False, "checks": [check], "runs": runs}
    (folder / "audit.json").write_text(json.dumps(outcome))
    return folder


@pytest.fixture
def session(made: Path, shelf: Path) -> Path:
    """An ab of runs of 1.5 and 1.4 days ago, and what was interrupted."""
    folder = shelf / "20261130-ab"
    for days, place in ((1.5, "A/1"), (1.4, "B/1"), (1.6, "interrupted/A-1-1")):
        copy(made, folder / place, days)
    (folder / "session.jsonl").write_text('{"session": {}, "again": "drumfire ab"}\n')
    for name in ("ab.json", "report.html"):
        (folder / name).write_text("{}")
    return folder


def test_the_runs_of_a_session_are_listed_below_it(session: Path) -> None:
    lines = here("history", session.parent).stdout.splitlines()
    (at,) = [number for number, text in enumerate(lines) if text.endswith(f"  {session}")]
    assert " done " in lines[at]
    assert " ab: null digits cpu " in lines[at]
    assert [text.split()[-1] for text in lines[at + 1 : at + 4]] == ["B/1", "A/1", "interrupted/A-1-1"]
    assert len(lines) == 1 + len(ALL) + 4
    (session / "ab.json").unlink()
    assert " resumable " in here("history", session.parent).stdout


@pytest.mark.parametrize(
    ("rules", "stays", "others"),
    [
        (["--keep", 3], True, {"unfinished", "one"}),
        (["--keep", 2], False, {"unfinished", "one"}),
        (["--older-than", 1.45], True, {"unfinished", "one"}),
        (["--older-than", 1.35], False, {"unfinished", "one"}),
        (["--invalid", "--unfinished"], True, {"one", "two", "set/four"}),
    ],
)
def test_a_session_is_removed_as_one(rules: list[Any], stays: bool, others: set[str], session: Path) -> None:
    shelf = session.parent
    told = here("history", "prune", shelf, *rules).stdout
    assert session.exists()
    done = here("history", "prune", shelf, *rules, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == told.replace("would remove", "removed").replace("; to do so, add --yes", "")
    assert session.exists() == stays
    assert {place for place in left(shelf) if not place.startswith(session.name)} == others


def test_only_what_is_large_of_a_session(session: Path) -> None:
    assert here("history", "prune", session, "--keep", 0, "--columns", "--yes").returncode == 0
    assert not list(session.rglob("columns"))
    assert len(list(session.rglob("result.json"))) == 3


@pytest.mark.parametrize("place", [".", "A/1"])
def test_no_session_that_runs_is_removed(place: str, session: Path, claim: Any) -> None:
    before = inside(session)
    claim(session / place)
    done = here("history", "prune", session.parent, "--keep", 0, "--yes")
    assert f"kept {session}: it" in done.stderr
    assert inside(session) == before


@pytest.mark.parametrize("place", ["mine", "A/mine", "A/1/mine", "A/2/mine"])
def test_a_session_with_anything_else_stays_whole(place: str, session: Path) -> None:
    (session / place).parent.mkdir(exist_ok=True)
    (session / place).write_text("precious")
    before = inside(session)
    done = here("history", "prune", session.parent, "--keep", 0, "--yes")
    assert "mine, which no run writes: move that first" in done.stderr
    assert inside(session) == before


def test_a_run_of_a_session_is_not_removed_alone(session: Path) -> None:
    before = inside(session)
    done = here("history", "prune", session / "A", "--keep", 0, "--yes")
    assert f"it is a run of {session}: remove that as a whole" in done.stderr
    assert inside(session) == before


def inside(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_an_audit_is_one_entry_and_is_removed_as_one(audit: Path) -> None:
    (listed,) = json.loads(here("history", audit.parent, "--json").stdout)["runs"]
    assert (listed["folder"], listed["state"], listed["what"]) == (str(audit), "FAIL", "TEST04 null digits cpu")
    assert here("history", "prune", audit.parent, "--keep", 1, "--yes").stdout == "removed 0 runs, 0.00 kB\n"
    assert here("history", "prune", audit.parent, "--unfinished", "--yes").stdout == "removed 0 runs, 0.00 kB\n"
    before = inside(audit)
    done = here("history", "prune", audit / "performance", "--keep", 0, "--yes")
    assert f"it belongs to the audit {audit}" in done.stderr
    assert inside(audit) == before
    done = here("history", "prune", audit.parent, "--keep", 0, "--keep-results", "--yes")
    assert done.stdout.splitlines()[0].startswith("removed what is large of  20")
    assert done.stdout.splitlines()[1].startswith("removed what is large of 1 run, ")
    assert {path.name for path in {*before} - {*inside(audit)}} >= LARGE
    assert (audit / "performance/run_1/result.json").exists()
    assert here("history", "prune", audit.parent, "--invalid", "--yes").returncode == 0
    assert not audit.exists()


@pytest.mark.parametrize(
    "place", ["mine", "TEST04/mine", "mine/deep", "TEST04/performance/run_1/mine", "TEST04/accuracy/"]
)
@pytest.mark.parametrize("rule", [[], ["--keep-results"]])
def test_an_audit_with_anything_else_stays_whole(place: str, rule: list[str], audit: Path) -> None:
    if place.endswith("/"):
        (audit / place).symlink_to(audit.parent)
    else:
        (audit / place).parent.mkdir(exist_ok=True)
        (audit / place).write_text("precious")
    before = inside(audit)
    done = here("history", "prune", audit.parent, "--keep", 0, "--yes", *rule)
    assert "writes: move that first" in done.stderr
    assert inside(audit) == before


def test_an_audit_that_cannot_be_read_is_damaged_and_stays(audit: Path) -> None:
    (audit / "audit.json").write_text('{"test": "TEST04"}')
    before = inside(audit)
    (listed,) = json.loads(here("history", audit.parent, "--json").stdout)["runs"]
    assert listed["state"] == "damaged"
    done = here("history", "prune", audit.parent, "--keep", 0, "--yes")
    assert "audit.json does not hold an audit's outcome" in done.stderr
    assert inside(audit) == before


def test_a_search_that_can_be_resumed_is_not_unfinished(tmp_path: Path) -> None:
    folder = tmp_path / "peak"
    folder.mkdir()
    Journal(folder / "search.jsonl", {"system": "null digits cpu"}, "drumfire run null digits")
    (listed,) = json.loads(here("history", tmp_path, "--json").stdout)["runs"]
    assert (listed["state"], listed["what"]) == ("search", "null digits cpu")
    assert here("history", "prune", tmp_path, "--unfinished", "--yes").stdout == "removed 0 runs, 0.00 kB\n"
    assert "  search  " in here("history", "prune", tmp_path, "--keep", 0, "--yes").stdout
    assert not folder.exists()


def test_no_run_that_goes_on_is_removed(shelf: Path, claim: Any) -> None:
    for place in ("one", "unfinished", "set"):
        claim(shelf / place)
    done = here("history", "prune", shelf, "--keep", 0, "--yes")
    assert done.returncode == 0
    assert left(shelf) == {"one", "unfinished", "set/four"}
    assert done.stderr.count("it is running") == 2
    assert "set/four: it belongs to a run that goes on" in done.stderr
    assert {path.name for path in (shelf / "one").iterdir()} >= LARGE


@pytest.mark.parametrize(
    "place",
    [
        "mine.txt",
        "columns/mine.csv",
        "columns/mine.npy",
        "columns/mine.json",
        "columns/more/x.npy",
        "deeper/x",
        "histograms/mine.npy",
        "mlperf_log_trace.json/mine.json",
        "columns.partial/mine.json",
    ],
)
@pytest.mark.parametrize("rule", [[], ["--keep-results"]])
def test_a_folder_with_anything_else_stays_whole(place: str, rule: list[str], shelf: Path) -> None:
    mine = shelf / "one" / place
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("precious")
    before = sorted(shelf.joinpath("one").rglob("*"))
    done = here("history", "prune", shelf, "--keep", 1, "--yes", *rule)
    assert done.returncode == 0
    assert "which no run writes: move that first" in done.stderr
    assert sorted(shelf.joinpath("one").rglob("*")) == before


def test_what_a_link_leads_to_stays(shelf: Path, made: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.move(shelf / "one" / "columns", elsewhere / "columns")
    (shelf / "one" / "columns").symlink_to(elsewhere / "columns")
    (shelf / "linked").symlink_to(made)
    names = sorted(path.name for path in (elsewhere / "columns").iterdir())
    assert here("history", "prune", shelf, "--keep", 0, "--yes").returncode == 0
    assert left(shelf) == set()
    assert sorted(path.name for path in (elsewhere / "columns").iterdir()) == names
    assert (shelf / "linked").is_symlink()
    assert (made / "result.json").is_file()


def test_what_cannot_be_removed_is_named(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    done = here("history", "prune", shelf, "--invalid", "--yes")
    assert (done.returncode, left(shelf)) == (1, ALL)
    assert "Permission denied" in done.stderr


def test_without_a_rule_nothing_is_removed(shelf: Path) -> None:
    one_line_error(here("history", "prune", shelf, "--yes"), "--older-than AGE", "--keep N")
    assert left(shelf) == ALL


def test_a_narrow_terminal_has_the_folder_in_a_line_of_its_own() -> None:
    found = Found("runs/20250101-000000-onnxruntime-digits-cpu-Server", "VALID", "2025-01-01T00:00:00+00:00",
                  "onnxruntime digits cpu", "Server", "AccuracyOnly", None, 1_234_567)  # fmt: skip
    first, second = line(found, 80).split("\n")
    assert second.strip() == found.folder
    assert "Server accuracy" in first
    assert first.split()[-5:] == ["1.23", "MB", "onnxruntime", "digits", "cpu"]
    assert line(found, 200) == f"{first}  {found.folder}"
