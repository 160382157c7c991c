"""Samples of different sizes: how they are held, which of them share a batch, and what fills up the shorter ones.

Does not depend on what the samples are or on who runs the batches.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import Batch, IndexArray
from drumfire.sut.data import DataError
from drumfire.sut.data.library import Arrangement, Array, ArrayLibrary

Int64Array: TypeAlias = npt.NDArray[np.int64]

FORMS = "longest, a size such as 128, or buckets:16,32,64"
"""What the user may write for ``Padding``."""
_FEW_ROWS, _LARGE_ROW = 4, 4096
"""Rows are copied one by one where they are fewer, or have more elements: that is then faster than by index."""


def offsets_of(counts: Array) -> Int64Array:
    """Where each of n pieces with so many elements begins, and the last ends: shape (n + 1,)."""
    offsets: Int64Array = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return offsets


class Ragged(NamedTuple):
    """An input of n samples whose shapes differ: their values one after the other."""

    values: Array
    """Flat, each sample in C order."""
    offsets: Int64Array
    """Where each sample begins, and after them the end: shape (n + 1,)."""
    shapes: Int64Array
    """The shape of each sample: (n, k) for samples of k dimensions."""

    @classmethod
    def of(cls, samples: Sequence[Array]) -> Ragged:
        """From at least one array; all of them have the same type and number of dimensions."""
        shapes = np.array([sample.shape for sample in samples], np.int64).reshape(len(samples), samples[0].ndim)
        return cls.shaped(np.concatenate([sample.ravel() for sample in samples]), shapes)

    @classmethod
    def shaped(cls, values: Array, shapes: Int64Array) -> Ragged:
        """From the values of samples of these shapes, which follow one another without a gap."""
        return cls(values, offsets_of(shapes.prod(axis=1)), shapes)

    def sample(self, row: int) -> Array:
        """One of the samples, a view."""
        return self.values[self.offsets[row] : self.offsets[row + 1]].reshape(self.shapes[row])


_Indexes: TypeAlias = dict[tuple[int, int], tuple[Int64Array, npt.NDArray[np.bool_]]]
"""Of the inputs of a batch, by their offsets' ``id`` and their width: where the values are, and which are padding."""
RaggedBatch: TypeAlias = Mapping[str, Array | Ragged]


class Padding(NamedTuple):
    """To which size the samples of a batch are padded: the longest of them has, or the next of these."""

    sizes: tuple[int, ...] = ()
    """Ascending; none: the longest's."""

    @classmethod
    def of(cls, text: str) -> Padding:
        """From ``longest``, ``128`` or ``buckets:16,32,64``.  Raises ``DataError``."""
        if text == "longest":
            return cls()
        found = re.fullmatch("(?:[1-9][0-9]{0,8}|buckets:([1-9][0-9]{0,8}(?:,[1-9][0-9]{0,8})*))", text)
        if found is None:
            raise DataError(f"--pad {text!r:.80}: use {FORMS}")
        return cls(tuple(sorted({int(size) for size in (found[1] or text).split(",")})))

    def __str__(self) -> str:
        """As ``of`` reads it."""
        buckets = "buckets:" if len(self.sizes) > 1 else ""
        return buckets + ",".join(map(str, self.sizes)) if self.sizes else "longest"

    def next(self, size: int) -> int:
        """As ``to``, for one size, quicker."""
        return self.sizes[bisect_left(self.sizes, size)] if self.sizes else size

    def to(self, longest: Int64Array) -> Int64Array:
        """The size for batches with these longest samples, none longer than the largest size."""
        return np.array(self.sizes)[np.searchsorted(self.sizes, longest)] if self.sizes else longest


class OpenSizes(NamedTuple):
    """What of an input's sample shape is open."""

    axes: tuple[int, ...]
    padding: Any = None
    """The value that fills up shorter samples; None where samples of other sizes cannot be in one batch."""
    names: tuple[str, ...] = ()
    """Of the sizes at ``axes``, "" for one without; () where none has one.  A sample has one size of a name."""


class Plan(NamedTuple):
    """The batches of some rows."""

    order: IndexArray
    """The positions of the rows, batch after batch."""
    bounds: Sequence[int]
    """Batch i is ``order[bounds[i]:bounds[i + 1]]``."""
    sizes: Int64Array
    """The size of each row, in this order."""
    padded: Int64Array
    """The size that its batch is padded to."""


