"""The program starts quickly: it imports nothing heavy before a command is chosen.  Its errors are one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import shtab

from drumfire.bench import cli, commands, statuses
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.settings import SettingsError
from drumfire.loadgen.version import VERSION
from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.local.backends import BackendError
from tests.support.command import ROOT, drumfire, here, one_line_error

HEAVY = ("asyncio", "multiprocessing", "numpy", "rich", "ssl", "uvloop", "drumfire.loadgen.settings", "drumfire.sut")
"""Each takes more than a millisecond to import, with what it imports."""
PROGRAM = """\
import sys
from drumfire.bench.cli import main
main(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
"""
FAIL = """\
import sys
from drumfire.bench import cli
def fail(*_):
    raise ZeroDivisionError("of\\nours")
cli._run = fail
sys.exit(cli.main(["models"]))
"""


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", PROGRAM, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "drive a model with MLPerf traffic" in done.stdout
    imported = done.stderr.split()
    assert "drumfire.bench.cli" in imported
    assert [name for name in HEAVY if name in imported] == []


def test_version() -> None:
    done = here("--version")
    assert (done.returncode, done.stdout) == (statuses.DONE, f"drumfire {VERSION}\n")


def test_no_word_at_all_prints_help() -> None:
    done = here()
    assert (done.returncode, done.stdout) == (statuses.DONE, here("--help").stdout)
    assert all(name in done.stdout for name in commands.below([]))


def test_a_command_with_commands_lists_them() -> None:
    done = here("cluster")
    assert (done.returncode, done.stdout) == (statuses.DONE, here("cluster", "-h").stdout)
    assert all(name in done.stdout for name in ("up", "join", "down", "status"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rnu"], "drumfire: unknown command 'rnu' (did you mean run?) (see 'drumfire --help')"),
        (["Run"], "drumfire: unknown command 'Run' (did you mean run?)"),
        (["cluster", "jion"], "drumfire cluster: unknown command 'jion' (did you mean join?) (see 'drumfire cluster"),
        (["--json"], "drumfire: unknown command '--json'"),
        (["models", "--jsn"], "drumfire models: unknown option --jsn (did you mean --json?) (see 'drumfire models"),
    ],
)
def test_an_unknown_word_suggests_the_nearest(words: list[str], says: str) -> None:
    done = here(*words)
    one_line_error(done)
    assert done.stderr.startswith(says)


@pytest.mark.parametrize("kind", [UserError, SettingsError, ServerError, BackendError])
def test_what_the_user_can_fix_is_one_line(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise kind("what to fix")

    monkeypatch.setattr("drumfire.bench.cli._run", fail)
    done = here("models")
    assert (done.returncode, done.stderr) == (statuses.USAGE, "drumfire: what to fix\n")


def test_a_crash_is_one_line_and_its_own_status() -> None:
    command = [sys.executable, "-c", FAIL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == statuses.CRASH == 70
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line == "drumfire: a fault of drumfire: ZeroDivisionError: of ours (DRUMFIRE_TRACEBACK=1 shows where)"


@pytest.mark.parametrize("arguments", [["rnu"], ["run", "null", "digits", "--qps", "0"]])
def test_the_traceback_is_shown_on_request(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRUMFIRE_TRACEBACK", "1")
    done = here(*arguments)
    assert done.returncode == statuses.USAGE
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.splitlines()[-1].startswith("drumfire")


def test_a_crash_shows_its_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRUMFIRE_TRACEBACK", "1")
    monkeypatch.setattr("drumfire.bench.cli._run", lambda *_: 1 // 0)
    done = here("models")
    assert done.returncode == statuses.CRASH
    assert "ZeroDivisionError: integer division" in done.stderr
    assert 'cli.py", line' in done.stderr


def test_the_statuses_are_those_that_scripts_rely_on() -> None:
    """In order of precedence, the most severe first."""
    assert list(statuses.MEANINGS) == [130, 70, 74, 2, 1, 3, 4, 0]
    assert (statuses.INTERRUPTED, statuses.CRASH, statuses.UNSAVED, statuses.USAGE) == (130, 70, 74, 2)
    assert (statuses.INVALID, statuses.UNMET, statuses.UNDECIDED, statuses.VALID) == (1, 3, 4, 0)
    assert statuses.worst(statuses.UNMET, statuses.INVALID, statuses.UNDECIDED) == statuses.INVALID
    assert statuses.worst(statuses.UNSAVED, statuses.INTERRUPTED) == statuses.INTERRUPTED
    assert statuses.worst(statuses.VALID) == statuses.VALID


def test_help_names_every_status() -> None:
    text = " ".join(here("--help").stdout.split())
    for status, meaning in statuses.MEANINGS.items():
        assert f"{status} {meaning}" in text


def test_a_reader_that_has_gone_is_no_fault() -> None:
    script = f"{sys.executable} -m drumfire run --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode in (statuses.DONE, statuses.USAGE)


COMPLETE = """\
source ./drumfire.sh
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_shtab_drumfire 2> errors
echo "${COMPREPLY[*]}"
"""


def test_completion_has_files_and_models(tmp_path: Path) -> None:
    (tmp_path / "drumfire.sh").write_text(here("completion", "bash").stdout)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    for name in ("run.toml", "digits.onnx"):
        (tmp_path / name).touch()
    for line, wanted in {
        "show runs/m": "runs/mine",
        "run --config run.": "run.toml",
        "run onnxruntime digits.": "digits.onnx",
        "run onnxruntime resn": "resnet50",
        "run onnxruntime digits --scenario Se": "Server",
        "run onnxruntime digits --outp": "--output",
    }.items():
        command = ["bash", "-c", COMPLETE, "bash", "drumfire", *line.split()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [wanted], line


@pytest.mark.parametrize("shell", shtab.SUPPORTED_SHELLS)
def test_every_shell_that_is_offered_has_a_script(shell: str) -> None:
    assert shell in commands.load("completion").options.__dataclass_fields__["shell"].metadata["option"].help
    assert "resnet50" in here("completion", shell).stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "digits", "onnxruntime"], "drumfire run: BACKEND comes before MODEL: onnxruntime digits"),
        (["run", "onnxruntime", "digit"], "(did you mean digits?)"),
        (["run", "null", "digits", "gpu"], "null has no DEVICE"),
        (["run", "http", "x", "--url", "http://127.0.0.1:1/x", "--accuracy"], "--accuracy needs labels"),
        (["run", "http", "x", "--url", "http://127.0.0.1:1/x", "--submission"], "--submission needs labels"),
        (
            ["run", "http", "x", "--body", "1", "--url", "http://127.0.0.1:1/x", "--url", "http://127.0.0.1:1/y"],
            "--url: a run takes one path of each server",
        ),
    ],
)
def test_what_is_wrong_comes_first(words: list[str], says: str) -> None:
    one_line_error(here(*words), says)


def test_words_that_people_try() -> None:
    assert here("help").stdout == here("--help").stdout
    assert here("help", "run").stdout == here("run", "--help").stdout
    assert here("run", "--version").stdout == here("--version").stdout


def test_help_of_all_systems_shows_an_option_with_each_meaning() -> None:
    page = here("run", "--help").stdout
    kserve, _, http = page.partition("HTTP services (http)")
    assert kserve.count("--max-batchsize N") == 2
    assert "--input NAME:SHAPE" in kserve
    assert "--input SHAPE/KIND" in http
    assert "--input-data WHAT" in http


def test_completion_is_a_script_for_the_shell() -> None:
    script = drumfire("completion", "bash").stdout
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("triton-local", "--until-confident", "SingleStream", "onnxruntime"):
        assert word in script


def test_a_table_in_an_error_keeps_its_lines_and_nothing_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._failed("the generators differ\n  numpy  1\x1b[2J | 2", ["run"], 2) == 2
    assert capsys.readouterr().err == "drumfire run: the generators differ\n  numpy  1\\x1b[2J | 2\n"
