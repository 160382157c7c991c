"""Outputs that have open sizes of inputs, such as a row for each token: found out, and cut back where these are padded.

Does not depend on how samples are held or on who asks for the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy.typing as npt

from drumfire.loadgen.system import Batch
from drumfire.sut.kserve.messages.tensors import Shape
from drumfire.sut.local.backends import Backend, BackendError, first_line
from drumfire.sut.local.backends.interface import numbered
from drumfire.sut.local.responses import OutputError, check_outputs
from drumfire.sut.models.tensors import Tensors

Array = npt.NDArray[Any]

_ODD = 3


class Place(NamedTuple):
    """A size of a sample."""

    position: int
    """Of the input, among the model's."""
    axis: int
    """In the shape of its sample."""


Follows = Mapping[int, Place]
"""By place in an output's shape, without the batch: the size of an input that it equals."""


def followed(
    model: Backend, tensors: Tensors, small: Tensors, large: Tensors, names: Sequence[str]
) -> tuple[list[Follows], str]:
    """For each output, the open sizes of inputs that it has; and the name of one whose sizes change otherwise, or "".

    ``small`` and ``large``: ``tensors`` with sizes to try in place of open ones.  ``names``: the outputs', numbered if
    there are not as many.  Raises ``BackendError``, and ``OutputError``.
    """
    places: dict[str, list[Place]] = {}
    for position, one in enumerate(tensors.inputs):
        for axis, (dim, size) in enumerate(zip(one.size_names, one.sample_shape, strict=True)):
            if size is None and not one.optional:
                places.setdefault(dim or f"{position} {axis}", []).append(Place(position, axis))
    try:
        return _followed(model, small, large, names, list(places.values()))
    except BackendError:  # sizes without a name may have to agree
        return _followed(model, small, large, names, [[place for group in places.values() for place in group]])


def _followed(
    model: Backend, small: Tensors, large: Tensors, names: Sequence[str], groups: Sequence[Sequence[Place]]
) -> tuple[list[Follows], str]:
    """``groups``: sizes that are the same."""
    rows = small.batch_size or 1
    first = [output.shape[1:] for output in run(model, small.zeros(rows))]
    names = names if len(names) == len(first) else numbered(len(first))
    follows: list[dict[int, Place]] = [{} for _ in first]
    for group in groups:
        position, axis = group[0]
        size, largest = (one.inputs[position].sample_shape[axis] for one in (small, large))
        assert size is not None
        assert largest is not None
        if size == largest:
            continue
        try:  # an odd size tells more, but some models take no such
            chosen = min(size + _ODD, largest)
            shapes = _shapes(model, small, group, chosen, rows)
        except BackendError:
            shapes = _shapes(model, small, group, chosen := largest, rows)
        for output, (name, before, after) in enumerate(zip(names, first, shapes, strict=True)):
            for at, sizes in enumerate(zip(before, after, strict=True)):
                if sizes == (size, chosen):
                    follows[output][at] = group[0]
                elif sizes[0] != sizes[1]:
                    return [], name
    return list(follows), ""


def _shapes(model: Backend, tensors: Tensors, group: Sequence[Place], size: int, rows: int) -> list[tuple[int, ...]]:
    inputs = list(tensors.inputs)
    for position, axis in group:
        one = inputs[position]
        shape = (*one.sample_shape[:axis], size, *one.sample_shape[axis + 1 :])
        inputs[position] = one._replace(sample_shape=shape)
    return [output.shape[1:] for output in run(model, replace(tensors, inputs=tuple(inputs)).zeros(rows))]


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


def check_followed(
    outputs: Sequence[Array], follows: Sequence[Follows], shapes: Sequence[Shape | None], names: Sequence[str]
) -> None:
    """Raise ``OutputError`` unless the outputs of a padded batch have its sizes, so that they can be cut back.

    ``shapes``: of its samples, by input.
    """
    for position, (output, places) in enumerate(zip(outputs, follows, strict=True)):
        for axis, place in places.items():
            shape = shapes[place.position]
            if shape is not None and (output.ndim < axis + 2 or output.shape[axis + 1] != shape[place.axis]):
                name = f"output {names[position]!r}" if len(names) == len(outputs) else f"output {position}"
                raise OutputError(
                    f"the model's {name} has the shape {list(output.shape)} for inputs padded to {list(shape)}, so it "
                    "cannot be cut back to what was asked: leave --pad out"
                )


def own_sizes(output: Array, follows: Follows, shapes: Sequence[Shape | None]) -> Shape:
    """The sizes that one sample has of an output, without the batch; ``shapes``: the sample's own, by input."""
    sizes = list(output.shape[1:])
    for axis, place in follows.items():
        if (shape := shapes[place.position]) is not None:
            sizes[axis] = shape[place.axis]
    return tuple(sizes)