class RaggedLibrary(ArrayLibrary):
    """A ``SampleLibrary`` some of whose inputs have samples of different shapes; ``batch`` pads these.

    The size of a sample is the product of its open sizes, such as the tokens of a text; the largest input's counts.
    """

    _held: dict[str, Array | Ragged]
    _open_sizes: list[Int64Array]
    """Of each input whose open sizes no other has, those of the loaded samples: shape (n, open sizes)."""
    _sizes: Int64Array
    _sizes_at: memoryview
    """The same, which reads one number faster."""
    _shape_numbers: Int64Array
    """Equal for samples of equal shapes, and in the order of their sizes."""

    def __init__(
        self,
        name: str,
        read: Callable[[IndexArray], RaggedBatch],
        total_count: int,
        performance_count: int,
        inputs: Mapping[str, OpenSizes] | None = None,
    ) -> None:
        """``read``: as that of ``ArrayLibrary``; it gives a ``Ragged`` for each input of different shapes.

        ``inputs``: see ``pad``.
        """
        # The arrays are taken by ``_hold``, which knows both kinds.
        super().__init__(name, lambda indices: cast(Batch, dict(read(indices))), total_count, performance_count)
        self.pad(inputs or {})
        self._arrangement: Arrangement | None = None

    def pad(self, inputs: Mapping[str, OpenSizes], rule: Padding | None = None) -> None:
        """From the next load on: what is open, and how batches are padded, with 0 where an input has no other value.

        Without a rule they are padded to the longest if each of ``inputs`` has a value for it, and otherwise have
        samples of equal shapes.  Inputs that are not named have all sizes open.  Raises ``DataError`` if the rule does
        not fit.
        """
        for name, opened in inputs.items():
            if rule is not None and rule.sizes and (count := len(opened.axes)) > 1:
                raise DataError(f"--pad {rule}: {name} has {count} open sizes, so only --pad longest is clear")
        if rule is None and inputs and all(opened.padding is not None for opened in inputs.values()):
            rule = Padding()
        self._inputs, self._rule = inputs, rule

    @property
    def pads(self) -> bool:
        """Whether samples of different shapes share a batch."""
        return self._rule is not None

    def arrange(self, arrangement: Arrangement) -> None:
        """Pass each batch through ``arrangement``."""
        self._arrangement = arrangement

    def sizes(self, indices: IndexArray) -> Int64Array:
        """The sizes of loaded samples, shape (n,).  Raises ``NotLoadedError``."""
        return self._sizes[self._rows(indices)]

    def size(self, index: int) -> tuple[int, int]:
        """The size of a loaded sample, and the one that it is padded to alone.  Raises ``NotLoadedError``."""
        row = self._row(index)
        size: int = self._sizes_at[row]
        if self._rule is None or not self._rule.sizes:
            return size, size
        return size, max(math.prod(map(self._rule.next, one[row].tolist())) for one in self._open_sizes)

    def plan(self, indices: IndexArray, most: int, *, in_order: bool = False) -> Plan:
        """Divide loaded samples into batches of at most ``most``: of similar sizes if they can be padded, else equal.

        ``in_order``: samples that can be padded stay in their order, whatever their sizes.  They do too where one batch
        takes them all.  Raises ``NotLoadedError``.
        """
        rows = self._rows(indices)
        count = len(rows)
        sizes = self._sizes.take(rows)
        if self._rule is None:
            shapes = self._shape_numbers.take(rows)
            order = shapes.argsort(kind="stable")
            shapes = shapes[order]
            ends = [*(np.flatnonzero(shapes[1:] != shapes[:-1]) + 1).tolist(), count]
            starts = [0, *ends[:-1]]
            bounds = [at for first, end in zip(starts, ends, strict=True) for at in range(first, end, most)]
            sizes = sizes[order]
            return Plan(order, [*bounds, count], sizes, sizes)
        bounds = list(range(0, count, most))
        order = np.arange(count) if in_order or len(bounds) == 1 else sizes.argsort(kind="stable")
        rows, sizes = rows[order], sizes[order]
        padded = np.zeros(len(bounds), np.int64)
        for open_sizes in self._open_sizes:
            longest = self._rule.to(np.maximum.reduceat(open_sizes.take(rows, axis=0), bounds))
            padded = np.maximum(padded, longest.prod(axis=1))
        bounds.append(count)
        return Plan(order, bounds, sizes, padded.repeat(np.diff(bounds)))

    def divided(self, indices: IndexArray) -> list[IndexArray]:
        """Loaded samples in parts that can each be one batch."""
        plan = self.plan(indices, len(indices))
        return np.split(indices[plan.order], plan.bounds[1:-1])

    def batch(self, indices: IndexArray, room: Batch | None = None) -> Batch:
        """As ``ArrayLibrary.batch``, each input padded to the size that the rule gives; it does not use ``room``.

        Raises ``DataError`` for samples of different shapes that cannot be padded.
        """
        if len(indices) == 1 and not (self._rule is not None and self._rule.sizes):
            return self._alone(self._row(int(indices[0])))
        rows = self._rows(indices)
        batch: Batch = {}
        indexes: _Indexes = {}
        for name, block in self._held.items():
            if not isinstance(block, Ragged):
                batch[name] = block.take(rows, axis=0)
                continue
            shapes = block.shapes.take(rows, axis=0)
            shape = tuple(shapes.max(axis=0).tolist())
            opened = self._inputs.get(name, OpenSizes(()))
            if self._rule is None:
                if not (shapes == shapes[0]).all():
                    raise DataError(f"{self.name}: samples of different shapes in a batch of {name!r}, not padded")
            elif self._rule.sizes:
                shape = tuple(self._rule.next(size) if axis in opened.axes else size for axis, size in enumerate(shape))
            # Whether padding stands only behind all values of a sample.
            behind = self._rule is None or (len(opened.axes) == 1 and math.prod(shape[: opened.axes[0]]) == 1)
            batch[name] = _padded(block, rows, shape, opened.padding, behind, indexes)
        return batch if self._arrangement is None else self._arrangement(batch)

    def alone(self, index: int) -> Batch:
        """The batch of one loaded sample without padding, whatever the rule: views.  Raises ``NotLoadedError``."""
        return self._alone(self._row(index))

    def _alone(self, row: int) -> Batch:
        batch: Batch = {}
        for name, block in self._held.items():
            if not isinstance(block, Ragged):
                batch[name] = block[row : row + 1]
                continue
            values, offsets, shapes = block
            values = values[offsets[row] : offsets[row + 1]]
            batch[name] = values[None] if shapes.shape[1] == 1 else values.reshape(1, *shapes[row].tolist())
        return batch if self._arrangement is None else self._arrangement(batch)

    def _row(self, index: int) -> int:
        """Where a loaded sample lies.  Raises ``NotLoadedError``."""
        row: int = self._position_of[index] if 0 <= index < self.total_count else self._sizes.size
        if row >= self._sizes.size:
            raise self._not_loaded(np.array([index]))
        return row

    def _rows(self, indices: IndexArray) -> Int64Array:
        """Where loaded samples lie.  Raises ``NotLoadedError``."""
        try:
            rows = self._position.take(indices)
        except IndexError:
            raise self._not_loaded(indices) from None
        if not len(rows) or rows.max() >= self._sizes.size or (indices.dtype.kind != "u" and indices.min() < 0):
            raise self._not_loaded(indices)
        return rows

    def _hold(self, samples: Mapping[str, Array | Ragged], indices: IndexArray) -> None:
        known: list[Ragged] = []
        self._held = {}
        for name, given in samples.items():
            block = _checked(f"{self.name}: {name}", given, indices)
            if isinstance(block, Ragged):
                # Inputs of equal shapes share these, and then the index of a batch too.
                same = next((seen for seen in known if np.array_equal(seen.shapes, block.shapes)), None)
                if same is None:
                    known.append(block)
                else:
                    block = block._replace(offsets=same.offsets, shapes=same.shapes)
            self._held[name] = block
        self._measure(indices)

    def _measure(self, indices: IndexArray) -> None:
        """Find the sizes of what is held.  Raises ``DataError``."""
        open_sizes: list[Int64Array] = []
        shapes: list[Int64Array] = []
        named: dict[str, tuple[str, Int64Array]] = {}
        for name, block in self._held.items():
            if not isinstance(block, Ragged):
                continue
            axes = self._inputs[name].axes if name in self._inputs else tuple(range(block.shapes.shape[1]))
            sizes = block.shapes[:, list(axes)]
            if not any(np.array_equal(sizes, seen) for seen in open_sizes):
                open_sizes.append(sizes)
            shapes.append(block.shapes)
            for dim, column in zip(self._inputs[name].names if name in self._inputs else (), sizes.T, strict=False):
                first, other = named.setdefault(dim, (name, column)) if dim else (name, column)
                if (wrong := np.flatnonzero(other != column)).size:
                    at = wrong[0]
                    raise DataError(
                        f"{self.name}: sample {indices[at]} has the size {dim} {other[at]} in {first} and "
                        f"{column[at]} in {name}: give them one"
                    )
            if self._rule is None:
                continue
            other = np.delete(block.shapes, axes, axis=1)
            if (other != other[:1]).any():
                raise DataError(f"{self.name}: the samples of {name} differ in a size that is not open")
            if self._rule.sizes and (long := np.flatnonzero((sizes > self._rule.sizes[-1]).any(axis=1))).size:
                raise DataError(
                    f"{self.name}: sample {indices[long[0]]} has the size {sizes[long[0]].max()} in {name}, more than "
                    f"--pad {self._rule} takes: give at least {sizes.max()}, or longest"
                )
        self._open_sizes = open_sizes
        self._sizes = np.max([sizes.prod(axis=1) for sizes in open_sizes], axis=0)
        self._sizes_at = self._sizes.data
        # By size first, so that the numbers of shapes are in the order of sizes.
        keys = np.column_stack([self._sizes, *shapes])
        self._shape_numbers = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)

    def _forget(self) -> None:
        super()._forget()
        self._held = {}
        self._open_sizes = []
        self._sizes = self._shape_numbers = np.empty(0, np.int64)


