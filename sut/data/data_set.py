"""Samples from a data set's library, for a model of one input."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import SampleLibrary
from drumfire.sut.data.inputs import InputError, Inputs, Sample, inputs_text, shape_text
from drumfire.sut.kserve.messages.tensors import DATATYPES, ModelInterface, as_tensor


class DataSet(Inputs):
    """The samples of ``library``, for a model of one input of any name.

    Loads each sample when it is read and unloads it, so nothing else may use the library meanwhile.
    """

    def __init__(self, library: SampleLibrary, interface: ModelInterface) -> None:
        """Raises ``InputError`` if the samples do not fit the model."""
        self.name, self.total_count, self.description = library.name, library.total_count, f"data set {library.name}"
        self._library = library
        row = self._row(0)
        samples = f"{library.name} has samples of {row.dtype} {shape_text(row.shape)}"
        if len(interface.inputs) != 1:
            raise InputError(f"{samples}, which fit one input, but {inputs_text(interface)}")
        self._spec = spec = interface.inputs[0]
        self._shape = row.shape
        if interface.max_batch_size == 0 and spec.fits((1, *row.shape)):
            # A model that the server does not batch may still have a batch dimension.
            self._shape = (1, *row.shape)
        # BF16 is uint16 in numpy, but 16-bit pixels are not floats.
        right_type = spec.datatype != "BF16" and row.dtype.newbyteorder("<") == DATATYPES.get(spec.datatype)
        if not right_type or not spec.fits(self._shape):
            raise InputError(f"{samples}, but the server's model takes {spec}")

    def sample(self, index: int) -> Sample:
        row = np.asarray(self._row(index), DATATYPES[self._spec.datatype])
        return (as_tensor(row.reshape(self._shape), self._spec),)

    def _row(self, index: int) -> npt.NDArray[Any]:
        indices = np.array([index])
        self._library.load(indices)
        row: npt.NDArray[Any] = np.array(self._library.batch(indices)[0])
        self._library.unload(indices)
        return row
