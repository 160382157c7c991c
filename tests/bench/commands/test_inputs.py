"""Models by what they take: any name for one input, and one sentence for several, whatever the command."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import here
from tests.support.onnx_file import write_sum
from tests.support.served import PORTS, serving

pytest.importorskip("onnxruntime")

REFUSAL = (
    "the model has 3 inputs (input_ids, attention_mask, token_type_ids), and only models of one can be loaded: measure "
    "it on a Triton server ('drumfire run triton'), or call it from a coroutine (drumfire.CoroutineSystem)"
)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "onnxruntime", "text.onnx", "--no-dashboard"],
        ["run", "onnxruntime", "digits", "--weights", "text.onnx", "--no-dashboard"],
        ["serve", "onnxruntime", "encoder=text.onnx", *PORTS],
        ["serve", "onnxruntime", "digits=text.onnx", *PORTS],
        ["prepare", "quantize", "digits", "--weights", "text.onnx", "--output", "int8.onnx"],
        ["run", "tf", "text.onnx", "--no-dashboard"],
        ["run", "tvm-onnx", "text.onnx", "--no-dashboard"],
    ],
    ids=lambda words: " ".join(words[:4]),
)
def test_several_inputs_are_refused_alike(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {"prepare": ["onnx"], "tf": ["tensorflow", "onnx"], "tvm-onnx": ["tvm", "onnx"]}
    needed = [package for word in words[:2] for package in packages.get(word, [])]
    if missing := [package for package in needed if importlib.util.find_spec(package) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    monkeypatch.chdir(tmp_path)
    write_sum(tmp_path / "text.onnx", ["input_ids", "attention_mask", "token_type_ids"])
    done = here(*words)
    assert done.returncode == 2
    *loading, line = done.stderr.splitlines()
    assert line.endswith(REFUSAL)
    assert all(other.startswith("loading ") for other in loading)
    assert not (tmp_path / "int8.onnx").exists()


def test_a_single_input_of_any_name_is_run_and_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_sum(tmp_path / "pair.onnx", ["pair:0"], "sum:0")
    words = ["--scenario", "SingleStream", "--time", "0.1", "--json", "--no-dashboard"]
    done = here("run", "onnxruntime", "pair.onnx", *words, "--output", "here")
    assert json.loads(done.stdout)["errors"]["failed"] == 0
    with serving("onnxruntime", f"pair={tmp_path / 'pair.onnx'}") as one:
        (tmp_path / "data").mkdir()
        pairs = np.arange(8, dtype=np.float32).reshape(4, 2)
        np.save(tmp_path / "data" / "pair:0.npy", pairs)
        np.save(tmp_path / "data" / "sum:0.npy", pairs)
        there = ["--url", one.ready["grpc"], "--input-data", "data", "--output", "there"]
        done = here("run", "triton", "pair", *there, *words)
        assert json.loads(done.stdout)["errors"]["failed"] == 0, done.stdout
        one.end()
