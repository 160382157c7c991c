"""What padding does to a model's outputs: found out by running a short sample alone, and padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import Batch
from drumfire.sut.data.ragged import RaggedLibrary
from drumfire.sut.local.backends import Backend, BackendError
from drumfire.sut.local.followed import Follows, followed
from drumfire.sut.models.tensors import Tensors

Array = npt.NDArray[Any]
RunOutputs = Callable[[Batch], Sequence[Array]]
"""Gives the outputs of a batch, each of shape (n, ...), bfloat16 as the bits of it."""

_TRIED = 16
"""The first samples, of which the shortest is run as if beside the longest."""
_UNKNOWN = "padded with 0: answers depend on the padding unless the model masks it"


class Pair(NamedTuple):
    """The shortest of the first samples, alone and as if beside the longest of them."""

    alone: Batch
    padded: Batch
    sample: int
    size: int
    padded_size: int

    @property
    def differs(self) -> bool:
        return any(self.padded[name].shape != array.shape for name, array in self.alone.items())


def pair(library: RaggedLibrary) -> Pair:
    """Two batches of one sample.  Raises what the library raises."""
    indices = np.arange(min(_TRIED, library.performance_count, library.total_count))
    library.load(indices)
    sizes = library.sizes(indices)
    both = np.array([sizes.argmin(), sizes.argmax()])
    size = int(library.plan(both, 2).padded[0])
    alone = library.alone(int(both[0]))
    padded = {name: array[:1] for name, array in library.batch(both).items()}
    library.unload(indices)
    return Pair(alone, padded, int(both[0]), int(sizes[both[0]]), size)


def outputs_of(model: Backend, tensors: Tensors, found: Pair) -> tuple[list[Follows], str]:
    """How outputs are cut back that have sizes of padded samples; and what a result says where they cannot be.

    ``tensors``: the model's inputs, as batches have them.
    """
    small = _of_sizes(tensors, found.alone)
    # Samples of one size tell nothing, and a double one fits most models.
    large = _of_sizes(tensors, found.padded, found.alone)
    names = model.tensors.outputs
    try:
        follows, unknown = followed(model, tensors, small, large, names)
    except BackendError:
        return [], _uncut_at(model, found)
    if unknown:
        return [], (
            f"output {unknown} has a size that depends on the samples' but is none of them: answers keep what their "
            "padding adds"
        )
    return follows, ""


def _uncut_at(model: Backend, found: Pair) -> str:
    """What a result says of a model that runs on no other size, if its outputs may have that size."""
    sizes = {size for array in found.padded.values() for size in array.shape[1:]} - {1}
    try:
        outputs = model.run(found.padded)
    except Exception:  # it will say why in the run
        return ""
    names = [
        name for name, output in zip(model.tensors.outputs, outputs, strict=False) if sizes & set(output.shape[1:])
    ]
    if not names:
        return ""
    return f"the model takes one size, so answers keep a row for each element of the padding: {', '.join(names)}"


def _of_sizes(tensors: Tensors, batch: Batch, beyond: Batch | None = None) -> Tensors:
    """The same with the sizes of a batch in place of open ones; twice those of ``beyond`` where it has no larger."""
    inputs = []
    for one in tensors.inputs:
        if one.name in batch:
            sizes = list(batch[one.name].shape[1:])
            if beyond is not None:
                for axis in one.opened.axes:
                    least = beyond[one.name].shape[axis + 1]
                    sizes[axis] = sizes[axis] if sizes[axis] > least else 2 * least
            one = one._replace(sample_shape=tuple(sizes))
        inputs.append(one)
    return replace(tensors, inputs=tuple(inputs))


def reservation(run: RunOutputs, found: Pair, bfloat16: Sequence[bool], tolerance: float) -> str:
    """What a result on samples that are padded with 0 is subject to; empty if the padding changes no answer.

    ``bfloat16``: which outputs are.  ``tolerance``: by how much values may differ, as a share of the output's largest.
    """
    if not found.differs:
        return _UNKNOWN
    try:
        batches = (found.alone, found.alone, found.padded)
        first, again, other = ([np.array(output) for output in run(batch)] for batch in batches)
    except Exception:  # a file of one size takes none that is not padded, and refuses it in any way
        return _UNKNOWN
    if _differ(first, again, bfloat16, tolerance):  # it draws numbers, say
        return _UNKNOWN
    if not _differ(first, other, bfloat16, tolerance):
        return ""
    return (
        f"the model's answers change with padding: sample {found.sample}, of size {found.size}, is answered otherwise "
        f"when padded with 0 to {found.padded_size} (without --pad, only samples of equal size share a batch)"
    )


def _differ(alone: Sequence[Array], padded: Sequence[Array], bfloat16: Sequence[bool], tolerance: float) -> bool:
    """Whether outputs differ where both have values: those of a sample's elements may have more for its padding."""
    for one, other, is_bits in zip(alone, padded, bfloat16, strict=True):
        if one.ndim != other.ndim or any(size > wide for size, wide in zip(one.shape, other.shape, strict=True)):
            return True
        shown = other[tuple(map(slice, one.shape))]
        if not is_bits and one.dtype.kind not in "fc":
            if not np.array_equal(one, shown):
                return True
            continue
        values, others = (
            (bits.astype(np.uint32) << 16).view(np.float32) if is_bits else bits.astype(np.float64)
            for bits in (one, shown)
        )
        least = 0.01 if one.dtype.itemsize == 2 else 0.0
        most = np.abs(values[np.isfinite(values)]).max(initial=0.0)
        if not np.allclose(values, others, rtol=0.0, atol=max(tolerance, least) * most, equal_nan=True):
            return True
    return False
