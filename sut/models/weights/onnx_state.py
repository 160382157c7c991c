"""Puts the weights of our own ONNX files back into the PyTorch networks that they were exported from.

Knows how torch's exporter names weights and folds batch norms; must not know any one model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def fill(network: nn.Module, path: Path) -> None:
    """Give ``network`` the weights in the ONNX file; a batch norm is left with what was not folded: its shift.

    Raises ``ValueError`` where the file is not of this network, ``ImportError`` without the package onnx.
    """
    import onnx
    import torch
    from onnx.numpy_helper import to_array

    found = {one.name: to_array(one) for one in onnx.load(path).graph.initializer}

    def put(tensor: Any, name: str) -> None:
        if name not in found or found[name].shape != tuple(tensor.shape):
            raise ValueError(f"{path} does not hold {name} of shape {list(tensor.shape)}: it is of another network")
        tensor.copy_(torch.tensor(found[name]))

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
