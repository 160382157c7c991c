"""``python -m drumfire.loadgen.compat`` and ``install()``: scripts import the drop-in, and so do their processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drumfire.loadgen.installation import ROOT

RUNNER = [sys.executable, "-m", "drumfire.loadgen.compat"]


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **variables}, timeout=60, check=False
    )


def test_a_script_runs_as_if_by_itself(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'found'\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, beside, mlperf_loadgen\n"
        "import mlcommons_loadgen\n"
        "print(__name__, sys.argv[1:], beside.WORD, mlperf_loadgen.TestScenario.Server, mlcommons_loadgen.TestMode)\n"
        "sys.exit(7)\n"
    )
    done = run(*RUNNER, str(script), "--flag", "word")
    assert done.returncode == 7
    assert done.stdout.startswith("__main__ ['--flag', 'word'] found TestScenario.Server")


def test_a_module_runs_too(tmp_path: Path) -> None:
    (tmp_path / "harness_of_mine.py").write_text("import sys, mlperf_loadgen as lg\nprint(lg.__name__, sys.argv[1:])\n")
    done = run(*RUNNER, "-m", "harness_of_mine", "x", PYTHONPATH=str(tmp_path))
    assert done.stdout == "drumfire.loadgen.compat.api ['x']\n"


def test_the_processes_of_a_script_find_it(tmp_path: Path) -> None:
    """Started afresh by multiprocessing, with samples handed over, and by themselves."""
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, subprocess, sys\n"
        "import mlperf_loadgen as lg\n"
        "def ask(sample): return lg.__name__, sample.index\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(ask, [lg.QuerySample(1, 5)]))\n"
        "    child = 'import mlperf_loadgen as lg; print(lg.__name__)'\n"
        "    print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True, cwd='/').stdout)\n"
    )
    done = run(*RUNNER, str(script))
    assert done.stderr == ""
    assert done.stdout.split() == ["[('drumfire.loadgen.compat.api',", "5)]", "drumfire.loadgen.compat.api"]


def test_wrong_usage_is_told() -> None:
    for words in ((), ("nowhere.py",), ("--patience", "0", "setup.py")):
        done = run(*RUNNER, *words)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("python -m drumfire.loadgen.compat: error: ")


def test_install_comes_first(tmp_path: Path) -> None:
    (tmp_path / "mlperf_loadgen.py").write_text("")
    child = "import mlperf_loadgen, drumfire.loadgen.compat; drumfire.loadgen.compat.install()"
    done = run(sys.executable, "-c", child, PYTHONPATH=str(tmp_path))
    assert "call install() before importing it" in done.stderr
    twice = "from drumfire.loadgen.compat import install as i; i(); import mlperf_loadgen as m; i(); print(m.__name__)"
    assert run(sys.executable, "-c", twice).stdout == "drumfire.loadgen.compat.api\n"


@pytest.mark.parametrize("kept", ["", "/some/where"])
def test_install_keeps_the_path(kept: str) -> None:
    child = "import os, drumfire.loadgen.compat as c; c.install(); c.install(); print(os.environ['PYTHONPATH'])"
    path = run(sys.executable, "-c", child, PYTHONPATH=kept).stdout.strip().split(os.pathsep)
    assert path == [str(ROOT / "loadgen" / "compat" / "importable"), *([kept] if kept else []), str(ROOT)]
