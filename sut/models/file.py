"""A bare model file with any network, run on random samples that it takes, or on the user's.

Judged where the user has labels, by a metric; otherwise only its speed is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.responses import Responses
from drumfire.loadgen.system import IndexArray, SampleLibrary
from drumfire.sut import models
from drumfire.sut.data import DataError
from drumfire.sut.data.inputs import InputError, Inputs
from drumfire.sut.data.library import Array, ArrayLibrary
from drumfire.sut.data.options import InputOptions, Values
from drumfire.sut.data.ragged import Ragged, RaggedLibrary
from drumfire.sut.data.random_values import range_advice
from drumfire.sut.data.sizes import disagreement
from drumfire.sut.data.sources import open_inputs
from drumfire.sut.kserve.errors import one_line
from drumfire.sut.kserve.messages.tensors import (
    DATATYPES,
    LEFT_OUT,
    Shape,
    Tensor,
    TensorError,
    TensorSpec,
    pack_bytes,
    unpack_bytes,
)
from drumfire.sut.local.backends import Backend, BackendError
from drumfire.sut.local.backends.arranged import with_outputs
from drumfire.sut.models import vocabulary
from drumfire.sut.models.fitted import Fitted, fitted
from drumfire.sut.models.metrics import Metric
from drumfire.sut.models.model import Accuracy, Form
from drumfire.sut.models.tensors import Input, Tensors

_MADE_UP = (None, "random", "zero")
"""The sources whose samples have the sizes that the user says."""
_IN_MEMORY = 500
"""Samples, if there are that many and the user does not say otherwise."""


class FileModel:
    """A model named by its path.  Its tensors and samples are known once a backend has loaded it: see ``learn``."""

    task = "any"
    description = "a model file, fed with random samples or the user's"
    licence = "the file's own"
    extra: str | None = None
    quality_target = 0.0
    target_latency_ms: int | None = None

    def __init__(
        self,
        path: Path,
        options: InputOptions | None = None,
        dataset_path: Path | None = None,
        *,
        judge: Metric | None = None,
        padded_to: int | None = None,
    ) -> None:
        """``dataset_path``: the folder of a named data set.  ``judge``: None without labels.

        ``padded_to``: the size of all batches, where the user gives one.  The user's samples may then be shorter, also
        where the file has this size and no other.
        """
        self.path, self.judge = path, judge
        self.name = path.stem
        self.tensors = Tensors()
        self.total_count = 0
        self.reservations: Sequence[str] = ()
        self._options, self._dataset_path, self._padded_to = options or InputOptions(), dataset_path, padded_to
        self._data: Inputs
        self._texts: str | None = None
        """The only encoding of texts that the backend takes."""

    def learn(self, backend: Backend) -> None:
        """Take from the loaded file what samples and answers need: its tensors, and their batch.

        Runs zeros of the first sample's sizes.  Raises ``BackendError``, ``InputError`` and ``UserError``.
        """
        sized = self.sized(backend.tensors.as_in_file)
        self._texts = getattr(backend, "texts", None)
        if self.judge is not None:
            self.judge.of_outputs(backend.tensors.outputs, backend.tensors.bfloat16_outputs)
        shapes = [self._first[position].shape for position, _ in self._specs]
        example = replace(sized, inputs=tuple(map(Input.with_sizes, sized.inputs, shapes)))
        if backend.tensors.has_batch and not example.has_batch:
            _check_grouped(backend, example)
        placed = with_outputs(backend, example.laid_out_as(backend.tensors))
        inputs = zip(self.tensors.inputs, placed.inputs, strict=True)
        self.tensors = replace(placed, inputs=tuple(mine._replace(batch_size=one.batch_size) for mine, one in inputs))
        if placed.batch_size == 1 != sized.batch_size:
            self.reservations = (*self.reservations, "an output has no batch, so each batch is one sample")

    def sized(self, tensors: Tensors) -> Tensors:
        """The file's ``tensors`` with the sizes that batches have; a size is open then only if samples differ in it.

        Opens the data on the first call, and returns the same again.  Raises ``BackendError`` and ``InputError``.
        """
        if not self.tensors.inputs:
            self._open(tensors)
        return self.tensors.with_open_sizes(self._padded_to) if self._padded_to else self.tensors

    def _open(self, tensors: Tensors) -> None:
        self._known = {name: Values(0, count - 1) for name, count in vocabulary.of(self.path, tensors).items()}
        try:
            fit, self._data = self._read_as(tensors, self._padded_to)
        except TensorError as error:
            raise BackendError(f"{self.path}: {error}") from None
        except InputError as error:
            raise InputError(f"{error}{self._shorter(tensors)}") from None
        grouped = tensors.batch if tensors.batch != fit.file.batch else ""
        tensors, specs = fit.file, fit.chosen.interface.inputs
        data = self._data
        self.total_count = data.total_count
        speed_only = ": speed only" if self.judge is None else ""
        self.reservations = (f"a bare model file on {data.description}{speed_only}",)
        if grouped:
            self.reservations += (
                f"--dim {grouped}: a sample has several of {grouped}, the batch in the file, and samples a second "
                "count it as one",
            )
        if data.unread:
            self.reservations += (f"expected outputs are compared with a server's only: {data.unread} had no effect",)
        self._first = data.sample(0)
        self._specs = [(at, spec) for at, spec in enumerate(specs) if self._first[at] is not LEFT_OUT]
        left_out = [spec.name for at, spec in enumerate(specs) if self._first[at] is LEFT_OUT]
        if left_out:
            self.reservations += (
                f"left out, as the file has a value of its own: {one_line(', '.join(left_out), 200)} "
                "(--shape NAME=SHAPE sends random ones)",
            )
        self._shared = self._shared_inputs(tensors)
        inputs = [tensors.inputs[position] for position, _ in self._specs]
        self._examples = self._different(data)
        self.tensors = replace(tensors, inputs=tuple(map(_sized, inputs, self._shapes(data))))
        names = [_dims(*pair) for pair in zip(inputs, self.tensors.inputs, strict=True)]
        for shapes, index in self._examples.items():
            sample = zip(self._specs, names, strict=True)
            if uneven := disagreement((spec.name, shapes[position], dims) for (position, spec), dims in sample):
                raise InputError(f"{data.place(index)}: {uneven}")

    def _read_as(self, tensors: Tensors, padded_to: int | None) -> tuple[Fitted, Inputs]:
        """The file's inputs, and the samples: those of the user may be shorter than ``padded_to``."""
        fit = fitted(self.path, tensors, self._options, None if self._source in _MADE_UP else padded_to)
        return fit, open_inputs(
            self._source, fit.chosen, data_set=self._data_set(), known=self._known, unread=tensors.outputs
        )

    def _shorter(self, tensors: Tensors) -> str:
        """What helps if the samples were refused as they are shorter than the file's inputs; empty if they are not."""
        if self._source in _MADE_UP:
            return ""
        for size in {spec.shape[0] for spec in tensors.specs if len(spec.shape) == 1 and spec.shape[0] > 1}:
            with suppress(InputError):
                fit, data = self._read_as(tensors, size)
                opened = [at for at, spec in enumerate(fit.chosen.interface.inputs) if spec.shape == (-1,)]
                if opened and all(
                    data.shapes(index)[at] <= (size,) for index in range(data.total_count) for at in opened
                ):
                    return f" (--pad {size} pads shorter samples)"
        return ""

    @property
    def _source(self) -> str | None:
        return self._options.input_data

    def _data_set(self) -> SampleLibrary | None:
        """The named data set that the user asks for; None for other data.  Raises what its library raises."""
        if self._source in models.MODELS:
            return models.get(str(self._source)).library(self._dataset_path)
        if self._dataset_path is not None:
            raise DataError("--dataset-path is the folder of a named data set: give other data with --input-data")
        return None

    def _shared_inputs(self, tensors: Tensors) -> frozenset[int]:
        """The positions of inputs without a batch beside others that have one: samples of a batch share their values.

        Raises ``InputError`` if the user's samples have different ones.
        """
        shared = [at for at, _ in self._specs if tensors.has_batch and tensors.inputs[at].batch_axis is None]
        if self._source in _MADE_UP or not shared:
            return frozenset(shared)
        for index in range(self.total_count):
            sample = self._data.sample(index)
            for at in shared:
                if sample[at] != self._first[at]:
                    raise InputError(
                        f"{self._data.description}: sample {index} has another {tensors.inputs[at].name} than sample "
                        f"0, and {self.path.name} takes one for a whole batch: give samples that share it"
                    )
        return frozenset(shared)

    def shapes_of(self, count: int) -> int:
        """How many different shapes the first ``count`` samples have, where the file leaves a size open."""
        return sum(index < count for index in self._examples.values())

    def _different(self, data: Inputs) -> dict[tuple[Shape, ...], int]:
        """The shapes that samples have, and the first sample of each; none where all sizes are known."""
        found: dict[tuple[Shape, ...], int] = {}
        if any(-1 in spec.shape for _, spec in self._specs):
            for index in range(data.total_count):
                found.setdefault(tuple(data.shapes(index)), index)
        return found

    def _shapes(self, data: Inputs) -> list[npt.NDArray[np.int64]]:
        """The different shapes that samples have, by input: (n, sizes).  Raises ``InputError``."""
        if not self._examples:
            return [np.array([spec.shape], np.int64) for _, spec in self._specs]
        found = []
        for position, spec in self._specs:
            try:
                found.append(np.array(sorted({shapes[position] for shapes in self._examples}), np.int64))
            except ValueError:  # of different lengths, so some samples do not have this optional input
                raise InputError(_uneven(data, spec)) from None
        return found

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        return given or self.path

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> SampleLibrary:
        """The samples, the same in every run."""
        total = min(count or self.total_count, self.total_count)
        kind = RaggedLibrary if self.tensors.has_open_sizes else ArrayLibrary
        return kind(self.name, self._read, total, min(performance_count or _IN_MEMORY, total))

    def _read(self, indices: IndexArray) -> dict[str, Any]:
        samples = [self._data.sample(index) for index in indices.tolist()]
        batch: dict[str, Array | Ragged] = {}
        for (position, spec), one in zip(self._specs, self.tensors.inputs, strict=True):
            tensors = [sample[position] for sample in samples]
            if position in self._shared:
                tensors = [self._first[position]] * len(tensors)
            if LEFT_OUT in tensors:
                raise InputError(_uneven(self._data, spec))
            values = _values(tensors, spec)
            shapes = np.array([tensor.shape for tensor in tensors], np.int64).reshape(len(tensors), len(spec.shape))
            ragged = Ragged.shaped(values, shapes)
            if spec.datatype == "BYTES" and self._texts is not None:
                self._check_texts(ragged, indices)
            if (known := self._known.get(spec.name)) is not None:
                self._check_rows(ragged, indices, known, spec)
            batch[spec.name] = ragged if None in one.sample_shape else values.reshape(-1, *tensors[0].shape)
        return batch

    def _check_texts(self, samples: Ragged, indices: IndexArray) -> None:
        """Raise ``InputError`` for a text that the backend does not take."""
        for at, text in enumerate(samples.values):
            try:
                text.decode(self._texts)
            except UnicodeDecodeError as error:
                index = int(indices[samples.offsets.searchsorted(at, "right") - 1])
                raise InputError(
                    f"{self._data.place(index)}: byte {error.start} is not {self._texts}, which the texts of this "
                    "backend must be"
                ) from None

    def _check_rows(self, samples: Ragged, indices: IndexArray, known: Values, spec: TensorSpec) -> None:
        """Raise ``InputError`` for a value that the model's table does not have; -1 is its last."""
        count, values = int(known.most) + 1, samples.values
        wrong = np.flatnonzero((values >= count) | (values < -count))
        if wrong.size:
            index = int(indices[samples.offsets.searchsorted(wrong[0], "right") - 1])
            advice = f" (random values of these: --range {spec.name}={known})" if self._source in _MADE_UP else ""
            raise InputError(
                f"{self._data.place(index)}: {spec.name} has the value {values[wrong[0]]}, and the model looks it up "
                f"in a table of the rows {known}{advice}"
            )

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> Responses:
        """What the metric makes of the outputs; without one, the values of the output, or the bytes of all of them."""
        if self.judge is not None:
            return self.judge.respond(outputs)
        return outputs[0] if len(outputs) == 1 and not outputs[0].dtype.hasobject else OutputBytes(outputs)

    def logged(self, indices: IndexArray, responses: Responses) -> Responses:
        return responses if self.judge is None else self.judge.logged(indices, responses)

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        if self.judge is None:
            raise ValueError("a bare model file has no labels, so its accuracy is unknown")
        return self.judge.accuracy(indices, responses)

    def advice(self, error: str) -> str:
        """What helps where the network fails on the data with this error; empty if nothing is known."""
        if self._source not in (None, "random"):
            return ""
        return range_advice(error, [spec for _, spec in self._specs], self._known)


