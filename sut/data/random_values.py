"""Samples of random values or of zeros, which need no file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from drumfire.sut.data.inputs import FLOATING, InputError, Inputs, Sample, bfloat16, inputs_text
from drumfire.sut.kserve.messages.tensors import DATATYPES, LEFT_OUT, ModelInterface, TensorSpec, as_tensor

_MOST_SIZES = 32
"""Numpy has no arrays of many more."""
_LARGEST_BYTES = 2**31  # what one protobuf message can hold


def generated(
    interface: ModelInterface,
    *,
    kind: Literal["random", "zero"],
    count: int = 128,
    seed: int = 1,
    chosen: Collection[str] = (),
) -> Inputs:
    """Return ``count`` random or zero samples.  Raises ``InputError`` for inputs with open sizes or above 2 GiB.

    Samples have the optional inputs that ``chosen`` names, and no others.

    Random samples hold standard normal values for floats, 0 to 127 for integers and 8 hexadecimal digits for strings.
    Sample i depends only on ``seed`` and i, not on ``count``.
    """
    if count < 1 or seed < 0:
        raise InputError(f"{count} samples of seed {seed}: the count must be at least 1 and the seed at least 0")
    taken = [not spec.optional or spec.name in chosen for spec in interface.inputs]
    if interface.inputs and not any(taken):
        raise InputError(
            f"all inputs are optional: choose those to send with --input NAME:SHAPE: {inputs_text(interface)}"
        )
    for spec in itertools.compress(interface.inputs, taken):
        if -1 in spec.shape:
            example = ",".join(str(size if size > 0 else 1) for size in spec.shape)
            raise InputError(
                f"input {spec} has open sizes: set them with --input NAME:SHAPE, such as {spec.name}:{example}"
            )
        size = math.prod(spec.shape) * (12 if spec.datatype == "BYTES" else DATATYPES[spec.datatype].itemsize)
        if len(spec.shape) > _MOST_SIZES:
            raise InputError(f"input {spec.name} has {len(spec.shape)} sizes: give at most {_MOST_SIZES}")
        if size > _LARGEST_BYTES:
            raise InputError(f"input {spec} has {size / 2**30:.1f} GiB a sample: set smaller sizes with --input")
    specs = [spec if is_taken else None for spec, is_taken in zip(interface.inputs, taken, strict=True)]
    return _Random(specs, count, seed) if kind == "random" else _Zero(specs, count)


class _Random(Inputs):
    def __init__(self, specs: Sequence[TensorSpec | None], count: int, seed: int) -> None:
        """``specs``: None for an input that is left out."""
        self.name, self.total_count, self.description = "random", count, f"random, seed {seed}"
        self._specs, self._seed = specs, seed

    def sample(self, index: int) -> Sample:
        return tuple(
            LEFT_OUT
            if spec is None
            else as_tensor(_drawn(spec, np.random.default_rng((self._seed, position, index))), spec)
            for position, spec in enumerate(self._specs)
        )


class _Zero(Inputs):
    def __init__(self, specs: Sequence[TensorSpec | None], count: int) -> None:
        self.name, self.total_count, self.description = "zero", count, "zeros"
        self._sample = tuple(
            LEFT_OUT
            if spec is None
            else as_tensor(np.zeros(spec.shape, DATATYPES.get(spec.datatype, np.dtype("S1"))), spec)
            for spec in specs
        )

    def sample(self, index: int) -> Sample:
        return self._sample


def _drawn(spec: TensorSpec, generator: np.random.Generator) -> npt.NDArray[Any]:
    if spec.datatype == "BYTES":
        digits = generator.bytes(4 * math.prod(spec.shape)).hex()
        return np.array([digits[at : at + 8] for at in range(0, len(digits), 8)], "U8").reshape(spec.shape)
    if spec.datatype == "BF16":
        return bfloat16(generator.standard_normal(spec.shape, np.float32))
    if spec.datatype == "FP64":
        return generator.standard_normal(spec.shape)
    if spec.datatype in FLOATING:
        return np.asarray(generator.standard_normal(spec.shape, np.float32), DATATYPES[spec.datatype])
    return np.asarray(
        generator.integers(0, 2 if spec.datatype == "BOOL" else 128, spec.shape), DATATYPES[spec.datatype]
    )
