"""A file's inputs with the sizes that the user gives them, where the file leaves these open.

Does not depend on the samples or on who runs the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from drumfire.sut.data.options import InputOptions, parse_dims
from drumfire.sut.data.sizes import Chosen, choose
from drumfire.sut.kserve.messages.tensors import ModelInterface
from drumfire.sut.models.tensors import Tensors


class Fitted(NamedTuple):
    """What a file takes, and what the user says of it."""

    file: Tensors
    """As in the file, but for a batch whose size the user names: that is a size of the sample."""
    chosen: Chosen

    @property
    def tensors(self) -> Tensors:
        """The file's with the fixed sizes that the user gives; None remains for those that are drawn, or not given."""
        inputs = zip(self.file.inputs, self.chosen.interface.inputs, strict=True)
        return replace(self.file, inputs=tuple(one.with_sizes(spec.shape) for one, spec in inputs))

    @property
    def ranges(self) -> Mapping[str, Mapping[int, tuple[int, int]]]:
        """The least and the most of sizes that are drawn, by input and place in the shape of its sample."""
        return {
            name: {axis: (size.lengths.least, size.lengths.most) for axis, size in sizes.items()}
            for name, sizes in self.chosen.drawn.items()
        }


def fitted(path: Path, tensors: Tensors, options: InputOptions, padded_to: int | None = None) -> Fitted:
    """The file at ``path``, which takes ``tensors`` (with samples as in the file), in the sizes of the options.

    ``padded_to``: samples may be shorter than this size of the file.  Raises ``InputError`` for what the file does not
    have, and ``TensorError`` for a type that KServe does not have.
    """
    if tensors.batch in parse_dims(options.dim):
        tensors = tensors.without_batch()  # else the user could not say it
    specs = (
        replace(spec, shape=tuple(-1 if size == padded_to else size for size in spec.shape), dims=one.dims)
        for spec, one in zip(tensors.specs, tensors.inputs, strict=True)
    )
    interface = ModelInterface(path.name, "", "", tuple(specs), (), int(tensors.has_batch))
    return Fitted(tensors, choose(interface, options, tensors.batch))
