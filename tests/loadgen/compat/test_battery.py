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

from loadgen.compat import api

TESTS = Path(__file__).parents[1]


def loaded(name: str) -> ModuleType:
    """A file of the tests as a module."""
    spec = importlib.util.spec_from_file_location(f"compat_{name}", TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


battery = loaded("test_traffic_reference")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mlperf_loadgen", api)
        return loaded("reference_run")


@pytest.mark.parametrize("name", battery.CASES)
def test_same_traffic(name: str, script: ModuleType, tmp_path: Path) -> None:
    case = battery.CASES[name]
    found = script.run(case, tmp_path)
    assert battery.differences(battery.our_traffic(case), found) == set()


@pytest.mark.parametrize("name", ["SingleStream-01", "MultiStream-03", "Server-04", "Offline-05"])
def test_same_traffic_by_the_command(name: str) -> None:
    case = battery.CASES[name]
    done = subprocess.run(
        [sys.executable, "-m", "loadgen.compat", str(TESTS / "reference_run.py")],
        input=json.dumps(case), capture_output=True, text=True, cwd=TESTS.parents[1], timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert battery.differences(battery.our_traffic(case), json.loads(done.stdout)) == set()
