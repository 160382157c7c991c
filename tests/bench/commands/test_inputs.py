"""Models by what they take: any name for one input, and one sentence for several, whatever the command."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import here, one_line_error
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
        ["run", "onnxruntime", "digits", "--weights", "text.onnx", "--no-dashboard"],
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


def test_a_file_of_other_inputs_than_its_model_has_is_not_served(tmp_path: Path) -> None:
    file = write_sum(tmp_path / "text.onnx", ["input_ids", "attention_mask"])
    done = here("serve", "onnxruntime", f"digits={file}", *PORTS)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        f"drumfire: {file} takes input_ids float32 of shape [2], attention_mask"
    )
    assert done.stderr.endswith("digits's data is float32 of shape [1, 8, 8]: serve the file under another name\n")


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


SCALAR = (
    b'\x08\x08:K\n#\n\x01x\x12\x01y"\nReduceMean*\x0f\n\x08keepdims\x18\x00\xa0\x01\x02\x12\x01gZ\x14\n\x01x\x12\x0f\n\r'
    b"\x08\x01\x12\t\n\x03\x12\x01N\n\x02\x08\x10b\x0b\n\x01y\x12\x06\n\x04\x08\x01\x12\x00B\x04\n\x00\x10\x11"
)
"""An ONNX file with ``y = ReduceMean(x, keepdims=0)`` of x (N, 16): one number for the whole batch."""
OF_ONE = (
    SCALAR.replace(b"keepdims\x18\x00", b"keepdims\x18\x01")
    .replace(b":K", b":S")
    .replace(
        b"b\x0b\n\x01y\x12\x06\n\x04\x08\x01\x12\x00",
        b"b\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01\n\x02\x08\x01",
    )
)
"""The same with ``keepdims=1``: its output (1, 1) looks like that of a batch of one."""


@pytest.mark.parametrize(
    "words",
    [["run", "onnxruntime", "m.onnx", "--qps", "9", "--no-dashboard"]],
)
@pytest.mark.parametrize(("content", "shape"), [(SCALAR, "[] for 1 sample:"), (OF_ONE, "[1, 1] for 2 samples:")])
def test_outputs_without_a_batch_are_refused_alike(
    words: list[str], content: bytes, shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(content)
    done = here(*words)
    assert done.returncode == 2, done
    assert done.stderr.splitlines()[-1].startswith(
        f"drumfire: the model's output 'y' has the shape {shape} its first size"
    )
    assert not Path("runs").exists()


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (pipe, "it is a pipe, not a file"),
        (Path.touch, "it is empty"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file"),
        (lambda path: None, "there is no such file"),
    ],
)
@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["run", "onnxruntime", "m.onnx"], "the model file m.onnx"),
        (["run", "onnxruntime", "digits", "--weights", "m.onnx"], "the model file m.onnx"),
        (["run", "onnxruntime", "resnet50", "--weights", "m.onnx"], "the model file m.onnx"),
        (["serve", "onnxruntime", "digits=m.onnx", *PORTS], "the model file m.onnx"),
        (["run", "null", "digits", "--user-conf", "m.onnx"], "config file m.onnx"),
        (["run", "null", "digits", "--config", "m.onnx"], "--config m.onnx"),
        (["serve", "null", "identity", "--token-file", "m.onnx", *PORTS], "--token-file m.onnx"),
        (["run", "http", "--url", "http://127.0.0.1:1", "--body-file", "m.onnx", "m"], "--body-file m.onnx"),
    ],
    ids=lambda words: " ".join(words[:4]) if isinstance(words, list) else "",
)  # fmt: skip
def test_what_is_no_file_is_refused_without_waiting(
    words: list[str],
    what: str,
    make: Callable[[Path], None],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if make is Path.touch and not what.startswith("the model file"):
        pytest.skip("may be empty, or is refused in words of its own")
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "m.onnx")
    one_line_error(here(*words), f"{what} cannot be read: {says}")
