"""The inputs of a model's requests: checked against what the model takes, and brought into its order.

Does not depend on protocols, queues or on what computes the model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from drumfire.sut.kserve.errors import one_line
from drumfire.sut.kserve.messages.exchange import Region
from drumfire.sut.kserve.messages.inference import RequestInput
from drumfire.sut.kserve.messages.tensors import DATATYPES, Shape, TensorError, TensorSpec, as_array, pack_bytes
from drumfire.sut.serving.model import ServedModel
from drumfire.sut.serving.padding import RequestPadding
from drumfire.sut.serving.refusal import Refusal, invalid
from drumfire.sut.serving.request import Contents, Shapes
from drumfire.sut.serving.shared_memory import SharedBytes, SystemRegions

_MOST_FORMS = 1024
_MOST_NAMED = 8
"""Inputs of a request that a refusal names."""
_SHORT = 64
"""Bytes of contents that are compared themselves; of longer ones a digest is."""
_LENGTH_BYTES = 4
"""Before each element of a BYTES tensor."""


class _Form(NamedTuple):
    """What requests have in common whose inputs have the same names, types and shapes."""

    samples: int
    shapes: Shapes
    order: Sequence[int]
    """For each of the model's inputs its place in the request; -1: left out."""
    alike: tuple[object, ...] | None
    """See ``RequestPadding.alike``; None where nothing is padded."""


Given: TypeAlias = tuple[Sequence[Contents], int, Shapes, int, bool, "tuple[object, ...] | None"]
"""Contents, samples, shapes, size, whether some are in shared memory, and what is alike: see ``Request``."""


