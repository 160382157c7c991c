"""Any judgement by a function of the outputs and the labels: equality, and the functions of users and of packages."""

from __future__ import annotations

import contextlib
import io
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from drumfire.loadgen.errors import UserError, described
from drumfire.loadgen.responses import Responses, as_bytes
from drumfire.loadgen.system import IndexArray
from drumfire.sut.data import DataError
from drumfire.sut.models.metrics.labels import Labels, plain, read_labels
from drumfire.sut.models.metrics.metric import Array, Metric, Outputs
from drumfire.sut.models.model import Accuracy, first_answers
from drumfire.sut.plugins import imported

_MOST_SEARCH_S = 5.0
"""How long a function that fails is called again to find the sample."""
Scorer: TypeAlias = Callable[[Sequence[Any], Any], Any]
"""``score(outputs, labels)``: each output of the answered samples, shape (n, ...), and their n labels.

Returns whether each answer is right, n times bool, or one number from 0 to 1.  An output whose samples differ in shape
is a list of n arrays.
"""


class Scored(Metric):
    """Judged by a function of the outputs: an answer is its outputs as .npy files, one after the other."""

    def __init__(self, output: str, score: Scorer | str, written: str) -> None:
        """Without ``output``, the function takes all.  ``score`` may be its place, ``MODULE:FUNCTION``."""
        super().__init__(output)
        self._score, self.written = score, written
        self.name = written.rpartition(":")[2]

    @cached_property
    def labels(self) -> Labels:
        """One for each sample."""
        return plain(read_labels(self._file))

    @property
    def count(self) -> int:
        return len(self.labels)

    @cached_property
    def score(self) -> Scorer:
        """The function.  Raises ``UserError`` where there is none."""
        return _function(self._score) if isinstance(self._score, str) else self._score

    def prepare(self) -> None:
        _ = self.score
        super().prepare()

    def answers(self, outputs: Outputs) -> list[bytes]:
        columns = [_npy(output) for output in outputs]
        return [b"".join(parts) for parts in zip(*columns, strict=True)]

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        """Raises ``UserError`` also for a function that raises, or returns what is not a score."""
        samples, first = first_answers("the data", self.count, indices, responses)
        if not samples.size:
            return self._scored(None, 0.0, 0)
        answers = list(as_bytes(responses))
        outputs = [_stacked(column) for column in zip(*(_read(answers[at]) for at in first), strict=True)]
        if isinstance(self.labels, np.ndarray):
            labels: Any = self.labels[samples]
        else:
            labels = [self.labels[at] for at in samples]
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output is the result's
                found = np.asarray(self.score(outputs, labels))
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # a user's function may raise anything, and end the program
            at = self._fails_at(outputs, labels)
            where = "" if at is None else f", first with sample {samples[at]}"
            raise UserError(f"--metric {self.written} cannot judge the answers{where}: {described(error)}") from error
        if found.dtype == bool and found.shape == samples.shape:
            good = int(found.sum())
            return self._scored(good, good / samples.size, samples.size)
        if found.ndim == 0 and found.dtype.kind in "fiu" and 0 <= found <= 1:
            return self._scored(None, float(found), samples.size)
        raise UserError(
            f"--metric {self.written} returned {found.dtype} of shape {list(found.shape)}: it must return "
            f"{samples.size} values of bool, or a number from 0 to 1"
        )

    def _fails_at(self, outputs: Sequence[Any], labels: Any) -> int | None:
        """The position of the first sample with which the function fails; None if that takes long to find.

        It does with all of them, and is called with fewer to find out.
        """
        fine, failing, until = 0, len(labels), time.monotonic() + _MOST_SEARCH_S
        while failing - fine > 1:
            if time.monotonic() > until:
                return None
            count = (fine + failing) // 2
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    self.score([output[:count] for output in outputs], labels[:count])
            except (Exception, SystemExit):
                failing = count
            else:
                fine = count
        return failing - 1

    def _chosen(self, names: Sequence[str]) -> int | None:
        return super()._chosen(names) if self.output else None


