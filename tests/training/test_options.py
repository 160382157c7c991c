"""Words of a training program become its options, or one line; so does a package that is missing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from drumfire.loadgen import installation
from drumfire.loadgen.options import option
from drumfire.training.faults import USAGE, InputError
from drumfire.training.options import parse, parse_some
from tests.support.command import ROOT


def known_name(text: str) -> None:
    if text == "-":
        raise ValueError("not a name")


@dataclass(frozen=True, kw_only=True)
class Options:
    task: str = option(position=True, choices=("walk", "run"), help="what")
    shoes: int = option(least=0, help="how many")
    pace: int = option(3, most=9, help="how fast")
    path: Path | None = option(None, metavar="D", help="where")
    name: str = option("a", check=known_name, help="of the walker")
    barefoot: bool = option(False, help="without shoes")


def late(values: object) -> dict[str, int]:
    return {"shoes": 2}


def test_words_become_options() -> None:
    words = ["walk", "--shoes", "0", "--path", "a/b", "--bare"]
    assert parse("program", None, Options, words) == Options(task="walk", shoes=0, path=Path("a/b"), barefoot=True)


def test_late_defaults_are_for_what_is_not_given() -> None:
    assert parse("program", None, Options, ["run"], late) == Options(task="run", shoes=2)
    assert parse("program", None, Options, ["run", "--shoes", "0"], late) == Options(task="run", shoes=0)


def test_other_words_are_left_and_are_no_beginnings_of_options() -> None:
    words = ["walk", "--shoes", "1", "--pa", "5", "--hat"]
    assert parse_some("program", None, Options, words) == (Options(task="walk", shoes=1), ["--pa", "5", "--hat"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["swim"], "task: invalid choice: 'swim' (choose from"),
        (["walk"], "the following arguments are required: --shoes"),
        (["walk", "--shoes", "-1"], "--shoes: must be at least 0, not -1"),
        (["walk", "--shoes", "1", "--pace", "0"], "--pace: must be at least 1, not 0"),
        (["walk", "--shoes", "1", "--pace", "10"], "--pace: must be at most 9, not 10"),
        (["walk", "--shoes", "one"], "--shoes: 'one' is not a whole number"),
        (["walk", "--shoes", "9" * 5000], f"--shoes: '{'9' * 60}' is not a whole number"),
        (["walk", "--shoes", "1" + "0" * 99], f"--shoes: must be at most 1000000000, not 1{'0' * 59}"),
        (["walk", "--shoes", "1e400"], "--shoes: '1e400' is not a whole number"),
        (["walk", "--shoes", "1", "--path", ""], "--path: must not be empty"),
        (["walk", "--shoes", "1", "--path", "a\0b"], "--path: 'a\\x00b' cannot be a path"),
        (["walk", "--shoes", "1", "--path", "x" * 300], f"--path: the name is too long for a file: {'x' * 60}..."),
        (["walk", "--shoes", "1", "--name", ""], "--name: must not be empty"),
        (["walk", "--shoes", "1", "--name", "a\nb"], "--name: 'a\\nb' cannot be shown"),
        (["walk", "--shoes", "1", "--name", "-"], "--name: not a name"),
        (["walk", "--shoes", "1", "--hat"], "unrecognized arguments: --hat"),
    ],
)
def test_wrong_words_get_one_line(words: list[str], says: str) -> None:
    with pytest.raises(InputError) as refused:
        parse("drumfire.program", None, Options, words)
    assert str(refused.value).startswith(says)
    assert str(refused.value).endswith("(see 'python -m drumfire.program --help')")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("program", ["training", "training.benchmark", "training.prepare", "training.plain"])
def test_a_package_that_is_missing_is_named_with_its_extra(program: str) -> None:
    """Without site-packages nothing of the extra is there."""
    command = [sys.executable, "-S", "-m", f"drumfire.{program}", "shapes"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (USAGE, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("training: needs ")
    assert "torch" in line
    assert installation.command("train").partition(" install ")[2] in line


@pytest.mark.extra
@pytest.mark.parametrize("program", ["__main__", "benchmark", "prepare", "plain"])
def test_wrong_words_end_each_program_with_status_2(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlperf_logging", reason="needs the extra train")
    import importlib

    main = importlib.import_module(f"drumfire.training.{program}").main
    assert main(["shaps"]) == USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert "invalid choice: 'shaps'" in line


@pytest.mark.extra
@pytest.mark.parametrize(
    "words",
    [
        ["--org", "../../up"],
        ["--platform", "a/b"],
        ["--platform", ".."],
        ["--output", ""],
        ["--weights", "x" * 300],
        ["--workers", "1000000"],
        ["--batch-size", "-8"],
        ["--seed", "2147483648"],
        ["--epochs", "1e400"],
        ["--epochs", "nan"],
    ],
    ids=" ".join,
)
def test_what_a_run_cannot_have_is_refused_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlperf_logging", reason="needs the extra train")
    from drumfire.training.__main__ import main

    assert main(["shapes", *words]) == USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"training: {words[0]}: ")
