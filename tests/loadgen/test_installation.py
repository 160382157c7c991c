"""Hints name the command that adds to this very installation, and installed copies know their revision."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from drumfire.loadgen import environment, installation

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Programs are where the PATH leads."""
    monkeypatch.setattr(installation.sysconfig, "get_path", lambda _: str(tmp_path / "nowhere"))
    return tmp_path


def test_in_a_checkout_it_stays_editable(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert installation.command("tf") == "pip install -c constraints.txt -e '.[tf]'"
    monkeypatch.chdir(plain)
    assert shlex.split(installation.command("a,b")) == shlex.split(
        f"pip install -c {ROOT}/constraints.txt -e '{ROOT}[a,b]'"
    )


def test_a_wheel_is_named(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "ROOT", plain)
    assert installation.command("tf") == "pip install 'drumfire[tf]'"


def test_programs_of_an_environment_that_is_not_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = tmp_path / "a b" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "pip").touch(0o755)
    monkeypatch.setattr(installation.sysconfig, "get_path", lambda _: str(scripts))
    assert installation.pip() == f"'{scripts}/pip'"
    monkeypatch.chdir(tmp_path / "a b")
    assert installation.pip() == "bin/pip"
    monkeypatch.setenv("PATH", str(scripts))
    assert installation.pip() == "pip"
    assert installation.program("drumfire") == "drumfire"  # not there: no path that leads nowhere


def test_every_hint_is_made_in_one_place() -> None:
    found = subprocess.run(
        ["grep", "-rlF", "--include=*.py", "pip install '", "bench", "loadgen", "sut", "training"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stdout.splitlines() == []


def test_the_revision_of_an_installed_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installation.built_revision() is None
    file = tmp_path / "revision.txt"
    file.write_text("0123456789-dirty\n")
    monkeypatch.setattr(installation, "_REVISION", file)
    assert environment.git_revision() == "0123456789-dirty"
