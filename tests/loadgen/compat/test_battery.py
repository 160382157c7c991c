"""The traffic battery through the drop-in: the script that drives the reference for it, run with our module instead.

The traffic that it is held against is that which ``test_traffic_reference`` holds against the reference itself.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from drumfire.loadgen.compat import api
from tests.support.traffic_cases import ALL, PARAMETERS, SCRIPT, differences, our_traffic


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module that imports ours in the reference's place."""
    spec = importlib.util.spec_from_file_location("reference_run_of_compat", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mlperf_loadgen", api)
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PARAMETERS)
def test_same_traffic(name: str, script: ModuleType, tmp_path: Path) -> None:
    case = ALL[name]
    found = script.run(case, tmp_path)
    assert differences(our_traffic(case), found) == set(), case


@pytest.mark.parametrize(
    "name", ["fresh-Server-PerformanceOnly", *(pytest.param(f"{each}-01", marks=pytest.mark.slow) for each in
             ("SingleStream", "MultiStream", "Offline"))]
)  # fmt: skip
def test_same_traffic_by_the_command(name: str) -> None:
    case = ALL[name]
    done = subprocess.run(
        [sys.executable, "-m", "drumfire.loadgen.compat", str(SCRIPT)],
        input=json.dumps(case), capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert differences(our_traffic(case), json.loads(done.stdout)) == set(), case
