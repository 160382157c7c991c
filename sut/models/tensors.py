"""The named inputs and outputs of a network: of a file that a backend has loaded, or of a model's own data.

Does not depend on a framework or on what the network computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import Batch
from drumfire.sut.data.library import INPUT, Arrangement, Array, paired

_MOST_CHANNELS = 4
"""A sample of three dimensions whose first is at most this is an image, and that dimension holds its channels."""


class Input(NamedTuple):
    """An input of a network."""

    name: str
    sample_shape: tuple[int | None, ...]
    """Without the batch; None where the network takes any size."""
    dtype: np.dtype[Any]
    batch_size: int | None = None
    """None for any."""

    @property
    def is_image(self) -> bool:
        """Whether a sample is (channels, height, width)."""
        shape = self.sample_shape
        return len(shape) == 3 and shape[0] is not None and shape[0] <= _MOST_CHANNELS

    @property
    def as_channels_last(self) -> Input:
        """The input with samples of (height, width, channels), if it is an image."""
        shape = self.sample_shape
        return self._replace(sample_shape=(*shape[1:], shape[0])) if self.is_image else self

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

    @classmethod
    def of_one(
        cls, sample_shape: tuple[int, ...], outputs: Sequence[str] = ("logits",), dtype: npt.DTypeLike = np.float32
    ) -> Tensors:
        """Of a network with one input, for any batch size."""
        return cls((Input(INPUT, sample_shape, np.dtype(dtype)),), tuple(outputs))

    def __str__(self) -> str:
        """The inputs, for messages."""
        prefix = "{0.name} " if len(self.inputs) > 1 else ""
        return ", ".join(f"{prefix.format(one)}{one.dtype} of shape {list(one.sample_shape)}" for one in self.inputs)

    @property
    def batch_size(self) -> int | None:
        """The only batch size that the network takes; None for any."""
        return next((one.batch_size for one in self.inputs if one.batch_size is not None), None)

    @property
    def has_open_sizes(self) -> bool:
        """Whether it takes samples of any size."""
        return any(None in one.sample_shape for one in self.inputs)

    def zeros(self, rows: int, open_size: int = 1) -> Batch:
        """A batch to try the network with; sizes that it leaves open are ``open_size``."""
        return {
            one.name: np.zeros((rows, *(open_size if size is None else size for size in one.sample_shape)), one.dtype)
            for one in self.inputs
        }

    def example(self) -> Batch:
        """Zeros to export with: two samples, as exporters take a batch of one for a fixed size."""
        return self.zeros(2)

    def feeds(self, data: Tensors) -> dict[str, Feed] | None:
        """For each input, how it gets its samples from this data; None if the data does not fit the network."""
        by_name = {one.name: one for one in data.inputs}
        names = paired([one.name for one in self.inputs], list(by_name))
        if names is None:
            return None
        feeds = {}
        for one in self.inputs:
            shown = by_name[names[one.name]]
            sizes = shown.sample_shape
            moved = not one.fits(sizes)
            if one.dtype != shown.dtype or (moved and not (len(sizes) == 3 and one.fits((*sizes[1:], sizes[0])))):
                return None
            feeds[one.name] = Feed(shown.name, moved)
        return feeds


def arrangement(feeds: Mapping[str, Feed]) -> Arrangement:
    """Makes the network's batch of the data's."""
    return lambda batch: {name: feed.of(batch) for name, feed in feeds.items()}
