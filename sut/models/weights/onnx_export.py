"""Turns a PyTorch network into an ONNX file.  Does not depend on any particular model."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from drumfire.sut.models.tensors import Tensors
from drumfire.sut.models.weights import torch_export

if TYPE_CHECKING:
    from torch import nn

OPSET = 18
"""The lowest operator set that torch's exporter writes without converting, which most runtimes can read."""


def export(network: nn.Module, tensors: Tensors, path: Path) -> None:
    """Write ``network`` (in eval mode) to ``path``, weights inside.

    The graph's tensors have the names in ``tensors``; batch norms are folded into the convolutions before them.  Needs
    the packages onnx and onnxscript.
    """
    import torch
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every missing optional package
    batch = tensors.example()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns of its own code
        program = torch.onnx.export(
            network,
            tuple(map(torch.from_numpy, batch.values())),
            input_names=list(batch),
            output_names=list(tensors.outputs),
            dynamic_shapes=torch_export.open_sizes(tensors),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # stack traces: a fifth of a small file, with this machine's paths
    program.save(path, external_data=False)
