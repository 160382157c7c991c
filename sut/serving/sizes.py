"""Sizes that a model's file leaves open and the user names: fixed ones, and ranges that the model is tried with.

Does not depend on requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from drumfire.sut.data.options import InputOptions, parse_dims
from drumfire.sut.data.sizes import choose
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorError, TensorSpec
from drumfire.sut.local.backends import BackendError
from drumfire.sut.models.tensors import Tensors


class Sizes:
    """The sizes of one file's inputs; ``__call__`` is for ``BackendOptions.sized``."""

    def __init__(self, weights: Path, options: InputOptions) -> None:
        """``options``: only those that give shapes count."""
        self.weights, self._options = weights, options
        self._sized: Tensors | None = None
        self.ranges: Mapping[str, Mapping[int, tuple[int, int]]] = {}
        """The least and the most, by input and place in the shape of its sample."""

    def __call__(self, tensors: Tensors) -> Tensors:
        """The file's tensors with the fixed sizes; the same again when called again.

        Raises ``InputError`` for what the model does not have, and ``BackendError`` for a type that cannot be sent.
        """
        if self._sized is None:
            if tensors.batch in parse_dims(self._options.dim):
                tensors = tensors.without_batch()
            dims = {one.name: one.dims for one in tensors.inputs if one.dims}
            interface = ModelInterface(
                self.weights.name, "", "", specs(tensors, self.weights), (), int(tensors.has_batch)
            )
            chosen = choose(interface, self._options, dims, tensors.batch)
            shapes = [tuple(None if size < 0 else size for size in spec.shape) for spec in chosen.interface.inputs]
            inputs = zip(tensors.inputs, shapes, strict=True)
            self._sized = replace(tensors, inputs=tuple(one._replace(sample_shape=shape) for one, shape in inputs))
            self.ranges = {
                name: {axis: (one.lengths.least, one.lengths.most) for axis, one in axes.items()}
                for name, axes in chosen.drawn.items()
            }
        return self._sized


def specs(tensors: Tensors, weights: Path) -> tuple[TensorSpec, ...]:
    """The inputs in the protocol's terms.  Raises ``BackendError`` for a type that it does not have."""
    try:
        return tensors.specs
    except TensorError as error:
        raise BackendError(
            f"{weights} cannot be served: {error}; export it with another, or measure it in this process with "
            "'drumfire run'"
        ) from None