class OutputBytes(Sequence[bytes]):
    """A batch's responses: the bytes of all outputs of a sample in their order, BYTES as KServe packs them.

    Made when they are read, as only an accuracy run does.
    """

    def __init__(self, outputs: Sequence[Array]) -> None:
        """``outputs``: each of shape (n, ...)."""
        self._outputs = outputs

    def __len__(self) -> int:
        return len(self._outputs[0])

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[at] for at in range(len(self))[row]]
        return b"".join(
            pack_bytes(output[row].reshape(-1).tolist() if output.ndim > 1 else [output[row]])
            if output.dtype.hasobject
            else output[row].tobytes()
            for output in self._outputs
        )


def _check_grouped(backend: Backend, example: Tensors) -> None:
    """Raise ``InputError`` where the user made the batch a size of the sample, and every output has the batch too.

    ``example``: the tensors with the sizes of a sample.
    """
    file = backend.tensors
    sizes = {one.name: list(one.sample_shape) for one in example.laid_out_as(file).inputs}
    inputs = []
    for one in file.inputs:
        if (shape := sizes.get(one.name)) is not None:
            if one.batch_axis is not None:
                shape.pop(one.batch_axis)
            one = one._replace(sample_shape=tuple(shape))
        inputs.append(one)
    with suppress(BackendError):  # a model that takes no other batch needs the user's
        if with_outputs(backend, replace(file, inputs=tuple(inputs))).batch_size is None:
            raise InputError(
                f"--dim {file.batch}: this is the batch of the model, whose size --max-batchsize gives: leave it out"
            )


