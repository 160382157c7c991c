"""Turns a PyTorch network into an exported program, which runs without the code that made it.

Does not depend on any particular model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from drumfire.sut.models.tensors import Tensors

if TYPE_CHECKING:
    from torch import nn


def export(network: nn.Module, tensors: Tensors, path: Path) -> None:
    """Write ``network`` (in eval mode) to ``path``, with batch norms folded into the convolutions before them."""
    import torch

    batch, shapes = tuple(map(torch.from_numpy, tensors.example().values())), open_sizes(tensors)
    unfolded = torch.export.export(network, batch, dynamic_shapes=shapes).module(check_guards=False)
    torch.export.save(torch.export.export(_folded(unfolded), batch, dynamic_shapes=shapes), path)


def open_sizes(tensors: Tensors) -> tuple[dict[int, Any], ...]:
    """For each input the ``torch.export.Dim`` at each open size, the batch included.

    Torch finds out how large the others than the batch may be, and which of them are the same.
    """
    from torch.export import Dim

    batch, size = Dim("N"), Dim.AUTO
    shapes = [one.sample_shape for one in tensors.inputs]
    return tuple({0: batch} | {at: size for at, length in enumerate(shape, 1) if length is None} for shape in shapes)


def _folded(network: Any) -> Any:
    """The graph module, with each batch norm folded into the convolution before it that has no other reader."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    def value(node: Any) -> Any:
        tensor = network
        for part in node.target.split("."):
            tensor = getattr(tensor, part)
        return tensor

    graph = network.graph
    for number, norm in enumerate(graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default)):
        conv, *parameters = norm.args[:5]
        if conv.target is not torch.ops.aten.conv2d.default or len(conv.users) > 1:
            continue
        image, weight, bias, *others = (*conv.args, None)[: max(3, len(conv.args))]
        scale, shift, mean, variance = map(value, parameters)
        folded = fuse_conv_bn_weights(
            value(weight), None if bias is None else value(bias), mean, variance, norm.args[7], scale, shift
        )
        names = f"folded_{number}_weight", f"folded_{number}_bias"
        for name, parameter in zip(names, folded, strict=True):
            network.register_parameter(name, parameter)
        with graph.inserting_before(conv):
            conv.args = (image, *map(graph.get_attr, names), *others)
        norm.replace_all_uses_with(conv)
        graph.erase_node(norm)
    graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network
