"""What a loaded model gives: found by running zeros, as files do not say it of all outputs.

Does not depend on the names that requests use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import Batch
from drumfire.sut.kserve.messages.tensors import Shape, TensorError, TensorSpec, datatype_of
from drumfire.sut.local.backends import Backend, BackendError
from drumfire.sut.local.backends.arranged import arranged, with_outputs
from drumfire.sut.local.backends.interface import numbered
from drumfire.sut.local.followed import run
from drumfire.sut.models.tensors import Tensors

_OPEN_SIZES = ((8, 16), (32, 64), (128, 256), (1, 2))
"""Two sizes to try a model with where it accepts any; the next two where it does not run on these."""


Ranges = Mapping[str, Mapping[int, tuple[int, int]]]
"""The least and the most of open sizes, by input and place in the shape of its sample."""


class Signature(NamedTuple):
    """What the model was found to give."""

    tensors: Tensors
    """What it takes, with the batch's place in each output."""
    outputs: tuple[TensorSpec, ...]
    """Without the batch; -1 for a size that varies."""
    largest: Batch
    """The largest batch that was run."""
    sized: Tensors
    """``tensors`` with the smaller sizes that were run in place of open ones."""
    larger: Tensors
    """The same with the larger ones."""


def signature(
    backend: Backend, tensors: Tensors, names: Sequence[str], most: int, ranges: Ranges = MappingProxyType({})
) -> Signature:
    """Run a model that takes ``tensors`` on a few zeros and on ``most`` samples of them, without optional inputs.

    ``names``: the outputs' in answers; they are numbered if there are not as many.  The batch size is 1 where an output
    has no batch.  ``ranges``: sizes that are known.  Raises ``BackendError``, and ``OutputError``.
    """
    refused: list[str] = []
    tried: list[Sequence[Tensors]] = []
    for sizes in _OPEN_SIZES:
        sized = [_sized(tensors, ranges, sizes, which) for which in (0, 1)]
        if sized not in tried:
            tried.append(sized)
            try:
                return _found(backend, tensors, names, most, sized)
            except BackendError as error:
                refused.append(str(error))
    fix = "; --dim NAME=SIZE or --shape NAME=SHAPE gives sizes that it takes" if tensors.has_open_sizes else ""
    raise BackendError(refused[0] + fix)


def _found(backend: Backend, tensors: Tensors, names: Sequence[str], most: int, sized: Sequence[Tensors]) -> Signature:
    """``sized``: the tensors with two choices of their open sizes."""
    small, large = sized
    placed = with_outputs(backend, small)
    size = placed.batch_size
    own = replace(
        tensors,
        inputs=tuple(one._replace(batch_size=size) for one in tensors.inputs),
        output_axes=placed.output_axes,
    )
    model = arranged(backend, own)
    largest = large.zeros(size or most)
    seen = [run(model, batch) for batch in (small.zeros(size or 1), largest)]
    count = len(seen[0])
    names = names if len(names) == count else numbered(count)
    bfloat16 = [name in own.bfloat16_outputs for name in own.outputs] if len(own.outputs) == count else [False] * count
    said = own.output_samples if len(own.output_shapes) == count else [None] * count
    specs = [_spec(*one) for one in zip(names, zip(*seen, strict=True), bfloat16, said, strict=True)]
    sizes = [replace(own, inputs=one.inputs) for one in sized]
    return Signature(own, tuple(specs), largest, *sizes)


def changed_by_padding(model: Backend, found: Signature) -> bool:
    """Whether padding changes answers, such as a mean over all tokens: those to ones, alone and padded.

    Raises ``BackendError``.
    """
    rows = found.tensors.batch_size or 1
    small, large = found.sized.zeros(rows), found.larger.zeros(rows)
    for one in found.tensors.inputs:
        if one.name in small:
            samples, padded = small[one.name], large[one.name]
            samples.fill(b"1" if one.dtype.hasobject else 1)
            padded.fill(one.opened.padding or (b"" if one.dtype.hasobject else 0))
            padded[tuple(map(slice, samples.shape))] = samples
    for alone, padded in zip(run(model, small), run(model, large), strict=True):
        cut = padded[tuple(map(slice, alone.shape))]
        is_text = alone.dtype.hasobject
        if not (np.array_equal(alone, cut) if is_text else np.allclose(alone, cut, 1e-2, 1e-3, equal_nan=True)):
            return True
    return False


def _sized(tensors: Tensors, ranges: Ranges, sizes: Sequence[int], which: int) -> Tensors:
    """The same with the least (``which`` 0) or the most where sizes are open, or with those of ``sizes``."""
    inputs = []
    for one in tensors.inputs:
        known = ranges.get(one.name, {})
        inputs.append(one.with_sizes(known.get(axis, sizes)[which] for axis in range(len(one.sample_shape))))
    return replace(tensors, inputs=tuple(inputs))


def _spec(
    name: str, arrays: Sequence[npt.NDArray[Any]], is_bfloat16: bool, said: tuple[int | None, ...] | None
) -> TensorSpec:
    """One output, from several batches.  ``said``: what the file says of its shape.  Raises ``BackendError``.

    A size that the file leaves open stays so, as other values than zeros may change it: the number of what was found.
    """
    shapes = [array.shape[1:] for array in arrays]
    if len({len(shape) for shape in shapes}) != 1:
        raise BackendError(
            f"the model's output {name!r} has a varying number of dimensions, which cannot be served: export it with "
            "a fixed one"
        )
    if said is None or len(said) != len(shapes[0]):
        said = shapes[0]
    shape: Shape = tuple(
        -1 if size is None or len(set(sizes)) > 1 else sizes[0]
        for size, sizes in zip(said, zip(*shapes, strict=True), strict=True)
    )
    dtype = arrays[0].dtype
    try:
        return TensorSpec(name, "BF16" if is_bfloat16 else datatype_of(dtype), shape)
    except TensorError as error:
        raise BackendError(
            f"the model's output {name!r} cannot be served: {error}; export it with another, or measure the model in "
            "this process with 'drumfire run'"
        ) from None
