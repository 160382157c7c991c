"""The sizes of a model's inputs: those of the model, and those that the user gives for what it leaves open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from shlex import quote

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.errors import nearest
from drumfire.sut.data.inputs import MOST_CHANNELS, InputError, inputs_text, shape_text
from drumfire.sut.data.lengths import Lengths
from drumfire.sut.data.options import InputOptions, Values, parse_dims, parse_inputs, parse_ranges, parse_shapes
from drumfire.sut.kserve.messages.tensors import DATATYPES, ModelInterface, Shape, TensorSpec

_MOST_BFLOAT16 = (2 - 2**-7) * 2.0**127
_SIDE, _LENGTH = 224, 128
"""In a suggestion: of an image, and of anything else."""


@dataclass(frozen=True)
class Drawn:
    """A size that differs from sample to sample."""

    key: str
    """Sizes of the same key are the same within a sample."""
    lengths: Lengths


@dataclass(frozen=True)
class Chosen:
    """A model's inputs with what the user says of them."""

    interface: ModelInterface
    """Its sizes are those of the user where they are fixed; -1 remains where they are drawn, or not given."""
    drawn: Mapping[str, Mapping[int, Drawn]] = field(default_factory=dict)
    """By input and place in its shape."""
    named: frozenset[str] = frozenset()
    """The inputs that the user has named, which samples have even where they are optional."""
    values: Mapping[str, Values] = field(default_factory=dict)
    """Of ``--range``."""
    lengths: Mapping[str, Lengths] = field(default_factory=dict)
    """By the names of sizes."""

    @property
    def open(self) -> list[TensorSpec]:
        """The inputs with sizes that neither the model nor the user gives."""
        return [
            spec
            for spec in self.interface.inputs
            if any(size < 0 and axis not in self.drawn.get(spec.name, {}) for axis, size in enumerate(spec.shape))
        ]

    @property
    def advice(self) -> str:
        """Options that give the open sizes, to be copied."""
        words: list[str] = []
        for spec in self.open:
            drawn = self.drawn.get(spec.name, {})
            missing = [axis for axis in _open(spec) if axis not in drawn]
            if all(spec.size_names[axis] for axis in missing):
                words += [f"--dim {quote(spec.size_names[axis])}={_suggested(spec)}" for axis in missing]
            else:
                sizes = [size if size >= 0 else _suggested(spec) for size in spec.shape]
                texts = [str(drawn[axis].lengths if axis in drawn else size) for axis, size in enumerate(sizes)]
                words.append(f"--shape {quote(spec.name)}={'x'.join(texts)}")
        return " ".join(dict.fromkeys(words))

    def unnamed(self, spec: TensorSpec) -> str:
        """The shape of an input that has drawn sizes without a name; empty for any other."""
        drawn = self.drawn.get(spec.name, {})
        if all(size.key in self.lengths for size in drawn.values()):
            return ""
        sizes = (str(drawn[axis].lengths if axis in drawn else size) for axis, size in enumerate(spec.shape))
        return f"{spec.name} {'x'.join(sizes)}"

    def shapes(self, count: int, seed: int) -> dict[str, npt.NDArray[np.int64]]:
        """The drawn shapes of samples 0 .. count-1, by input: (count, sizes of the input).

        A sample's depend on the seed and its index only.
        """
        found = {}
        for spec in self.interface.inputs:
            if sizes := self.drawn.get(spec.name):
                found[spec.name] = shapes = np.tile(np.array(spec.shape, np.int64), (count, 1))
                for axis, size in sizes.items():
                    shapes[:, axis] = size.lengths.draw(count, seed, size.key)
        return found


