"""Sizes that a file leaves open: what the user says of them, fixed ones, and ranges that the model is tried with.

Does not depend on requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drumfire.loadgen.options import option
from drumfire.sut.data.options import InputOptions, ShapeOptions, parse_dims
from drumfire.sut.data.ragged import Padding
from drumfire.sut.kserve.messages.tensors import TensorError, TensorSpec
from drumfire.sut.local.backends import BackendError
from drumfire.sut.models.fitted import Fitted, fitted
from drumfire.sut.models.tensors import Tensors


@dataclass(frozen=True)
class SizeOptions(ShapeOptions):
    """The sizes that a model's file leaves open, and how requests of different ones share a batch."""

    dim: tuple[str, ...] = option(
        (),
        metavar="NAME=SIZE",
        check=lambda word: parse_dims([word]),
        help="a size that the model's file leaves open, by the name that it has there, such as sequence=128: requests "
        "then have this size; with sequence=8..128 they have any, and these are tried before the first request",
    )
    pad: str | None = option(
        None,
        metavar="longest|N|buckets:N,N",
        check=Padding.of,
        help="pad requests of different sizes in a batch to the longest of them, to the size N, or to the next of "
        "several sizes, and cut the answers back (default: longest where the model says how to pad; else batches are "
        "of equal samples)",
    )


class Sizes:
    """The sizes of one file's inputs; ``__call__`` is for ``BackendOptions.sized``."""

    def __init__(self, weights: Path, options: InputOptions) -> None:
        """``options``: only those that give shapes count."""
        self.weights, self._options = weights, options
        self._fitted: Fitted | None = None

    @property
    def ranges(self) -> Mapping[str, Mapping[int, tuple[int, int]]]:
        """The least and the most, by input and place in the shape of its sample."""
        return self._fitted.ranges if self._fitted else {}

    def __call__(self, tensors: Tensors) -> Tensors:
        """The file's tensors with the fixed sizes; the same again when called again.

        Raises ``InputError`` for what the model does not have, and ``BackendError`` for a type that cannot be sent.
        """
        if self._fitted is None:
            specs(tensors, self.weights)  # refuses a type first
            self._fitted = fitted(self.weights, tensors, self._options)
        return self._fitted.tensors


def specs(tensors: Tensors, weights: Path) -> tuple[TensorSpec, ...]:
    """The inputs in the protocol's terms.  Raises ``BackendError`` for a type that it does not have."""
    try:
        return tensors.specs
    except TensorError as error:
        raise BackendError(
            f"{weights} cannot be served: {error}; export it with another, or measure it in this process with "
            "'drumfire run'"
        ) from None