class Intake:
    """Takes the inputs of one model's requests."""

    def __init__(self, model: ServedModel) -> None:
        self._name, self._most = model.name, model.interface.max_batch_size
        self._specs = model.interface.inputs
        self._padding = model.padding
        self._dims = {spec.name: one.as_in_file.dims for spec, one in zip(self._specs, model.takes, strict=True)}
        """The names of an input's sizes, as its samples arrive."""
        self._forms: dict[object, _Form] = {}
        """Of the requests that were taken, by names, types and shapes."""
        self._is_single = len(self._specs) == 1
        # What is the same for all samples of a batch is compared, so that requests that differ are computed apart.
        axes = [one.batch_axis for one in model.takes]
        self._common = [place for place, axis in enumerate(axes) if axis is None and self._most > 1]

    def take(self, inputs: Sequence[RequestInput], regions: SystemRegions) -> Given:
        """Raises ``Refusal`` if they do not fit the model."""
        key = inputs[0][:3] if len(inputs) == 1 else tuple([one[:3] for one in inputs])
        form = self._forms.get(key)
        if form is None:
            form = self._form(inputs)
            if len(self._forms) >= _MOST_FORMS:
                self._forms.clear()
            self._forms[key] = form
        if self._is_single and not self._common:
            data = inputs[0].data
            if not isinstance(data, Region):
                return (data,), form.samples, form.shapes, len(data), False, form.alike
        return self._of_several(inputs, form, regions)

    def _of_several(self, inputs: Sequence[RequestInput], form: _Form, regions: SystemRegions) -> Given:
        samples, shapes, order, alike = form
        data: list[Contents] = []
        size, is_shared = 0, False
        for position, (spec, shape, place) in enumerate(zip(self._specs, shapes, order, strict=True)):
            one: Contents = None
            if shape is not None:
                sent = inputs[place].data
                one = _placed(spec, (samples, *shape), sent, regions) if isinstance(sent, Region) else sent
                if isinstance(one, SharedBytes) and position in self._common:
                    one = one.read()
                if isinstance(one, SharedBytes):
                    is_shared = True
                else:
                    size += len(one)
            data.append(one)
        if self._common:
            alike = (alike or shapes, *(self._once(position, data[position], form) for position in self._common))
        return data, samples, shapes, size, is_shared, alike

    def _once(self, position: int, contents: Contents, form: _Form) -> bytes | None:
        """What tells an input apart whose contents must be the same for all samples.  Raises ``Refusal``."""
        spec, shape = self._specs[position], form.shapes[position]
        if contents is None or isinstance(contents, SharedBytes) or shape is None:
            return None
        if spec.datatype == "BYTES":
            try:
                rows = [
                    pack_bytes(row) for row in as_array("BYTES", (form.samples, math.prod(shape)), contents).tolist()
                ]
            except TensorError as error:
                raise invalid(f"input {spec} of {self._name!r}: {error}") from None
        else:
            size = len(contents) // form.samples
            rows = [bytes(contents[size * row : size * (row + 1)]) for row in range(form.samples)]
        if any(row != rows[0] for row in rows):
            raise invalid(
                f"input {spec} of {self._name!r} is the same for all samples of a request: send samples that differ in "
                "it in requests of their own"
            )
        return rows[0] if len(rows[0]) <= _SHORT else hashlib.blake2b(rows[0]).digest()

    def _form(self, inputs: Sequence[RequestInput]) -> _Form:
        """Check names, types and shapes.  Raises ``Refusal``."""
        places = {one.name: place for place, one in enumerate(inputs)}
        specs = {spec.name: spec for spec in self._specs}
        lacking = [spec for spec in self._specs if spec.name not in places and not spec.optional]
        if lacking or len(places) != len(inputs) or not places.keys() <= specs.keys():
            raise self._other_names(inputs)
        samples = None
        sizes: dict[str, tuple[int, str]] = {}
        """Of the model's open sizes by name: the size, and the input that has it."""
        for name, datatype, shape, _ in inputs:
            spec = specs[name]
            self._check(spec, datatype, shape)
            if samples is None:
                samples = shape[0]
            elif shape[0] != samples:
                raise invalid(
                    f"the inputs of a request to {self._name!r} have {samples} and {shape[0]} samples: the first size "
                    "of all must be the same batch"
                )
            for dim, size in zip(self._dims[name], shape[1:], strict=False):
                known, other = sizes.setdefault(dim, (size, name)) if dim else (size, name)
                if known != size:
                    shared = (
                        f"inputs {other!r} and {name!r} of {self._name!r} share"
                        if other != name
                        else (f"input {name!r} of {self._name!r} has twice")
                    )
                    raise invalid(f"{shared} the size {dim!r}: the request has {known} and {size}")
        assert samples is not None
        if not 1 <= samples <= self._most:
            raise invalid(f"{samples} samples in a request: {self._name!r} takes 1 to {self._most}")
        order = [places.get(spec.name, -1) for spec in self._specs]
        shapes = tuple(inputs[place].shape[1:] if place >= 0 else None for place in order)
        return _Form(samples, shapes, order, None if self._padding is None else self._alike(self._padding, shapes))

    def _alike(self, padding: RequestPadding, shapes: Shapes) -> tuple[object, ...]:
        position = padding.too_large(shapes)
        if position is not None:
            raise invalid(
                f"input {self._specs[position]} of {self._name!r} received a sample of the shape "
                f"[{','.join(map(str, shapes[position] or ()))}]: the server's --pad {padding.rule} takes sizes up to "
                f"{padding.rule.sizes[-1]}"
            )
        return padding.alike(shapes)

    def _check(self, spec: TensorSpec, datatype: str, shape: Shape) -> None:
        if datatype != spec.datatype:
            raise invalid(f"input {spec} of {self._name!r} received {datatype}")
        if not shape or not spec.fits(shape[1:]) or min(shape) < 0:
            raise invalid(
                f"input {spec} of {self._name!r} received the shape [{','.join(map(str, shape))}], which must be the "
                "batch and the shape of a sample"
            )

    def _other_names(self, inputs: Sequence[RequestInput]) -> Refusal:
        names = ", ".join(repr(one_line(one.name, 60)) for one in inputs[:_MOST_NAMED]) or "none"
        if len(inputs) > _MOST_NAMED:
            names += f" and {len(inputs) - _MOST_NAMED} more"
        takes = ", ".join(f"{spec}{' (optional)' if spec.optional else ''}" for spec in self._specs)
        what = f"one input, {takes}" if self._is_single else f"each of these inputs once: {takes}"
        return invalid(f"model {self._name!r} takes {what}; the request has {names}")


def _placed(spec: TensorSpec, shape: Shape, region: Region, regions: SystemRegions) -> SharedBytes:
    """The place of an input in shared memory.  Raises ``Refusal``."""
    elements = math.prod(shape)
    if spec.datatype != "BYTES" and region.size != (size := elements * DATATYPES[spec.datatype].itemsize):
        raise invalid(f"input {spec}: {region.size} bytes of shared memory; its shape has {size}")
    if spec.datatype == "BYTES" and region.size < (size := elements * _LENGTH_BYTES):
        raise invalid(f"input {spec}: {region.size} bytes of shared memory; its shape has at least {size}")
    return regions.place(region)
