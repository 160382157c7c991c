"""The named inputs and outputs of a network: of a file that a backend has loaded, or of a model's own data.

Does not depend on a framework or on what the network computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import Batch
from drumfire.sut.data.inputs import MOST_CHANNELS, bfloat16
from drumfire.sut.data.library import INPUT, Arrangement, Array, paired
from drumfire.sut.data.ragged import OpenSizes
from drumfire.sut.kserve.messages.tensors import TensorSpec, datatype_of


class Input(NamedTuple):
    """An input of a network."""

    name: str
    sample_shape: tuple[int | None, ...]
    """Without the batch; None where the network takes any size."""
    dtype: np.dtype[Any]
    """Numpy's; ``uint16`` for bfloat16, whose bits these are, and ``object`` for texts, as ``bytes``."""
    batch_size: int | None = None
    """None for any."""
    dims: tuple[str, ...] = ()
    """The file's names of the sizes of ``sample_shape``, "" for one without; () where none has a name."""
    batch_axis: int | None = 0
    """Where the file has the batch.  None: nowhere, and all samples of a batch share the values of the first."""
    is_bfloat16: bool = False
    optional: bool = False
    """The network has a value of its own for all samples of a batch that lacks this input."""
    channels_moved: bool = False
    """Samples are (channels, height, width) in the file, or as requests have them; see ``as_channels_last``."""
    rows: int | None = None
    """Of the smallest table that an integer input is looked up in, such as a vocabulary; None if there is none, or the
    file does not say it: see ``vocabulary``."""
    padding: float | None = None
    """What fills up shorter samples of a batch; None where samples of other sizes cannot be in one."""

    @property
    def datatype(self) -> str:
        """KServe's name of the type.  Raises ``TensorError`` if it has none."""
        return "BF16" if self.is_bfloat16 else datatype_of(self.dtype)

    @property
    def size_names(self) -> tuple[str, ...]:
        """``dims``, of all sizes."""
        return self.dims or ("",) * len(self.sample_shape)

    @property
    def open_dims(self) -> dict[str, int]:
        """The position in ``sample_shape`` of each open size that has a name."""
        sizes = zip(self.dims, self.sample_shape, strict=False)
        return {dim: axis for axis, (dim, size) in enumerate(sizes) if dim and size is None}

    @property
    def opened(self) -> OpenSizes:
        """What of a sample's shape is open, with the padding as an element of the array."""
        axes = tuple(axis for axis, size in enumerate(self.sample_shape) if size is None)
        is_bits = self.is_bfloat16 and self.padding is not None
        padding = int(bfloat16(np.array(self.padding, np.float32))) if is_bits else self.padding
        return OpenSizes(axes, padding, tuple(self.dims[axis] for axis in axes) if self.dims else ())

    @property
    def is_image(self) -> bool:
        """Whether a sample is (channels, height, width)."""
        shape = self.sample_shape
        return len(shape) == 3 and shape[0] is not None and shape[0] <= MOST_CHANNELS

    @property
    def as_channels_last(self) -> Input:
        """The input with samples of (height, width, channels), if it is an image."""
        if not self.is_image:
            return self
        shape, dims = self.sample_shape, self.dims
        return self._replace(sample_shape=(*shape[1:], shape[0]), dims=(*dims[1:], *dims[:1]), channels_moved=True)

    @property
    def as_in_file(self) -> Input:
        """The input with samples as the file has them."""
        if not self.channels_moved:
            return self
        shape, dims = self.sample_shape, self.dims
        return self._replace(sample_shape=(shape[-1], *shape[:-1]), dims=(*dims[-1:], *dims[:-1]), channels_moved=False)

    @property
    def file_shape(self) -> tuple[int | None, ...]:
        """The file's shape, batch included."""
        sizes = list(self.sample_shape)
        if self.batch_axis is not None:
            sizes.insert(self.batch_axis, self.batch_size)
        return tuple(sizes)

    def with_sizes(self, sizes: Iterable[int]) -> Input:
        """The same with these sizes in place of open ones; one below 0 leaves a size open."""
        shape = zip(self.sample_shape, sizes, strict=False)
        return self._replace(
            sample_shape=tuple(size if known is None and size >= 0 else known for known, size in shape)
        )

    def shape(self, rows: int) -> tuple[int, ...]:
        """The file's shape for so many samples of fixed sizes."""
        return tuple(rows if size is None else size for size in self._replace(batch_size=rows).file_shape)

    def fits(self, sizes: Sequence[int | None]) -> bool:
        """Whether a sample may have this shape."""
        taken = self.sample_shape
        return len(taken) == len(sizes) and all(one in (None, size) for one, size in zip(taken, sizes, strict=True))


