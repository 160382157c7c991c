"""Samples for a model on a server: the protocol ``Inputs``, and the sizes that the user gives for open shapes.

Each source of samples is a file: ``random_values``, ``array_folder``, ``json_file``, ``data_set``.  Does not depend on
how samples travel or on which of them a run uses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
FLOATING = ("FP16", "FP32", "FP64", "BF16")
"""The datatypes of floating-point numbers."""


class InputError(UserError, ValueError):
    """Samples cannot be read, or do not fit the model.  The text is one line and names the fix."""


class Inputs(Protocol):
    """Samples that fit a model, by index 0 .. total_count-1."""

    name: str
    total_count: int
    description: str
    """A phrase for the result, such as ``random, seed 1``."""

    def sample(self, index: int) -> Sample:
        """The contents of one sample, the same in every call.  Reads or draws them, so keep it off the hot path."""

    def expected(self, index: int) -> Mapping[str, Tensor] | None:
        """The correct outputs for this sample, by name; None if they are not known."""
        return None


def parse_shapes(options: Sequence[str]) -> dict[str, Shape]:
    """Shapes by input, from ``NAME:SHAPE`` such as ``x:3,224,224``; a name may hold colons.  Raises ``InputError``."""
    shapes: dict[str, Shape] = {}
    for option in options:
        name, _, text = option.rpartition(":")
        sizes = [size.strip() for size in text.split(",")]
        if not name or not all(re.fullmatch("0*[1-9][0-9]{0,11}", size) for size in sizes):
            raise InputError(f"--input {option!r}: use NAME:SHAPE with sizes of at least 1, such as INPUT0:3,224,224")
        if name in shapes:
            raise InputError(f"--input {option!r}: {name!r} appears twice")
        shapes[name] = tuple(map(int, sizes))
    return shapes


def resolve(interface: ModelInterface, shapes: Mapping[str, Shape]) -> ModelInterface:
    """Return the interface with these shapes for its inputs; inputs that ``shapes`` does not name keep theirs.

    Raises ``InputError`` for an input that the model does not have and for a shape that does not fit.
    """
    known = {spec.name: spec for spec in interface.inputs}
    for name, shape in shapes.items():
        given = f"--input {name}:{','.join(map(str, shape))}"
        if name not in known:
            raise InputError(f"{given}: {inputs_text(interface)}")
        if len(shape) != len(known[name].shape):
            raise InputError(f"{given}: wrong number of sizes (leave the batch out): {inputs_text(interface)}")
        if min(shape, default=1) < 1:
            raise InputError(f"{given}: sizes must be at least 1: {inputs_text(interface)}")
        if not known[name].fits(shape):
            raise InputError(f"{given}: only sizes shown as -1 can be chosen: {inputs_text(interface)}")
    return replace(
        interface, inputs=tuple(replace(spec, shape=shapes.get(spec.name, spec.shape)) for spec in interface.inputs)
    )


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