class Exact(Scored):
    """Whether the output is its label, value by value."""

    def __init__(self, output: str = "") -> None:
        super().__init__(output, _equal, "exact")

    @cached_property
    def labels(self) -> Labels:
        """As in the file: where the model gives texts, 007 is not 7."""
        return read_labels(self._file)

    def _chosen(self, names: Sequence[str]) -> int | None:
        return Metric._chosen(self, names)

    def _check_labels(self, shape: tuple[int, ...]) -> None:
        wanted = tuple(size for size in shape if size != 1)
        first = self.labels[:1] if isinstance(self.labels, np.ndarray) else self.labels  # all of an array are alike
        for at, label in enumerate(first):
            values = _values(label)
            if values.squeeze().shape != wanted:
                raise DataError(
                    f"{self._file}: label {at + 1} has the shape {list(values.shape)}, and the model's output "
                    f"{list(shape)} for a sample: give the values that it should have"
                )


def _function(place: str) -> Scorer:
    """The function at ``MODULE:FUNCTION``, which may be in the current folder."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = imported(place)
    except (Exception, SystemExit) as error:  # a user's module may raise anything, and end the program
        raise UserError(f"--metric {place} cannot be imported: {described(error)}") from None
    finally:
        if added:
            sys.path.remove(here)
    if not callable(found):
        raise UserError(f"--metric {place} is not a function: it must take the outputs and the labels")
    scorer: Scorer = found
    return scorer


def _equal(outputs: Sequence[Any], labels: Any) -> list[bool]:
    """Whether each sample's output has the values of its label.  Raises ``UserError`` if no shape is the label's."""
    pairs = [(got, _as(want, got)) for got, want in zip(outputs[0], labels, strict=True)]
    alike = [got.squeeze().shape == want.squeeze().shape for got, want in pairs]
    if not any(alike):
        got, want = pairs[0]
        raise UserError(
            f"the model's output is {got.dtype} of shape {list(got.shape)} for a sample, and no label has that shape: "
            f"the first has {list(want.shape)}"
        )
    same = zip(alike, pairs, strict=True)
    return [fits and bool((got.squeeze() == want.squeeze()).all()) for fits, (got, want) in same]


def _as(label: Any, output: Array) -> Array:
    """A label as values to compare with the output's: texts in UTF-8, and numbers."""
    want = _values(label)
    if output.dtype.kind == "S":
        if want.dtype.kind not in "SU":
            raise UserError(f"the model gives texts, and the label {label!r:.60} is not a text: give texts")
        return want if want.dtype.kind == "S" else np.char.encode(want, "utf-8")
    if want.dtype.kind not in "SU":
        return want
    number = plain(want.astype(str).reshape(-1).tolist())
    if not isinstance(number, np.ndarray):
        raise UserError(f"the model gives {output.dtype}, and the label {label!r:.60} is not a number")
    return number.reshape(want.shape)


def _values(label: Any) -> Array:
    try:
        values = np.asarray(label)
    except ValueError:  # lists of different lengths
        values = np.array(None)
    if values.dtype.hasobject:
        raise UserError(f"the label {label!r:.60} is not a value: give numbers, texts or lists of one shape")
    return values


def _npy(output: Array) -> list[bytes]:
    """Each sample of the output as a .npy file."""
    if output.dtype.hasobject:
        texts = [value.encode() if isinstance(value, str) else bytes(value) for value in output.flat]
        output = np.array(texts, np.bytes_).reshape(output.shape)
    head = io.BytesIO()
    about = {"descr": output.dtype.str, "fortran_order": False, "shape": output.shape[1:]}
    np.lib.format.write_array_header_1_0(head, about)
    start = head.getvalue()
    # Not row by row: a row of a column of texts is bytes, without the NULs at its end.
    data, size = output.tobytes(), math.prod(output.shape[1:]) * output.itemsize
    return [start + data[row * size : (row + 1) * size] for row in range(len(output))]


def _read(answer: bytes) -> list[Array]:
    """The arrays of one answer."""
    file, found = io.BytesIO(answer), []
    while file.tell() < len(answer):
        found.append(np.lib.format.read_array(file, allow_pickle=False))
    return found


def _stacked(column: Sequence[Array]) -> Sequence[Any] | Array:
    """One array where the samples have one shape."""
    if len({array.shape for array in column}) > 1:
        return column
    together: Array = np.stack(column)
    return together