def choose(interface: ModelInterface, options: InputOptions, batch: str | None = None) -> Chosen:
    """What the user says of these inputs.

    ``batch``: the name that the model's file gives the batch's size, or ""; None on a server, which names no sizes.
    Raises ``InputError`` for inputs, names and sizes that the model does not have.
    """
    known = {spec.name: spec for spec in interface.inputs}
    lengths, shapes, fixed = parse_dims(options.dim), parse_shapes(options.shape), parse_inputs(options.input)
    if lengths and batch is None:
        example = Chosen(interface).advice or f"--shape {next(iter(known), 'NAME')}=8"
        raise InputError(f"--dim {options.dim[0]}: a server gives sizes no names: use --shape, such as {example}")
    for name in fixed.keys() & shapes.keys():
        raise InputError(f"--input and --shape both give the shape of {name!r}: leave one of them out")
    _check_dims(interface, lengths, batch or "")
    own: dict[str, dict[int, Drawn]] = {}
    for name, sizes in (shapes | fixed).items():
        texts = map(str, sizes)
        given = f"--input {name}:{','.join(texts)}" if name in fixed else f"--shape {name}={'x'.join(texts)}"
        _check_shape(given, known.get(name), sizes, interface)
        for axis in _open(known[name]):
            dim, size = known[name].size_names[axis], sizes[axis]
            if not dim:
                own.setdefault(name, {})[axis] = Drawn(str(axis), size)
            elif lengths.setdefault(dim, size) != size:
                raise InputError(f"{given}: {dim} is {lengths[dim]} in other words of the command: leave one out")
    inputs, drawn = [], {}
    for spec in interface.inputs:
        shape, varying = list(spec.shape), {}
        for axis in _open(spec):
            dim = spec.size_names[axis]
            given_size = Drawn(dim, lengths[dim]) if dim in lengths else own.get(spec.name, {}).get(axis)
            if given_size is not None and given_size.lengths.fixed:
                shape[axis] = given_size.lengths.least
            elif given_size is not None:
                varying[axis] = given_size
        inputs.append(replace(spec, shape=tuple(shape)))
        if varying:
            drawn[spec.name] = varying
    values = parse_ranges(options.range)
    for name, asked in values.items():
        _check_values(f"--range {name}={asked}", known.get(name), asked, interface)
    named = frozenset((*shapes, *fixed, *values))
    return Chosen(replace(interface, inputs=tuple(inputs)), drawn, named, values, lengths)


def disagreement(sample: Iterable[tuple[str, Shape, Sequence[str]]]) -> str:
    """What is wrong with a sample whose sizes of one name differ; empty if nothing is.

    ``sample``: the name of each input, its shape, and the names of its sizes, () or "" for ones without.
    """
    found: dict[str, tuple[int, str, Shape]] = {}
    for name, shape, dims in sample:
        for size, dim in zip(shape, dims, strict=False):
            known, other, whole = found.setdefault(dim, (size, name, shape))
            if dim and known != size:
                return (
                    f"{other} has the shape {shape_text(whole)} and {name} {shape_text(shape)}, but the model has one "
                    f"size {dim} in both: give them one length"
                )
    return ""


def _check_dims(interface: ModelInterface, lengths: Mapping[str, Lengths], batch: str) -> None:
    names = [name for name in dict.fromkeys(name for spec in interface.inputs for name in spec.dims) if name]
    for name, size in lengths.items():
        if name not in names:
            have = f"has the open sizes {', '.join(names)}" if names else "names no open size (--shape gives sizes)"
            have += f", and {batch} for its batch" if batch else ""
            near = nearest(name, [*names, batch])
            raise InputError(f"--dim {name}={size}: the model {have}{near}: {inputs_text(interface)}")


def _check_shape(given: str, spec: TensorSpec | None, sizes: Sequence[Lengths], interface: ModelInterface) -> None:
    if spec is None:
        raise InputError(f"{given}: {inputs_text(interface)}")
    if len(sizes) != len(spec.shape):
        raise InputError(f"{given}: wrong number of sizes (leave the batch out): {inputs_text(interface)}")
    pairs = zip(spec.shape, sizes, strict=True)
    if any(known >= 0 and (size.least, size.most) != (known, known) for known, size in pairs):
        raise InputError(f"{given}: only open sizes can be chosen: {inputs_text(interface)}")


def _check_values(given: str, spec: TensorSpec | None, values: Values, interface: ModelInterface) -> None:
    if spec is None:
        raise InputError(f"{given}: {inputs_text(interface)}")
    if spec.datatype in ("BYTES", "BOOL"):
        raise InputError(f"{given}: only numbers have ranges: {inputs_text(interface)}")
    dtype = DATATYPES[spec.datatype]
    if spec.datatype == "BF16":
        bounds = (-_MOST_BFLOAT16, _MOST_BFLOAT16)
    elif dtype.kind == "f":
        bounds = (float(np.finfo(dtype).min), float(np.finfo(dtype).max))
    else:
        bounds = (np.iinfo(dtype).min, np.iinfo(dtype).max)
        if not all(isinstance(bound, int) for bound in values):
            raise InputError(f"{given}: {spec.name} takes integers")
    if not bounds[0] <= values.least <= values.most <= bounds[1]:
        raise InputError(f"{given}: {spec.datatype} has values from {bounds[0]:g} to {bounds[1]:g}")


def _open(spec: TensorSpec) -> Iterator[int]:
    return (axis for axis, size in enumerate(spec.shape) if size < 0)


def _suggested(spec: TensorSpec) -> int:
    is_image = len(spec.shape) == 3 and any(0 < spec.shape[axis] <= MOST_CHANNELS for axis in (0, 2))
    return _SIDE if is_image else _LENGTH
