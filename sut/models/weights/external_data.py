"""The files of an ONNX model: weights of more than 2 GB, and those of some exporters, lie in files beside it."""

from __future__ import annotations

from pathlib import Path


def files(model: Path) -> list[Path]:
    """The model's file and those of its external data, in a fixed order; the file alone where there is no onnx.

    Raises ``OSError``, and what onnx raises for a file that is not a model.
    """
    try:
        import onnx
    except ImportError:
        return [model]
    tensors = onnx.load(model, load_external_data=False).graph.initializer
    external = (tensor.external_data for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL)
    names = {entry.value for entries in external for entry in entries if entry.key == "location"}
    return [model, *(model.parent / name for name in sorted(names))]
