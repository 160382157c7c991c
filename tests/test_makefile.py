"""The Makefile's environments: only from a Python that will do, and never half made.

Python is a stand-in that runs the Makefile's own checks as another version, and makes an environment in no time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAND_IN = """\
#!/bin/sh
case "$1" in
  -c) exec {python} -c 'import sys; {before}; exec(sys.argv[1])' "$2" ;;
  -m) echo "$*" >>made; mkdir -p "$4/bin"; touch "$4/bin/python"; {middle}; touch "$4/bin/activate" ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    return tmp_path


def make(
    project: Path, before: str = "pass", middle: str = ":", target: str = ".venv/bin/activate"
) -> subprocess.CompletedProcess[str]:
    python = project / "python3.x"
    python.write_text(STAND_IN.format(python=sys.executable, before=before, middle=middle))
    python.chmod(0o755)
    command = ["make", "--silent", target, f"PYTHON={python}"]
    outer = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(command, cwd=project, env=outer, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("sys.version_info = (3, 10, 13)", "is Python 3.10: Drumfire needs Python 3.11 or newer"),
        ("sys.version_info = (2, 7, 18)", "is Python 2.7: Drumfire needs Python 3.11 or newer"),
        ('sys.modules["ensurepip"] = None', "has no venv: install it (Debian, Ubuntu: apt install python3-venv)"),
        ("sys.exit(127)", "does not run here: Drumfire needs Python 3.11 or newer"),
    ],
)
def test_a_python_that_will_not_do_is_refused_before_anything_is_made(project: Path, before: str, says: str) -> None:
    done = make(project, before)
    assert done.returncode == 2
    told, ending = done.stderr.splitlines()
    assert told.startswith(f"{project}/python3.x {says}")
    assert ending.startswith("make: ***")
    assert sorted(path.name for path in project.iterdir()) == ["Makefile", "python3.x"]


def test_an_environment_is_made_once(project: Path) -> None:
    for _ in range(2):
        assert make(project).returncode == 0
    assert (project / "made").read_text() == "-m venv --clear .venv\n"


def test_one_that_was_broken_off_is_made_anew(project: Path) -> None:
    assert make(project, middle="exit 1").returncode == 2
    assert (project / ".venv/bin/python").exists()
    assert make(project).returncode == 0
    assert (project / "made").read_text() == "-m venv --clear .venv\n" * 2


def test_lint_has_an_environment_of_its_own_which_clean_removes(project: Path) -> None:
    assert make(project, target=".venv/lint/bin/activate").returncode == 0
    assert (project / "made").read_text() == "-m venv --clear .venv\n-m venv --clear .venv/lint\n"
    assert make(project, target="clean").returncode == 0
    assert not (project / ".venv").exists()
