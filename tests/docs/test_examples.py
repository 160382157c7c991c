"""Each program in examples/ runs and does what it is there to show."""

import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import drumfire
from drumfire.bench import cli

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some leave runs in the working directory."""
    monkeypatch.chdir(tmp_path)


def run(*words: str | Path) -> tuple[int, str]:
    """Exit status and output of python with these words."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_coroutine_is_measured() -> None:
    status, text = run(EXAMPLES / "coroutine.py", "0.8")
    assert (status, text.splitlines()[0]) == (0, "Result is : VALID")
    (folder,) = Path("runs").iterdir()
    saved = drumfire.load(folder)
    assert saved.report in text
    assert saved.figures["latency_ns"] == saved.result["latency_ns"]


def test_an_error_in_the_coroutine_is_shown(tmp_path: Path) -> None:
    source = (EXAMPLES / "coroutine.py").read_text()
    assert source.count("batch.tobytes()") == 1
    faulty = tmp_path / "faulty.py"
    faulty.write_text(source.replace("batch.tobytes()", "bathc.tobytes()"))
    status, text = run(faulty, "0.3")
    assert status == 1
    verdict, reason, rest = text.splitlines()[:3]
    assert verdict == "Result is : INVALID"
    assert "NameError: name 'bathc' is not defined" in f"{reason} {rest.strip()}"


def test_a_system_in_a_process_of_its_own_is_measured() -> None:
    status, text = run(EXAMPLES / "own_process.py", "0.5")
    assert (status, text.splitlines()[0]) == (0, "Result is : VALID")
    (folder,) = Path("runs").iterdir()
    (process,) = drumfire.load(folder).result["system"]["processes"]
    assert process["samples"] > 1000
    assert f"computed by  process {process['pid']}: " in text


def test_rates_are_compared() -> None:
    status, text = run(EXAMPLES / "rates.py", "0.4")
    assert status in (0, 1)  # on a machine that is busy, a short run is INVALID
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["250/s", "500/s", "1000/s"]
    runs = sorted((drumfire.load(folder) for folder in Path("runs").iterdir()), key=lambda r: r.result["asked"]["qps"])
    assert [saved.result["asked"]["qps"] for saved in runs] == [250, 500, 1000]
    assert lines[4] == repr(runs[-1])
    assert runs[-1].report in text


@pytest.mark.parametrize("words", [[], ["there"], ["a", "b"]])
def test_a_folder_that_is_not_there_is_a_line(words: list[str], tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, EXAMPLES / "columns.py", *words], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_folder_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "run onnxruntime digits --scenario Server --qps 500 --time 0.3 --no-dashboard --output here"
    cli.main(shlex.split(words))
    capsys.readouterr()
    status, text = run(EXAMPLES / "columns.py", tmp_path / "here")
    assert status == 0
    parts = text.split("\n\n")
    assert parts[1] == repr(drumfire.load("here"))
    ours, theirs = (part.split()[-2] for part in parts[2].split(", "))
    assert ours == theirs
    rows = [line.split() for line in parts[3].splitlines()]
    assert rows[0][:2] == ["sample", "due"]
    figures = np.array(rows[1:], float)
    assert figures.shape == (5, 6)
    # Latency is lateness, waiting and computing; each is printed to a thousandth of a ms.
    assert np.abs(figures[:, 2] - figures[:, 3:].sum(axis=1)).max() < 0.003


def test_a_library_of_your_own_is_judged_and_timed() -> None:
    status, text = run(EXAMPLES / "library.py", "0.3")
    assert status == 0
    assert text.splitlines()[:2] == ["accuracy: 2000 of 2000", "Result is : VALID"]


def test_a_system_of_several_inputs_is_measured() -> None:
    status, text = run(EXAMPLES / "inputs.py", "0.5")
    assert (status, text.splitlines()[0]) == (0, "Result is : VALID")
    assert text.splitlines()[1].endswith(" sentences a second")


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(["-m", "drumfire.loadgen.compat"], id="drumfire"),
        pytest.param([], id="reference", marks=pytest.mark.reference),
    ],
)
def test_a_harness_runs_on_both(launcher: list[str], tmp_path: Path) -> None:
    if not launcher and find_spec("mlperf_loadgen") is None:
        pytest.skip("the reference is not installed")
    status, text = run(*launcher, EXAMPLES / "harness.py", tmp_path, "0.5")
    assert status == 0
    assert "Result is : VALID" in text
    assert (tmp_path / "mlperf_log_summary.txt").read_text() in text


@pytest.mark.slow  # the page on HTTP services has the same line, which runs in every test
def test_an_http_service_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, text = run(EXAMPLES / "http_service.py", "0.3")
    assert status in (0, 1)  # a run this short has too few queries
    assert "http doubler" in text
    (folder,) = (tmp_path / "runs").iterdir()
    assert set(np.load(folder / "columns" / "status.npy")) == {1}
