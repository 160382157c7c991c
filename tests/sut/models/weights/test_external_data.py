"""ONNX files whose weights lie beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drumfire.sut.local import backends
from drumfire.sut.models.weights import external_data

onnx = pytest.importorskip("onnx")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Adds weights that lie in another file."""
    weights = onnx.numpy_helper.from_array(np.arange(512, dtype=np.float32), "w")
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["N", 512]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    return tmp_path / "m.onnx"


def test_the_files(model: Path) -> None:
    assert external_data.files(model) == [model, model.with_name("weights.bin")]
    small = onnx.load(model)
    onnx.save(small, model.with_name("whole.onnx"))
    assert external_data.files(model.with_name("whole.onnx")) == [model.with_name("whole.onnx")]


def test_onnxruntime_reads_them(model: Path) -> None:
    pytest.importorskip("onnxruntime")
    backend = backends.load("onnxruntime", model, "cpu", 1)
    np.testing.assert_array_equal(backend.run(backend.tensors.zeros(1))[0][0], np.arange(512))
    model.with_name("weights.bin").unlink()
    with pytest.raises(backends.BackendError, match="onnxruntime cannot load"):
        backends.load("onnxruntime", model, "cpu", 1)


def test_tvm_compiles_again_when_they_change(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "cache"))
    data = model.with_name("weights.bin")
    for first in (0, 7):
        data.write_bytes(np.arange(first, first + 512, dtype=np.float32).tobytes())
        backend = backends.load("tvm-onnx", model, "cpu", 1, backends.BackendOptions(max_batch_size=1))
        assert backend.run(backend.tensors.zeros(1))[0][0, 0] == first
