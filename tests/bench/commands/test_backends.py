"""Runs of the command line on every backend that is installed: the same accuracy on each, in Offline and in Server."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drumfire.loadgen.installation import ROOT
from drumfire.sut.local.backends import BACKENDS
from tests.support.packages import EFFICIENTNET, PACKAGES, need

EXPORT = ("tensorflow", "torch", "onnx", "onnxscript")
MODELS = {"digits": (), "shapes": ("pycocotools",), "efficientnet-lite0": EFFICIENTNET}
RATES = {"digits": "500", "shapes": "50", "efficientnet-lite0": "5"}
"""Of Server: low, as the answers are what counts here."""

pytestmark = pytest.mark.extra


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@functools.cache
def accuracy(folder: Path, backend: str, model: str, scenario: str) -> dict[str, Any]:
    run = ["run", backend, model, "cpu", "--accuracy", "--scenario", scenario, "--max-batchsize", "4"]
    more = ["--qps", RATES[model], "--max-latency", "60"] if scenario == "Server" else []
    output = folder / f"{backend}-{model}-{scenario}"
    done = subprocess.run(
        [sys.executable, "-m", "drumfire", *run, *more, "--json", "--no-dashboard", "--output", str(output)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MODEL_DIR": str(folder / "cache")},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["validity"] == "VALID"
    found: dict[str, Any] = result["accuracy"]
    assert found["total"] == found["expected"]
    return found


@pytest.mark.parametrize(
    "model", ["digits", *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != "digits")]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_accuracy_everywhere(backend: str, model: str, folder: Path) -> None:
    need("onnxruntime", *PACKAGES[backend], *MODELS[model])
    if backend == "tflite" and model != "digits":
        need(*EXPORT)
    expected = accuracy(folder, "onnxruntime", model, "Offline")
    for scenario in ("Offline", "Server"):
        found = accuracy(folder, backend, model, scenario)
        assert found["good"] == expected["good"]  # None where the metric is mAP
        assert found["value"] == pytest.approx(expected["value"], abs=0.002 if found["metric"] == "mAP" else 0)
