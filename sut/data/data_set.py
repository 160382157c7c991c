"""Samples from a data set's library."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drumfire.loadgen.system import Batch, SampleLibrary
from drumfire.sut.data.inputs import InputError, Inputs, Sample, inputs_text, shape_text
from drumfire.sut.data.library import Array, paired, with_names
from drumfire.sut.data.ragged import RaggedLibrary
from drumfire.sut.kserve.messages.tensors import (
    DATATYPES,
    LEFT_OUT,
    ModelInterface,
    Shape,
    Tensor,
    TensorSpec,
    as_tensor,
)


class DataSet(Inputs):
    """The samples of ``library``, for a model whose inputs have the same names; a single input may have any name.

    Loads each sample when it is read and unloads it, so nothing else may use the library meanwhile.
    """

    def __init__(self, library: SampleLibrary, interface: ModelInterface) -> None:
        """Raises ``InputError`` if the samples do not fit the model."""
        self.name, self.total_count, self.description = library.name, library.total_count, f"data set {library.name}"
        self._library = with_names(library)
        rows = self._rows(0)
        samples = f"{library.name} has samples of {_text(rows)}"
        specs = {spec.name: spec for spec in interface.inputs if spec.name in rows or not spec.optional}
        names = paired(specs, rows)
        if names is None:
            raise InputError(f"{samples}, which fit {_inputs(rows)}, but {inputs_text(interface)}")
        self._taken: list[tuple[TensorSpec, str, Shape] | None] = []
        """Each input's array in the library, and the shape of the first sample; None for an input that is left out."""
        for spec in interface.inputs:
            name = spec.name
            if name not in specs:
                self._taken.append(None)
                continue
            row = rows[names[name]]
            shape = row.shape
            if interface.max_batch_size == 0 and spec.fits((1, *shape)):
                # A model that the server does not batch may still have a batch dimension.
                shape = (1, *shape)
            # BF16 is uint16 in numpy, but 16-bit pixels are not floats.
            right_type = spec.datatype != "BF16" and row.dtype.newbyteorder("<") == DATATYPES.get(spec.datatype)
            if not right_type or not spec.fits(shape):
                raise InputError(f"{samples}, but the model takes {spec}")
            self._taken.append((spec, names[name], shape))

    def shapes(self, index: int) -> Sequence[Shape]:
        if isinstance(self._library, RaggedLibrary):
            return super().shapes(index)
        return [() if taken is None else taken[2] for taken in self._taken]

    def sample(self, index: int) -> Sample:
        rows = self._rows(index)

        def tensor(spec: TensorSpec, name: str, shape: Shape) -> Tensor:
            row = np.asarray(rows[name], DATATYPES[spec.datatype])
            # Samples may differ in size: the first shows only which sizes the model has before the sample's own.
            return as_tensor(row.reshape((*shape[: len(shape) - row.ndim], *row.shape)), spec)

        return tuple(LEFT_OUT if taken is None else tensor(*taken) for taken in self._taken)

    def _rows(self, index: int) -> Batch:
        indices = np.array([index])
        self._library.load(indices)
        rows: Batch = {name: np.array(array[0]) for name, array in self._library.batch(indices).items()}
        self._library.unload(indices)
        return rows


def _text(rows: Batch) -> str:
    def text(row: Array) -> str:
        return f"{row.dtype} {shape_text(row.shape)}"

    if len(rows) == 1:
        return text(*rows.values())
    return ", ".join(f"{name} {text(row)}" for name, row in rows.items())


def _inputs(rows: Batch) -> str:
    return "one input" if len(rows) == 1 else f"inputs of these {len(rows)} names"
