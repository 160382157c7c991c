"""Whether padding changes a model's answers: found out by running a short sample alone, and padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import Batch
from drumfire.sut.data.ragged import RaggedLibrary

Array = npt.NDArray[Any]
RunOutputs = Callable[[Batch], Sequence[Array]]
"""Gives the outputs of a batch, each of shape (n, ...), bfloat16 as the bits of it."""

_TRIED = 16
"""The first samples, of which the shortest is run as if beside the longest."""
_UNKNOWN = "padded with 0: answers depend on the padding unless the model masks it"


def reservation(run: RunOutputs, library: RaggedLibrary, bfloat16: Sequence[bool], tolerance: float) -> str:
    """What a result on samples that are padded with 0 is subject to; empty if the padding changes no answer.

    ``bfloat16``: which outputs are.  ``tolerance``: by how much values may differ, as a share of the output's largest.
    Raises what the library raises.
    """
    indices = np.arange(min(_TRIED, library.performance_count, library.total_count))
    library.load(indices)
    sizes = library.sizes(indices)
    pair = np.array([sizes.argmin(), sizes.argmax()])
    size = library.plan(pair, 2).padded[0]
    alone = library.alone(int(pair[0]))
    padded = {name: array[:1] for name, array in library.batch(pair).items()}
    library.unload(indices)
    if all(padded[name].shape == array.shape for name, array in alone.items()):
        return _UNKNOWN
    try:
        first, again, other = ([np.array(output) for output in run(batch)] for batch in (alone, alone, padded))
    except Exception:  # a file of one size takes none that is not padded, and refuses it in any way
        return _UNKNOWN
    if _differ(first, again, bfloat16, tolerance):  # it draws numbers, say
        return _UNKNOWN
    if not _differ(first, other, bfloat16, tolerance):
        return ""
    return (
        f"the model's answers change with padding: sample {pair[0]}, of size {sizes[pair[0]]}, is answered otherwise "
        f"when padded with 0 to {size} (without --pad, only samples of equal size share a batch)"
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
