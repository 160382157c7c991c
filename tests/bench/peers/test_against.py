"""A revision beside an older one: the order, the rule, the table, the exit status, and a real older revision."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from drumfire.bench.peers import against
from drumfire.bench.peers.against import BEFORE, Case, interval, row, verdict
from drumfire.bench.peers.backends.__main__ import main as backends
from drumfire.bench.peers.goal import Round, both
from drumfire.bench.peers.loadgen import revisions
from drumfire.bench.peers.loadgen.__main__ import main as loadgen
from drumfire.bench.peers.process import PROGRAM, MeasurementError, run
from drumfire.bench.peers.program import Program, run_figures
from drumfire.bench.peers.server import Running
from drumfire.bench.peers.serving.revisions import CASES as SERVING
from drumfire.bench.peers.triton.revisions import NAMES, cases
from drumfire.loadgen.installation import ROOT
from drumfire.sut.environments import EnvironmentFailed
from tests.support import command

COST = both("cost", "c", "us", 1e3)
RATE = both("rate", "r", "1/s", more_is_better=True)
OLDER = ["older"]


def rounds(name: str, *pairs: tuple[float, float]) -> list[Round]:
    return [Round({name: now}, {BEFORE: {name: before}}) for now, before in pairs]


# The rule.


@pytest.mark.parametrize(
    ("count", "left_out"),
    # The sign test's tables: the greatest k with P(X <= k) <= 0.005, X binomial (n, 1/2).
    [(7, None), (8, 0), (11, 0), (12, 1), (14, 1), (15, 2), (17, 2), (18, 3), (20, 3), (25, 5), (30, 7)],
)
def test_the_spread_is_the_sign_tests_interval(count: int, left_out: int | None) -> None:
    ratios = [float(at) for at in reversed(range(count))]
    assert interval(ratios) == (None if left_out is None else (left_out, count - 1 - left_out))
    assert interval([]) is None


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([0.8] * 8, "slower"),
        ([1.25] * 8, "faster"),
        ([0.8] * 7 + [1.01], "within spread"),
        ([1.25] * 7 + [0.99], "within spread"),
        ([1.0] * 8, "within spread"),
        ([0.985] * 8, "within 2%"),
        ([1.015] * 8, "within 2%"),
        ([0.8] * 11 + [1.5], "slower"),
        ([0.5] * 7, "too few rounds (at least 8)"),
    ],
)
def test_the_verdict(ratios: Sequence[float], expected: str) -> None:
    assert verdict(ratios) == expected


def test_more_is_faster_for_a_rate_and_slower_for_a_cost() -> None:
    told = [Round({"c": 2000, "r": 200}, {BEFORE: {"c": 1000, "r": 100}})] * 8
    assert row(COST, told) == ("cost", "1.00 us", "2.00 us", "0.500x", "0.500 to 0.500", "8", "slower")
    assert row(RATE, told) == ("rate", "100 1/s", "200 1/s", "2.000x", "2.000 to 2.000", "8", "faster")


def test_a_round_that_one_side_failed_is_no_pair() -> None:
    told = [*rounds("c", (1000, 1000)), Round({}, {BEFORE: {"c": 1}}), Round({"c": 1}, {BEFORE: {}})]
    assert row(COST, told)[-2:] == ("1", "too few rounds (at least 8)")
    assert row(COST, told[1:]) == row(COST, []) == ("cost", "", "", "", "", "0", "not measured")


# Carrying out.


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older revision that is there already."""
    monkeypatch.setattr(against, "commit", lambda revision: "HEAD")
    monkeypatch.setattr(against, "environment", lambda revision, extras: Path("made"))
    monkeypatch.setattr(against, "drumfire", lambda environment: OLDER)
    monkeypatch.setattr(against, "_git", lambda folder, *words: "")


def options(count: int = 8, output: Path | None = None) -> argparse.Namespace:
    return argparse.Namespace(against="v1", rounds=count, time=2.0, only=None, output=output, command="the command")


def side(program: Program, now: float, before: float) -> dict[str, float]:
    return {"c": before if program == OLDER else now}


