"""Loads the weights of our own ONNX files into the PyTorch networks that they were exported from.

Depends on how torch's exporter names weights and folds batch norms, but not on any particular model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def fill(network: nn.Module, path: Path) -> None:
    """Load the weights in the ONNX file into ``network``; a batch norm keeps only its shift, as its scale was folded.

    Raises ``ValueError`` for the file of another network, and ``ImportError`` without the package onnx.
    """
    import onnx
    import torch
    from onnx.numpy_helper import to_array

    weights = {tensor.name: to_array(tensor) for tensor in onnx.load(path).graph.initializer}

    def put(tensor: Any, name: str) -> None:
        if name not in weights or weights[name].shape != tuple(tensor.shape):
            raise ValueError(
                f"{path} does not hold {name} of shape {list(tensor.shape)}: it belongs to another network"
            )
        tensor.copy_(torch.tensor(weights[name]))

    folded = None
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert folded is not None, "a batch norm follows its convolution"
                module.running_mean.zero_()
                module.running_var.fill_(1)
                module.weight.fill_((1 + module.eps) ** 0.5)
                put(module.bias, folded)
            elif not list(module.children()):
                for part, tensor in module.named_parameters(recurse=False):
                    put(tensor, f"{name}.{part}")
                folded = f"{name}.weight_bias"
