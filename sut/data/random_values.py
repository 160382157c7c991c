"""Samples of random values or of zeros, which need no file."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from shlex import quote
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from drumfire.sut.data.inputs import FLOATING, InputError, Inputs, Sample, bfloat16, inputs_text
from drumfire.sut.data.options import Values
from drumfire.sut.data.sizes import Chosen
from drumfire.sut.kserve.messages.tensors import DATATYPES, LEFT_OUT, Shape, TensorSpec, as_tensor

_MOST_SIZES = 32
"""Numpy has no arrays of many more."""
_LARGEST_BYTES = 2**31  # what one protobuf message can hold
_INTEGERS = Values(0, 127)
"""Of inputs of which nothing is known."""
_TYPES = ("token_type", "segment")
"""In the names of inputs that hold types of tokens."""
_OUT_OF_RANGE = ("out of data bounds", "out of bounds", "out of range")
"""In the errors of models that look a value up in a table which does not have it."""

Draw = Callable[[Shape, np.random.Generator], npt.NDArray[Any]]
"""Makes the values of one sample's input."""


def generated(
    chosen: Chosen,
    *,
    kind: Literal["random", "zero"],
    count: int = 128,
    seed: int = 1,
    known: Mapping[str, Values] | None = None,
) -> Inputs:
    """Return ``count`` random or zero samples.  Raises ``InputError`` for inputs with open sizes or above 2 GiB.

    Samples have the optional inputs that the user has named, and no others.

    Random samples hold standard normal values for floats, 0 to 127 for integers and 8 hexadecimal digits for strings,
    or values of the ranges that the user says, else of those that are ``known``, by input.  By their names some inputs
    get what models expect of them: masks are 1 throughout, types of tokens 0, and positions count from 0.
    Sample i depends only on ``seed`` and i, not on ``count``.
    """
    interface, known = chosen.interface, known or {}
    if count < 1 or seed < 0:
        raise InputError(f"{count} samples of seed {seed}: the count must be at least 1 and the seed at least 0")
    taken = [spec for spec in interface.inputs if not spec.optional or spec.name in chosen.named]
    if interface.inputs and not taken:
        raise InputError(
            f"all inputs are optional: choose those to send with --shape NAME=SHAPE: {inputs_text(interface)}"
        )
    wanted = {spec.name for spec in taken}
    for spec in chosen.open:
        if spec.name in wanted:
            raise InputError(f"input {spec} has open sizes: set them with {chosen.advice}, or give --input-data")
    shapes = chosen.shapes(count, seed)
    for spec in taken:
        largest = tuple(shapes[spec.name].max(axis=0).tolist()) if spec.name in shapes else spec.shape
        size = math.prod(largest) * (12 if spec.datatype == "BYTES" else DATATYPES[spec.datatype].itemsize)
        if len(spec.shape) > _MOST_SIZES:
            raise InputError(f"input {spec.name} has {len(spec.shape)} sizes: give at most {_MOST_SIZES}")
        if size > _LARGEST_BYTES:
            raise InputError(f"input {spec} has {size / 2**30:.1f} GiB a sample: set smaller sizes")
    draws, said = {}, []
    for spec in taken:
        asked, has = chosen.values.get(spec.name), known.get(spec.name)
        if asked and has and (asked.least < -has.most - 1 or asked.most > has.most):  # -1 is the table's last row
            raise InputError(
                f"--range {spec.name}={asked}: the model looks {spec.name} up in a table of the rows {has}"
            )
        what, draws[spec.name] = _made(spec, asked, has, kind)
        said += [f"{spec.name} {what}"] if what else []
    said += [f"{name} {lengths}" for name, lengths in chosen.lengths.items()]
    said += [text for spec in taken if (text := chosen.unnamed(spec))]
    what = "samples of zeros" if kind == "zero" else f"random samples, seed {seed}"
    description = f"{count} {what}"
    if said:
        description += f": {', '.join(said)}"
    return _Generated(kind, count, seed, description, interface.inputs, draws, shapes)


def range_advice(error: str, specs: Sequence[TensorSpec], known: Collection[str] = ()) -> str:
    """What helps where a model fails with this error on random values; empty if nothing is known.

    ``known``: the inputs whose values are known to be right.
    """
    if not any(text in error for text in _OUT_OF_RANGE):
        return ""
    drawn = [spec.name for spec in specs if _is_drawn_integer(spec) and spec.name not in known]
    options = " ".join(f"--range {quote(name)}=0..N" for name in drawn)
    return f" (say which values an input may have: {options})" if options else ""


