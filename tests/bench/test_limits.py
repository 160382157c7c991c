"""Runs under the limits of a shell and of a container: words, status and folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from drumfire.bench import statuses
from drumfire.loadgen import cgroups
from tests.support.command import Done, drumfire, here, one_line_error

resource = pytest.importorskip("resource")
RUN = ("run", "null", "digits", "--time", "0.2", "--count", "50", "--no-dashboard")


def limited(name: str, most: int) -> Callable[[], None]:
    """What a new process does before it becomes the program; as in a shell, both limits are set."""
    number = getattr(resource, f"RLIMIT_{name}")
    return lambda: resource.setrlimit(number, (most, most))


def run_under(name: str, most: int, folder: Path, *words: object) -> Done:
    return drumfire(*RUN, *words, cwd=folder, preexec_fn=limited(name, most))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most", "says"),
    [
        ("NOFILE", 16, "no more than 16 files may be open here, and this run needs 64: ulimit -n 1024"),
        ("FSIZE", 8 << 10, "no file may be larger than 8,192 bytes here: ulimit -f unlimited"),
        ("AS", 100 << 20, "this process may take only 104,857,600 bytes of memory: ulimit -v unlimited"),
    ],
)
def test_a_limit_of_the_shell_is_one_line_before_the_run(name: str, most: int, says: str, tmp_path: Path) -> None:
    one_line_error(run_under(name, most, tmp_path, "--output", "out"), says)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_file_limit_that_only_the_results_exceed(tmp_path: Path) -> None:
    """The run is measured and shown; what could not be saved is named."""
    words = ("--scenario", "Server", "--qps", "20000", "--time", "0.2", "--trace", "--no-dashboard", "--output", "out")
    done = drumfire("run", "null", "digits", *words, cwd=tmp_path, preexec_fn=limited("FSIZE", 800 << 10))
    assert done.returncode == 74, done
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert "p50" in done.stdout


def test_a_group_of_120_mb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 MB of it are taken: a short run fits, a long one is refused before it begins."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cgroups, "memory_room", lambda: 80_000_000)
    done = here(*RUN, "--scenario", "SingleStream", "--output", "short")
    assert done.returncode in (0, 1), done
    assert (tmp_path / "short" / "result.json").is_file()
    words = ("run", "null", "digits", "--scenario", "Server", "--qps", "100000", "--time", "600", "--no-dashboard")
    one_line_error(
        here(*words, "--output", "long"), "0.08 GB are available within its control group: lower --qps or --time"
    )
    assert not (tmp_path / "long").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [{"HOME": ""}, {"HOME": "/nonexistent"}, {"TMPDIR": "/nonexistent"}, {"TZ": "Odd/Zone"}],
    ids=str,
)
def test_odd_surroundings(environment: dict[str, str], tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    done = drumfire(*RUN, "--output", "out", cwd=tmp_path, env=os.environ | {"PYTHONPATH": root} | environment)
    assert done.returncode in (0, 1), done
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "result.json").is_file()


@pytest.mark.slow
def test_an_error_under_the_limit_of_addresses_is_a_line_too(tmp_path: Path) -> None:
    """Wherever memory ends: a library that cannot be mapped, an array that cannot be made."""
    done = [run_under("AS", most << 20, tmp_path, "--output", f"out{most}") for most in (140, 160, 180, 200)]
    failed = [one for one in done if one.returncode not in (statuses.VALID, statuses.INVALID)]
    assert failed
    for one in failed:
        one_line_error(one)
