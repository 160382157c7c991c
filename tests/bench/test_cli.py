"""The command line starts quickly: it imports nothing heavy before a command is chosen, and its errors are one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from drumfire.bench import errors, statuses
from drumfire.loadgen.version import VERSION
from tests.support.command import ROOT, here

HEAVY = ("asyncio", "multiprocessing", "numpy", "rich", "ssl", "uvloop", "drumfire.loadgen", "drumfire.sut")
"""Each takes more than a millisecond to import, with what it imports."""
PROGRAM = """\
import sys
from drumfire.bench.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    print(*sys.modules, file=sys.stderr)
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


@pytest.mark.parametrize("kind", errors.expected(), ids=lambda kind: kind.__name__)
def test_an_expected_error_is_one_line(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: object) -> int:
        raise kind("what to fix")

    monkeypatch.setattr("drumfire.bench.commands.models.show", fail)
    done = here("models")
    assert (done.returncode, done.stderr) == (statuses.USAGE, "drumfire: what to fix\n")


def test_another_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("drumfire.bench.commands.models.show", fail)
    with pytest.raises(ZeroDivisionError):
        here("models")
