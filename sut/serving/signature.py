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
from drumfire.sut.local.backends import Backend, BackendError, first_line
from drumfire.sut.local.backends.arranged import arranged, with_outputs
from drumfire.sut.local.backends.interface import numbered
from drumfire.sut.local.responses import check_outputs
from drumfire.sut.models.tensors import Tensors
from drumfire.sut.serving.padding import Follows, Place

_OPEN_SIZES = ((8, 16), (32, 64), (128, 256), (1, 2))
"""Two sizes to try a model with where it accepts any; the next two where it does not run on these."""

_ODD = 3


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
    halves = [name in own.bfloat16_outputs for name in own.outputs] if len(own.outputs) == count else [False] * count
    specs = [_spec(*one) for one in zip(names, zip(*seen, strict=True), halves, strict=True)]
    sizes = [replace(own, inputs=one.inputs) for one in sized]
    return Signature(own, tuple(specs), largest, *sizes)


def followed(model: Backend, found: Signature) -> tuple[list[Follows], str]:
    """For each output, the open sizes of inputs that it has; and the name of one whose sizes change otherwise, or "".

    ``model``: the one that was found.  Raises ``BackendError``.
    """
    places: dict[str, list[Place]] = {}
    for position, one in enumerate(found.tensors.inputs):
        dims = one.dims or ("",) * len(one.sample_shape)
        for axis, (dim, size) in enumerate(zip(dims, one.sample_shape, strict=True)):
            if size is None and not one.optional:
                places.setdefault(dim or f"{position} {axis}", []).append(Place(position, axis))
    try:
        return _followed(model, found, list(places.values()))
    except BackendError:  # sizes without a name may have to agree
        return _followed(model, found, [[place for group in places.values() for place in group]])


def _followed(model: Backend, found: Signature, groups: Sequence[Sequence[Place]]) -> tuple[list[Follows], str]:
    """``groups``: sizes that are the same."""
    rows = found.tensors.batch_size or 1
    small = [output.shape[1:] for output in run(model, found.sized.zeros(rows))]
    follows: list[dict[int, Place]] = [{} for _ in small]
    for group in groups:
        position, axis = group[0]
        size = found.sized.inputs[position].sample_shape[axis]
        largest = found.larger.inputs[position].sample_shape[axis]
        assert size is not None
        assert largest is not None
        if size == largest:
            continue
        try:  # an odd size tells more, but some models take no such
            chosen = min(size + _ODD, largest)
            shapes = _shapes(model, found.sized, group, chosen, rows)
        except BackendError:
            shapes = _shapes(model, found.sized, group, chosen := largest, rows)
        for output, (name, before, after) in enumerate(zip(found.outputs, small, shapes, strict=True)):
            for at, sizes in enumerate(zip(before, after, strict=True)):
                if sizes == (size, chosen):
                    follows[output][at] = group[0]
                elif sizes[0] != sizes[1]:
                    return [], name.name
    return list(follows), ""


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


def _shapes(model: Backend, tensors: Tensors, group: Sequence[Place], size: int, rows: int) -> list[tuple[int, ...]]:
    inputs = list(tensors.inputs)
    for position, axis in group:
        one = inputs[position]
        shape = (*one.sample_shape[:axis], size, *one.sample_shape[axis + 1 :])
        inputs[position] = one._replace(sample_shape=shape)
    return [output.shape[1:] for output in run(model, replace(tensors, inputs=tuple(inputs)).zeros(rows))]


def _sized(tensors: Tensors, ranges: Ranges, sizes: Sequence[int], which: int) -> Tensors:
    """The same with the least (``which`` 0) or the most where sizes are open, or with those of ``sizes``."""
    inputs = []
    for one in tensors.inputs:
        known = ranges.get(one.name, {})
        shape = [known.get(axis, sizes)[which] if size is None else size for axis, size in enumerate(one.sample_shape)]
        inputs.append(one._replace(sample_shape=tuple(shape)))
    return replace(tensors, inputs=tuple(inputs))


def run(model: Backend, batch: Batch) -> list[npt.NDArray[Any]]:
    """The outputs for a batch of zeros.  Raises ``BackendError`` if the model fails, and ``OutputError``."""
    try:
        outputs = list(model.run(batch))
    except Exception as error:  # whatever a framework may raise
        shapes = ", ".join(str(list(array.shape)) for array in batch.values())
        raise BackendError(
            f"the model cannot run on zeros of shape {shapes}: {first_line(error)}; see --max-batchsize"
        ) from None
    check_outputs(outputs, model.tensors.outputs, len(next(iter(batch.values()))))
    return outputs


def _spec(name: str, arrays: Sequence[npt.NDArray[Any]], is_bfloat16: bool) -> TensorSpec:
    """One output, from several batches.  Raises ``BackendError``."""
    shapes = [array.shape[1:] for array in arrays]
    if len({len(shape) for shape in shapes}) != 1:
        raise BackendError(
            f"the model's output {name!r} has a varying number of dimensions, which cannot be served: export it with "
            "a fixed one"
        )
    shape: Shape = tuple(sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True))
    dtype = arrays[0].dtype
    try:
        return TensorSpec(name, "BF16" if is_bfloat16 else datatype_of(dtype), shape)
    except TensorError as error:
        raise BackendError(
            f"the model's output {name!r} cannot be served: {error}; export it with another, or measure the model in "
            "this process with 'drumfire run'"
        ) from None