def _checked(what: str, samples: Array | Ragged, indices: IndexArray) -> Array | Ragged:
    """The samples of these indices, ready for batches.  Raises ``DataError`` unless they are well formed."""
    if not isinstance(samples, Ragged):
        if len(samples) != indices.size:
            raise DataError(f"{what}: {len(samples)} samples were read for {indices.size} indices")
        return np.ascontiguousarray(samples)
    values, offsets, shapes = samples
    elements = shapes.prod(axis=1)
    if len(shapes) != indices.size:
        raise DataError(f"{what}: {len(shapes)} samples were read for {indices.size} indices")
    if not np.array_equal(offsets, offsets_of(elements)) or offsets[-1] != values.size:
        raise DataError(f"{what}: its {values.size} values, offsets and shapes do not fit together")
    if (empty := np.flatnonzero(elements == 0)).size:
        raise DataError(f"{what}: sample {indices[empty[0]]} is empty")
    return Ragged(np.ascontiguousarray(values), offsets.astype(np.int64), shapes.astype(np.int64))


def _padded(
    block: Ragged, rows: Int64Array, shape: tuple[int, ...], padding: Any, behind: bool, indexes: _Indexes
) -> Array:
    """These samples in one array of shape (n, *shape).  ``behind``: padding stands only after a sample's values."""
    values, offsets, shapes = block
    count, width = len(rows), math.prod(shape)
    starts, ends = offsets.take(rows), offsets.take(rows + 1)
    if padding is None or (values.dtype.hasobject and not padding):
        padding = b"" if values.dtype.hasobject else 0
    if count == 1 and ends[0] - starts[0] == width:
        return values[starts[0] : ends[0]].reshape(1, *shape)
    if behind and count >= _FEW_ROWS and width <= _LARGE_ROW:
        key = (id(offsets), width)
        if key not in indexes:
            column = np.arange(width)
            indexes[key] = starts[:, None] + column, column >= (ends - starts)[:, None]
        index, beyond = indexes[key]
        padded: Array = values.take(index, mode="clip")
        np.putmask(padded, beyond, padding)
        return padded.reshape(count, *shape)
    padded = np.full((count, *shape), padding, values.dtype)
    flat = padded.reshape(count, width)
    for at, (row, start, end) in enumerate(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)):
        if behind:
            flat[at, : end - start] = values[start:end]
        else:
            padded[at][tuple(map(slice, shapes[row].tolist()))] = values[start:end].reshape(shapes[row])
    return padded
