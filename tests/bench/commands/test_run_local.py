"""run_local.sh: the reference's words in any order, what lacks is installed, and all else goes on to the run."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from drumfire.bench.commands import run_local
from drumfire.bench.commands.models import extras
from drumfire.bench.commands.run_local import missing, parsed
from drumfire.loadgen.installation import ROOT
from drumfire.sut import models
from drumfire.sut.local import backends

SCRIPT = ROOT / "run_local.sh"
WORDS = ["onnxruntime", "resnet50", "gpu"]


@pytest.mark.parametrize("words", list(itertools.permutations(WORDS)))
def test_words_in_any_order(words: tuple[str, ...]) -> None:
    more = ["--scenario", "Offline", "--output", "cpu"]
    assert parsed([*words, *more]) == ("onnxruntime", "resnet50", "gpu", more)


def test_no_device_unless_one_is_named_and_models_of_any_name() -> None:
    assert parsed(["digits", "tf"]) == ("tf", "digits", "", [])
    assert parsed(["a/model.onnx", "onnxruntime"]) == ("onnxruntime", "a/model.onnx", "", [])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["resnet50", "cpu"], "no backend among the words: one of onnxruntime, "),
        (["onnxruntime", "--scenario", "Offline"], "no model among the words: one of digits, "),
        (["onnxruntime", "resnet50", "mobilenet"], "two words for the model, resnet50 and mobilenet"),
        (["onnxruntime", "tf", "resnet50"], "two words for the backend, onnxruntime and tf"),
        (["cpu", "gpu", "tf", "resnet50"], "two words for the device, cpu and gpu"),
    ],
)
def test_a_word_too_many_or_too_few(words: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}.*usage: ./run_local.sh BACKEND MODEL"):
        parsed(words)


def test_extras_are_those_of_the_project() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for backend, model in itertools.product(backends.BACKENDS, models.MODELS):
        for device in backends.devices(backend):
            assert set(extras(backend, model, device)) <= set(known)
    assert extras("onnxruntime", "resnet50", "cpu") == ["onnx-cpu", "vision"]
    assert extras("onnxruntime", "resnet50", "gpu") == ["onnx-gpu", "vision"]
    assert extras("tflite", "digits", "cpu") == ["tflite"]
    assert extras("tflite", "shapes", "cpu") == ["tflite", "tflite-export"]
    assert extras("pytorch", "some.pt2", "cpu") == ["pytorch"]
    with pytest.raises(backends.BackendError, match="tflite runs on the cpu only"):
        extras("tflite", "digits", "gpu")


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["numpy>=1.26", "torch>=2.13; extra == 'vision'", 'onnxruntime-gpu[cuda]>=1.17; extra == "onnx-gpu"']
    monkeypatch.setattr(run_local, "requires", lambda name: lines)
    monkeypatch.setattr(run_local, "_installed", lambda package: package == "torch")
    assert missing("vision") == []
    assert missing("onnx-gpu") == ["onnxruntime-gpu"]
    assert missing("onnx") == []  # no part of a name


def test_no_wheel_is_laid_over_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_local, "_installed", lambda package: package == "onnxruntime")
    assert run_local._replaced("onnxruntime", "onnx-gpu")
    assert not run_local._replaced("onnxruntime", "vision")
    assert not run_local._replaced("pytorch", "pytorch")


def test_what_lacks_is_installed_and_the_run_is_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[list[str]] = []
    commands: list[list[str]] = []

    def install(command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, len(commands) - 1)

    def begin(program: str, command: list[str]) -> None:
        begun.append(command)
        raise SystemExit(0)

    monkeypatch.setattr(run_local, "missing", lambda extra: ["a package"] if extra in ("vision", "coco") else [])
    monkeypatch.setattr(run_local.subprocess, "run", install)
    monkeypatch.setattr(run_local.os, "execv", begin)
    monkeypatch.setenv("OUTPUT_DIR", "out")
    with pytest.raises(SystemExit) as ended:
        run_local.main(["retinanet", "onnxruntime", "--accuracy"])
    assert ended.value.code == 0
    assert commands[0][-1] == f"{ROOT}[vision,coco]"
    assert capsys.readouterr().err == "installing the extras vision, coco (once; some are large)\n"
    words = ["-P", "-m", "drumfire", "run", "onnxruntime", "retinanet", "--accuracy", "--output", "out"]
    assert begun == [[sys.executable, *words]]
    with pytest.raises(SystemExit) as ended:  # pip fails
        run_local.main(["mobilenet", "onnxruntime"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("run_local.sh: pip cannot install")
    assert len(begun) == 1


def test_the_script_is_thin() -> None:
    lines = [line for line in SCRIPT.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 5
    assert os.access(SCRIPT, os.X_OK)


def test_the_script_makes_its_environment_once(tmp_path: Path) -> None:
    """With stand-ins for Python and pip that write down how they are called."""
    project, calls = tmp_path / "a project", tmp_path / "calls"
    project.mkdir()
    for name in ("run_local.sh", "Makefile", "pyproject.toml", "constraints.txt"):
        (project / name).write_text((ROOT / name).read_text())
    pip = '#!/bin/sh\necho "pip $*" >>"$CALLS"; touch "${0%/*}/drumfire"; chmod +x "${0%/*}/drumfire"\n'
    python = '#!/bin/sh\nfor word in "$@"; do echo "<$word>" >>"$CALLS"; done\n'
    maker = (
        '#!/bin/sh\n[ "$1" = -m ] || exit 0\necho "made $4" >>"$CALLS"; mkdir -p "$4/bin"; touch "$4/bin/activate"\n'
        f'cp "{tmp_path}/pip" "{tmp_path}/python" "$4/bin/"; chmod +x "$4/bin/pip" "$4/bin/python"\n'
    )
    for name, text in (("pip", pip), ("python", python), ("maker", maker)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PYTHON": str(tmp_path / "maker"), "CALLS": str(calls), "EXTRA_OPS": "--time 5"}
    command = ["sh", str(project / "run_local.sh"), "tf", "resnet50", "--user-conf", "a b.conf"]
    for _ in range(2):
        subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    told = calls.read_text().splitlines()
    assert told[0] == "made .venv"
    assert told[1].startswith("pip install --quiet ")
    assert told[1].endswith("--constraint constraints.txt --editable .")
    words = [
        "-P",
        "-m",
        "drumfire.bench.commands.run_local",
        "tf",
        "resnet50",
        "--user-conf",
        "a b.conf",
        "--time",
        "5",
    ]
    assert told[2:] == [f"<{word}>" for word in words] * 2


def test_a_run(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "drumfire.bench.commands.run_local",
        "digits",
        "cpu",
        "onnxruntime",
        "--scenario",
        "Offline",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OUTPUT_DIR": str(tmp_path / "out")}
    done = subprocess.run(
        [*command, "--count", "32", "--time", "0.2", "--qps", "200000", "--no-dashboard"],
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Result is : VALID" in done.stdout
    assert (tmp_path / "out" / "result.json").is_file()
    done = subprocess.run([*command[:-1], "nonsense"], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
