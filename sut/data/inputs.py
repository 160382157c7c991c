"""Samples for a model's inputs, in KServe's terms: the protocol ``Inputs``.

Each source of samples is a file, which ``sources`` opens.  Does not depend on where the model is, on how samples travel
or on which of them a run uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.errors import UserError
from drumfire.sut.kserve.messages.tensors import ModelInterface, Shape, Tensor

Sample: TypeAlias = tuple[Tensor, ...]
"""One tensor for each input of the model, in the order of ``ModelInterface.inputs``; shapes without the batch.

``LEFT_OUT`` in place of an optional input that the sample does not have."""

_MOST_NAMED = 20
"""Inputs in an error's text."""
MOST_CHANNELS = 4
"""A sample of three dimensions is an image if its first or last has at most so many, its channels."""
FLOATING = ("FP16", "FP32", "FP64", "BF16")
"""The datatypes of floating-point numbers."""


class InputError(UserError, ValueError):
    """Samples cannot be read, or do not fit the model.  The text is one line and names the fix."""


class Inputs(Protocol):
    """Samples that fit a model, by index 0 .. total_count-1."""

    name: str
    total_count: int
    description: str
    """A phrase for the result, such as ``128 random samples, seed 1``."""
    unread: str = ""
    """What of the data nothing is compared with, for the result."""

    def sample(self, index: int) -> Sample:
        """The contents of one sample, the same in every call.  Reads or draws them, so keep it off the hot path."""

    def shapes(self, index: int) -> Sequence[Shape]:
        """Those of the sample's tensors."""
        return [tensor.shape for tensor in self.sample(index)]

    def place(self, index: int) -> str:
        """Where the sample stands, for messages."""
        return f"{self.description}: sample {index}"

    def expected(self, index: int) -> Mapping[str, Tensor] | None:
        """The correct outputs for this sample, by name; None if they are not known."""
        return None


def inputs_text(interface: ModelInterface) -> str:
    texts = [f"{spec} (optional)" if spec.optional else str(spec) for spec in interface.inputs]
    more = f" and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
    return f"the model {interface.name} takes {', '.join(texts[:_MOST_NAMED]) or 'nothing'}{more}"


def shape_text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of finite float32 values as bfloat16, rounded to the nearest, ties to even."""
    bits = np.asarray(values, "<f4").view("<u4")
    return np.asarray((bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) >> 16, "<u2")
