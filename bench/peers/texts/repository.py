"""A Triton repository with a text model's ONNX file, which ``triton_model`` runs in the server.

Handles the model's configuration; does not depend on how the server is started.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from drumfire.bench.peers.hosted import weights
from drumfire.sut import models

CODE = Path(__file__).with_name("triton_model.py")


@contextmanager
def repository(model: str, outputs: Mapping[str, str], max_batch_size: int, *, ragged: bool) -> Iterator[Path]:
    """The repository's folder; see ``config``.  Raises ``UserError``."""
    with tempfile.TemporaryDirectory(prefix="drumfire-repository-") as made:
        version = Path(made) / model / "1"
        version.mkdir(parents=True)
        text = config(model, outputs, max_batch_size, ragged=ragged)
        (version.parent / "config.pbtxt").write_text(text, encoding="utf-8")
        shutil.copy(CODE, version / "model.py")
        (version / "model.onnx").symlink_to(weights(model, "onnxruntime"))
        yield Path(made)


def config(model: str, outputs: Mapping[str, str], max_batch_size: int, *, ragged: bool) -> str:
    """The text of config.pbtxt.

    ``outputs``: the dims of a sample's, as the text has them.  ``ragged``: requests of different lengths may share a
    batch; without it the server ends a batch before the first request of another length.
    """
    inputs = [one.name for one in models.get(model).tensors.inputs]
    either = f"allow_ragged_batch: {str(ragged).lower()}"
    return "\n".join(
        (
            f'name: "{model}"',
            'backend: "python"',
            f"max_batch_size: {max_batch_size}",
            *(f'input [ {{ name: "{name}", data_type: TYPE_INT64, dims: [ -1 ], {either} }} ]' for name in inputs),
            *(
                f'output [ {{ name: "{one}", data_type: TYPE_FP32, dims: [ {dims} ] }} ]'
                for one, dims in outputs.items()
            ),
            "dynamic_batching { }",
            "instance_group [ { kind: KIND_CPU, count: 1 } ]",
            "",
        )
    )