class _Generated(Inputs):
    def __init__(
        self,
        name: str,
        count: int,
        seed: int,
        description: str,
        specs: Sequence[TensorSpec],
        draws: Mapping[str, Draw],
        shapes: Mapping[str, npt.NDArray[np.int64]],
    ) -> None:
        """``draws``: of the inputs that samples have.  ``shapes``: of the inputs where they differ."""
        self.name, self.total_count, self.description = name, count, description
        self._seed, self._specs, self._draws, self._shapes = seed, specs, draws, shapes

    def shapes(self, index: int) -> Sequence[Shape]:
        return [self._shape(spec, index) if spec.name in self._draws else () for spec in self._specs]

    def sample(self, index: int) -> Sample:
        return tuple(
            as_tensor(
                self._draws[spec.name](self._shape(spec, index), np.random.default_rng((self._seed, position, index))),
                spec,
            )
            if spec.name in self._draws
            else LEFT_OUT
            for position, spec in enumerate(self._specs)
        )

    def _shape(self, spec: TensorSpec, index: int) -> Shape:
        return tuple(self._shapes[spec.name][index].tolist()) if spec.name in self._shapes else spec.shape


def _made(spec: TensorSpec, asked: Values | None, known: Values | None, kind: str) -> tuple[str, Draw]:
    """How an input's values are made, in words and as a function; no words for what is usual."""
    name, datatype = spec.name.casefold(), spec.datatype
    if kind == "zero":
        return "", lambda shape, generator: np.zeros(shape, DATATYPES.get(datatype, np.dtype("S1")))
    if datatype == "BYTES":
        return "", _digits
    dtype = DATATYPES[datatype]
    if asked is None and "mask" in name:
        one = bfloat16(np.ones(1, np.float32))[0] if datatype == "BF16" else 1
        return "ones", lambda shape, generator: np.full(shape, one, dtype)
    if datatype in FLOATING:
        what = "" if asked is None else str(asked)
        return what, lambda shape, generator: _floats(shape, generator, datatype, asked)
    if asked is None and any(word in name for word in _TYPES):
        return "zeros", lambda shape, generator: np.zeros(shape, dtype)
    if asked is None and "position" in name:
        return "counting from 0", lambda shape, generator: _counting(shape, dtype)
    if datatype == "BOOL":
        return "", lambda shape, generator: generator.integers(0, 2, shape).astype(dtype)
    values = asked or known or _INTEGERS
    least, most = int(values.least), int(values.most)
    # Numbers of the type itself where int64 does not hold them.
    wide = np.uint64 if most > np.iinfo(np.int64).max else np.int64

    def integers(shape: Shape, generator: np.random.Generator) -> npt.NDArray[Any]:
        return generator.integers(least, most, shape, wide, endpoint=True).astype(dtype)

    return str(values), integers


def _is_drawn_integer(spec: TensorSpec) -> bool:
    """Whether an input of this name and type gets any integers, without a range."""
    name = spec.name.casefold()
    return spec.datatype not in (*FLOATING, "BYTES", "BOOL") and not any(
        word in name for word in ("mask", *_TYPES, "position")
    )


def _floats(shape: Shape, generator: np.random.Generator, datatype: str, values: Values | None) -> npt.NDArray[Any]:
    dtype = np.float64 if datatype == "FP64" else np.float32
    if values is None:
        drawn: npt.NDArray[Any] = generator.standard_normal(shape, dtype)
    else:
        share = generator.random(shape)
        drawn = np.asarray((1 - share) * values.least + share * values.most, dtype)
    return bfloat16(drawn) if datatype == "BF16" else np.asarray(drawn, DATATYPES[datatype])


def _digits(shape: Shape, generator: np.random.Generator) -> npt.NDArray[Any]:
    digits = generator.bytes(4 * math.prod(shape)).hex()
    return np.array([digits[at : at + 8] for at in range(0, len(digits), 8)], "U8").reshape(shape)


def _counting(shape: Shape, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.broadcast_to(np.arange(shape[-1] if shape else 1).astype(dtype), shape or (1,)).reshape(shape)