@pytest.mark.usefixtures("older")
def test_the_order_is_abba(capsys: pytest.CaptureFixture[str]) -> None:
    order = []

    def measure(program: Program, seconds: float) -> dict[str, float]:
        order.append("A" if program == PROGRAM else "B")
        return {"c": seconds}

    assert against.compare("m", options(4), [Case("m", (COST,), measure)]) == 0
    assert "".join(order) == "ABBAABBA"
    assert "round 2/4 m before ..." in capsys.readouterr().err


@pytest.mark.usefixtures("older")
@pytest.mark.parametrize(("now", "status", "told"), [(1.0, 0, "within spread"), (2.0, 1, "slower"), (0.5, 0, "faster")])
def test_the_status_says_whether_anything_is_slower(
    now: float, status: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case("m", (COST,), lambda program, seconds: side(program, now, 1.0))
    assert against.compare("name", options(output=tmp_path / "R.md"), [case]) == status
    printed = capsys.readouterr().out
    assert f"| 8 | {told} |" in printed
    assert printed.strip() in (tmp_path / "R.md").read_text()
    raw = json.loads((tmp_path / "name-against" / "rounds.json").read_text())
    assert raw[0] == {"measure": "m", "round": 1, "ours": {"c": now}, "theirs": {"before": {"c": 1.0}}}


@pytest.mark.usefixtures("older")
def test_a_side_that_always_fails_is_not_passed_over() -> None:
    def measure(program: Program, seconds: float) -> dict[str, float]:
        if program == OLDER:
            raise MeasurementError("no such option")
        return {"c": 1.0}

    assert against.compare("m", options(), [Case("m", (COST,), measure)]) == 2


def test_ctrl_c_while_the_older_revision_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(revision: str, extras: Sequence[str]) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(against, "commit", lambda revision: "HEAD")
    monkeypatch.setattr(against, "environment", interrupted)
    assert against.compare("m", options(), []) == 130
    assert "interrupted before anything was measured" in capsys.readouterr().err


@pytest.mark.usefixtures("older")
def test_what_was_measured_before_ctrl_c_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    left = iter(range(5))

    def measure(program: Program, seconds: float) -> dict[str, float]:
        if next(left) == 4:
            raise KeyboardInterrupt
        return {"c": 1000.0}

    assert against.compare("m", options(), [Case("m", (COST,), measure)]) == 130
    assert "| cost | 1.00 us | 1.00 us | 1.000x | 1.000 to 1.000 | 2 |" in capsys.readouterr().out


def test_the_options_are_those_of_revisions(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--against", "HEAD", "--only", "memory"], ["--only", "single-stream"]):
        with pytest.raises(SystemExit, match="2"):
            loadgen(words)
        assert "--only: unknown" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        backends(["--against", "HEAD"])
    assert "backends has no measure that compares revisions" in capsys.readouterr().err


# What is run.


class Ran(Exception):
    """Instead of running it."""


def test_every_command_is_one_that_the_command_line_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def record(command: list[str], *_: object, **__: object) -> None:
        asked.append(command)
        raise Ran

    monkeypatch.setattr("drumfire.bench.peers.program.run", record)
    made = [*revisions.CASES, *cases(Running("h:1", "h:2", 1, lambda model: (0, 0)))]
    for case in made:
        with pytest.raises(Ran):
            case.run(OLDER, 1.5)
    assert [case.name for case in made[len(revisions.CASES) :]] == list(NAMES)
    for words in asked:
        assert words[0] == "older"
        parsed = command.options(*words[1:])
        assert (parsed.traffic.time, parsed.result.json, parsed.result.no_dashboard) == (1.5, True, True)


def test_a_run_becomes_figures() -> None:
    percentiles = {"p50": 1, "p99": 2}
    result: dict[str, Any] = {
        "delivered": {"samples": 1000, "samples_per_second": 500.0},
        "overhead": {"process_cpu_s": 1.5, "pacer_spin_s": 0.5},
        "lateness_ns": percentiles,
        "latency_ns": percentiles,
        "system": {},
    }
    told = run_figures(result)
    assert (told["cpu_ns_per_sample"], told["wall_ns_per_sample"], told["p99_lateness_ns"]) == (1e6, 2e6, 2)
    overhead = {"process_cpu_s": 1.5, "pacer_spin_s": 1.6}
    assert told.keys() - run_figures(result | {"overhead": overhead}).keys() == {"cpu_ns_per_sample"}
    processes = {"processes": [{"cpu_s": 0.5}, {"cpu_s": 1.5}]}
    assert run_figures(result | {"system": processes})["cpu_ns_per_sample"] == 3e6
    for broken in ({}, result | {"latency_ns": None}, result | {"overhead": {"process_cpu_s": 1.5}}):
        with pytest.raises(MeasurementError, match="the result does not hold"):
            run_figures(broken)


def test_the_server_that_is_measured_is_that_of_the_program(tmp_path: Path) -> None:
    program = tmp_path / "older"
    program.write_text("import sys; sys.exit('older: ' + ' '.join(sys.argv[1:4]))")
    for case in SERVING:
        with pytest.raises(MeasurementError, match="older: serve null identity"):
            case.run([sys.executable, str(program)], 1)


# The older revision.


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e")
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of one commit, which is no Python project; and an empty cache folder."""
    root = tmp_path / "checkout"
    root.mkdir()
    monkeypatch.setattr(against, "ROOT", root)
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "cache"))
    git(root, "init", "--quiet")
    (root / "file").write_text("first")
    git(root, "add", "file")
    git(root, "commit", "--quiet", "--message", "first")
    return root


def one_line(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of what a comparison that cannot be made says."""
    assert loadgen(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()[-1]


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("revision", ["unheard-of", "--all", "", "HEAD^{tree}"])
def test_an_unknown_revision_is_told(revision: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line([f"--against={revision}"], capsys).startswith(
        f"drumfire.bench.peers.loadgen: no such revision: {revision}"
    )


def test_a_folder_without_git_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(against, "ROOT", tmp_path)
    assert "is not a git checkout" in one_line(["--against", "HEAD"], capsys)


@pytest.mark.usefixtures("checkout")
def test_an_environment_that_cannot_be_made_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise EnvironmentFailed("pip cannot install it")

    monkeypatch.setattr(against, "made", fails)
    assert one_line(["--against", "HEAD"], capsys) == "drumfire.bench.peers.loadgen: pip cannot install it"


def test_the_older_files_are_checked_out_once_and_again_where_they_changed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(against, "made", lambda *words, **named: asked.append((words, named)))
    first = against.commit("HEAD")
    (checkout / "file").write_text("second")
    (checkout / "constraints.txt").write_text("")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "second")
    for revision in (first, first, "HEAD"):
        against.environment(against.commit(revision))
    (_, _, (tree,), _), named = asked[0]
    file = Path(tree) / "file"
    assert named == {"options": ["--editable"]}
    assert "--constraint" in asked[2][1]["options"]
    assert file.read_text() == "first"
    assert capsys.readouterr().err.count("checking out") == 2
    file.write_text("changed")
    against.environment(first)
    assert file.read_text() == "first"
    against.environment(first, ["one", "two"])
    assert asked[-1][0][2] == [f"{tree}[one,two]"]
    file.unlink()
    file.parent.rename(checkout / "moved")  # git still knows of a worktree there
    against.environment(first)
    assert file.read_text() == "first"


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_a_round_against_the_last_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    try:
        environment = against.environment(against.commit("HEAD"), ["onnx-cpu"])
        document = tmp_path / "result"
        null = ["run", "null", "digits", "--scenario", "SingleStream", "--time", "0.1", "--output", str(document)]
        done = run([*against.drumfire(environment), *null, "--json", "--no-dashboard"], fine=(0, 1)).document
        assert against.commit("HEAD").startswith(done["environment"]["git_revision"])
        words = ["--against", "HEAD", "--rounds", "1", "--time", "0.2", "--only", "server", "digits@1000"]
        assert loadgen(words) == 0
        told = capsys.readouterr()
        assert told.err.count("making the environment") == 1
        assert told.out.count("| too few rounds (at least 8) |") == 6
    finally:
        for tree in (tmp_path / "against").glob("*/.git"):
            git(ROOT, "worktree", "remove", "--force", str(tree.parent))
