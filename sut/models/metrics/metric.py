"""What a metric is: it makes the answers of a network's outputs, where the model runs, and judges them by labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.errors import UserError, printable
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.system import IndexArray
from drumfire.loadgen.wording import counted
from drumfire.sut.data import DataError
from drumfire.sut.models.model import Accuracy

Array = npt.NDArray[Any]
Outputs: TypeAlias = Sequence[Array]


class Metric(ABC):
    """Makes answers of a network's outputs, and judges them by labels."""

    name: str
    """In results, such as ``top-1``."""
    written: str
    """In options, such as ``top1``."""
    labels_file: Path | None = None
    quality_target: float | None = None
    """A fraction, 0 to 1; None: the accuracy is shown without a verdict."""

    def __init__(self, output: str = "") -> None:
        """``output``: the name of the one that is judged; the only one without."""
        self.output = output
        self._position: int | None = 0
        self._bfloat16: Sequence[int] = ()
        self._shape: tuple[int, ...] | None = None
        """Of the judged output for a sample, where it is known before the run."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many labels there are."""

    @abstractmethod
    def answers(self, outputs: Outputs) -> Responses:
        """The answers to one batch, from the judged output alone, or from all where none is chosen."""

    @abstractmethod
    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        """See ``Model.accuracy``."""

    def of_outputs(
        self,
        names: Sequence[str],
        bfloat16: frozenset[str] = frozenset(),
        shapes: Sequence[Sequence[int | None] | None] = (),
    ) -> None:
        """Learn what the network gives, in this order.  Raises ``UserError``.

        Those in ``bfloat16`` are its bits.  ``shapes`` are those of a sample, None for what is not known of them.
        """
        self._position = self._chosen(names)
        shape = None if self._position is None or not shapes else shapes[self._position]
        self._shape = None if shape is None or None in shape else tuple(size for size in shape if size is not None)
        self._bfloat16 = [at for at, name in enumerate(names) if name in bfloat16]

    def respond(self, outputs: Outputs) -> Responses:
        """See ``Model.respond``.  Raises ``OutputError`` for outputs that the metric cannot judge."""
        if self._bfloat16:
            outputs = [_widened(output) if at in self._bfloat16 else output for at, output in enumerate(outputs)]
        return self.answers(outputs if self._position is None else (outputs[self._position],))

    def logged(self, indices: IndexArray, responses: Responses) -> Responses:
        """See ``Model.logged``: unchanged."""
        return responses

    def prepare(self) -> None:
        """Read the labels, and find all that judging needs.  Raises ``UserError``."""
        _ = self.count

    def check(self, samples: int, asked: int | None) -> None:
        """Raise ``UserError`` unless there is a label for each of ``samples``, which the output can have.

        ``asked`` are those of ``--count``.
        """
        given = self.count
        if given != samples and not (asked is not None and samples == asked and given > samples):
            raise DataError(
                f"{self.labels_file} has {counted(given, 'label')} for {counted(samples, 'sample')}: give one for "
                "each, in the order of the samples"
                + (f" (--count {given} uses the first {given} samples)" if given < samples else "")
            )
        if self._shape is not None:
            self._check_labels(self._shape)

    def _check_labels(self, shape: tuple[int, ...]) -> None:  # noqa: B027 - a metric may be for any
        """Raise ``UserError`` for a label that an output of this shape never has."""

    def _chosen(self, names: Sequence[str]) -> int | None:
        if not self.output:
            if len(names) > 1:
                raise UserError(
                    f"the model gives {', '.join(names)}: say which output --metric judges, such as "
                    f"{self.written}:{names[0]}"
                )
            return 0
        if self.output not in names:
            raise UserError(f"--metric {self.written}:{printable(self.output):.60}: the model gives {', '.join(names)}")
        return list(names).index(self.output)

    @property
    def _file(self) -> Path:
        assert self.labels_file is not None, "judged without labels"
        return self.labels_file

    def _scored(self, good: int | None, value: float, total: int) -> Accuracy:
        return Accuracy(self.name, value, good, total, self.quality_target)


def _widened(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Bfloat16's bits as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