class Feed(NamedTuple):
    """How an input gets its samples."""

    name: str
    """Of the data's array."""
    moves_channels: bool
    """The array's samples are (channels, height, width), and the input takes (height, width, channels)."""

    def of(self, batch: Batch) -> Array:
        """The input's samples."""
        samples = batch[self.name]
        return np.ascontiguousarray(np.moveaxis(samples, 1, -1)) if self.moves_channels else samples


@dataclass(frozen=True)
class Tensors:
    """What a network takes and gives."""

    inputs: tuple[Input, ...] = ()
    outputs: tuple[str, ...] = ()
    """Names, in the order in which a backend returns the outputs.  Types and shapes show when the network runs, as many
    files leave them open.
    """
    batch: str = ""
    """The file's name of the batch's size, if it has one."""
    output_axes: tuple[int | None, ...] = ()
    """Where each output has the batch: None for nowhere; () for the first size of all."""
    bfloat16_outputs: frozenset[str] = frozenset()
    output_shapes: tuple[tuple[int | None, ...] | None, ...] = ()
    """Of each output, batch included, as far as the file says it; () where it says nothing."""

    @classmethod
    def of_one(
        cls, sample_shape: tuple[int, ...], outputs: Sequence[str] = ("logits",), dtype: npt.DTypeLike = np.float32
    ) -> Tensors:
        """Of a network with one input, for any batch size."""
        return cls((Input(INPUT, sample_shape, np.dtype(dtype)),), tuple(outputs))

    def __str__(self) -> str:
        """The inputs, for messages."""
        return ", ".join(
            f"{one.name + ' ' if len(self.inputs) > 1 else ''}{_type_text(one)} of shape {_shape_text(one)}"
            for one in self.inputs
        )

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The inputs in KServe's terms.  Raises ``TensorError`` for a type that it does not have."""
        return tuple(
            TensorSpec(
                one.name, one.datatype, tuple(-1 if size is None else size for size in one.sample_shape), one.optional
            )
            for one in self.inputs
        )

    @property
    def batch_size(self) -> int | None:
        """The only batch size that the network takes; None for any."""
        return next((one.batch_size for one in self.inputs if one.batch_size is not None), None)

    @property
    def has_open_sizes(self) -> bool:
        """Whether it takes samples of any size."""
        return any(None in one.sample_shape for one in self.inputs)

    @property
    def output_samples(self) -> list[tuple[int | None, ...] | None]:
        """The shape of each output for a sample, as far as it is known; empty where nothing is."""
        axes = self.output_axes or (0,) * len(self.output_shapes)
        return [
            shape if shape is None or axis is None else (*shape[:axis], *shape[axis + 1 :])
            for shape, axis in zip(self.output_shapes, axes, strict=False)
        ]

    @property
    def open_inputs(self) -> dict[str, OpenSizes]:
        """The inputs with open sizes, as a ``RaggedLibrary`` takes them."""
        return {one.name: one.opened for one in self.inputs if one.opened.axes}

    def with_open_sizes(self, size: int) -> Tensors:
        """The same with this size in place of each open one."""
        return replace(self, inputs=tuple(one.with_sizes(repeat(size)) for one in self.inputs))

    def with_sizes_of(self, data: Tensors) -> Tensors:
        """The same with the sizes of this data's samples; unchanged if the data does not fit."""
        feeds = self.feeds(data)
        if feeds is None or any(feed.moves_channels for feed in feeds.values()):
            return self
        sizes = {one.name: one.sample_shape for one in data.inputs}
        inputs = (
            one._replace(sample_shape=sizes[feeds[one.name].name]) if one.name in feeds else one for one in self.inputs
        )
        return replace(self, inputs=tuple(inputs))

    @property
    def has_batch(self) -> bool:
        """Whether any input has one; otherwise the inputs together are one sample."""
        return not self.inputs or any(one.batch_axis is not None for one in self.inputs)

    def without_batch(self) -> Tensors:
        """The same network, of which nothing is a batch: what was one is a size of the sample."""
        inputs = []
        for one in self.inputs:
            shape, dims = list(one.sample_shape), list(one.size_names)
            if one.batch_axis is not None:
                shape.insert(one.batch_axis, one.batch_size)
                dims.insert(one.batch_axis, self.batch)
            inputs.append(
                one._replace(
                    sample_shape=tuple(shape), dims=tuple(dims) if any(dims) else (), batch_axis=None, batch_size=1
                )
            )
        return replace(self, inputs=tuple(inputs), batch="", output_axes=(None,) * len(self.outputs))

    @property
    def as_in_file(self) -> Tensors:
        """The same with samples as the file has them."""
        return replace(self, inputs=tuple(one.as_in_file for one in self.inputs))

    def laid_out_as(self, other: Tensors) -> Tensors:
        """The same with channels last where ``other``, of the same network, has them so."""
        last = {one.name for one in other.inputs if one.channels_moved}
        return replace(
            self, inputs=tuple(one.as_channels_last if one.name in last else one.as_in_file for one in self.inputs)
        )

    def zeros(self, rows: int, open_size: int = 1) -> Batch:
        """A batch to try the network with, without optional inputs; sizes that it leaves open are ``open_size``."""
        shapes = {
            one: tuple(open_size if size is None else size for size in one.sample_shape)
            for one in self.inputs
            if not one.optional
        }
        return {
            one.name: np.full((rows, *shape), b"" if one.dtype.hasobject else 0, one.dtype)
            for one, shape in shapes.items()
        }

    def example(self) -> Batch:
        """Zeros to export with: two samples, as exporters take a size of one for a fixed one; 32 in open sizes."""
        return self.zeros(2, 32)

    def feeds(self, data: Tensors) -> dict[str, Feed] | None:
        """For each input, how it gets its samples from this data; None if the data does not fit the network."""
        by_name = {one.name: one for one in data.inputs}
        takes = [one for one in self.inputs if one.name in by_name or not one.optional]
        names = paired([one.name for one in takes], list(by_name))
        if names is None:
            return None
        feeds = {}
        for one in takes:
            shown = by_name[names[one.name]]
            sizes = shown.sample_shape
            moved = not one.fits(sizes)
            same_type = (one.dtype, one.is_bfloat16) == (shown.dtype, shown.is_bfloat16)
            if not same_type or (moved and not (len(sizes) == 3 and one.fits((*sizes[1:], sizes[0])))):
                return None
            feeds[one.name] = Feed(shown.name, moved)
        return feeds


def _type_text(one: Input) -> str:
    return "bfloat16" if one.is_bfloat16 else "text" if one.dtype.hasobject else str(one.dtype)


def _shape_text(one: Input) -> str:
    sizes = zip(one.sample_shape, one.size_names, strict=True)
    return f"[{', '.join(str(size) if size is not None else name or 'any' for size, name in sizes)}]"


def arrangement(feeds: Mapping[str, Feed]) -> Arrangement:
    """Makes the network's batch of the data's."""
    return lambda batch: {name: feed.of(batch) for name, feed in feeds.items()}