def _sized(one: Input, shapes: npt.NDArray[np.int64]) -> Input:
    """The input with the sizes that all samples have, None where these are not the file's; ``shapes``: all of them."""
    varies = (shapes != shapes[:1]).any(axis=0).tolist()
    sizes = zip(one.sample_shape, shapes[0].tolist(), varies, strict=True)
    return one._replace(
        sample_shape=tuple(None if varied or known not in (None, size) else size for known, size, varied in sizes)
    )


def _dims(file: Input, one: Input) -> list[str]:
    """The names of the input's sizes; one that the file fixes, and that samples are padded to, is named as itself."""
    sizes = zip(file.size_names, file.sample_shape, one.sample_shape, strict=True)
    return [name if known is None or size is not None else str(known) for name, known, size in sizes]


def _values(tensors: Sequence[Tensor], spec: TensorSpec) -> Array:
    """All elements of samples, one after the other."""
    content = b"".join(tensor.data for tensor in tensors)
    if spec.datatype != "BYTES":
        return np.frombuffer(content, DATATYPES[spec.datatype])
    elements = unpack_bytes(content)
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array


def _uneven(data: Inputs, spec: TensorSpec) -> str:
    return (
        f"{data.description}: some samples have the optional input {spec.name} and some do not: give it to all or none"
    )
