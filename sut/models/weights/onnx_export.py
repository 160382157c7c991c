"""Turns a PyTorch network into an ONNX file.  Does not depend on any particular model."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn

OPSET = 18
"""The lowest operator set that torch's exporter writes without converting, which most runtimes can read."""


def export(
    network: nn.Module,
    sample_shape: tuple[int, ...],
    path: Path,
    *,
    outputs: Sequence[str] = ("logits",),
    dtype: npt.DTypeLike = np.float32,
) -> None:
    """Write ``network`` (in eval mode) to ``path``, weights inside, replacing the file in one step.

    The graph takes "input", of shape (N, *sample_shape) for any N, and gives ``outputs``, of shapes (N, ...); batch
    norms are folded into the convolutions before them.  Needs the packages onnx and onnxscript.
    """
    import torch
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every missing optional package
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns of its own code
        program = torch.onnx.export(
            network,
            (torch.from_numpy(np.zeros((2, *sample_shape), dtype)),),  # a batch of one would be taken for a fixed size
            input_names=["input"],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # stack traces: a fifth of a small file, with this machine's paths
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        part = Path(folder, path.name)
        program.save(part, external_data=False)
        os.replace(part, path)
